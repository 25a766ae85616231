import HTTPTypes

/// The answer to a control request.
public struct ControlResponse: Sendable {
    /// What follows the head.
    public enum Body: Sendable {
        /// All of it.
        case bytes([UInt8])
        /// Pieces, written by a function that runs until the answer is complete or the client has gone. It is
        /// cancelled when the client goes away or the server stops.
        case stream(@Sendable (ControlResponseWriter) async -> Void)
    }

    /// The status, such as 200.
    public var status: HTTPResponse.Status
    /// The fields of the head; `content-length` is added.
    public var headers: HTTPFields
    /// What follows the head.
    public var body: Body
    /// What a streaming answer sends when it has been silent for `ControlServerLimits.heartbeatSeconds`; nil for
    /// nothing.
    public var heartbeat: [UInt8]?

    /// A whole answer.
    public init(status: HTTPResponse.Status, headers: HTTPFields = HTTPFields(), body: [UInt8] = []) {
        self.status = status
        self.headers = headers
        self.body = .bytes(body)
    }

    /// An answer in pieces, such as server-sent events.
    public init(
        status: HTTPResponse.Status, headers: HTTPFields,
        stream: @Sendable @escaping (ControlResponseWriter) async -> Void
    ) {
        self.status = status
        self.headers = headers
        self.body = .stream(stream)
    }
}

/// Answers control requests.
public protocol ControlHandler: Sendable {
    /// Answers one request. Many calls run at once; a call's task is cancelled when its client goes away.
    ///
    /// It starts on the control reactor's thread, so it must not block: waiting is done with `await`.
    nonisolated(nonsending) func respond(to request: ControlRequest) async -> ControlResponse

    /// Whether a request goes before all that wait, whoever sent them. On the control reactor's thread.
    func isUrgent(_ request: ControlRequest) -> Bool
}

extension ControlHandler {
    /// None does.
    public func isUrgent(_ request: ControlRequest) -> Bool { false }
}

/// Writes a streaming answer, piece by piece.
public struct ControlResponseWriter: Sendable {
    private let send: @Sendable ([UInt8]) async -> Bool

    init(send: @Sendable @escaping ([UInt8]) async -> Bool) { self.send = send }

    /// Sends a piece; waits while the client is slow, with at most a bounded amount of it in memory.
    ///
    /// - Returns: false when the client has gone: return from the streaming function.
    public func write(_ bytes: [UInt8]) async -> Bool { await send(bytes) }
}
