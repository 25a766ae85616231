import HTTPTypes

/// How long a control client waits.
public struct ControlTimeouts: Sendable {
    /// Seconds for the TCP connection and the TLS handshake, each.
    public var connectSeconds = 10
    /// Seconds for an answer, from the request on.
    public var answerSeconds = 60

    /// The defaults.
    public init() {}
}

/// The answer of the control API to one request.
public struct ControlAnswer: Sendable {
    /// The HTTP status, such as 200.
    public var status: Int
    /// The fields of the head.
    public var headers: HTTPFields
    /// The body.
    public var body: [UInt8]
}
