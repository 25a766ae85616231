import HTTP2

/// What the control server may be made to spend. Every figure is a hard maximum.
public struct ControlServerLimits: Sendable {
    /// Connections open at once. Beyond it the longest idle one without a certificate makes room, or else one of the
    /// caller that has the most.
    public var connections = 2500
    /// Requests at once of all callers but administrators, those that wait for their turn included; more are answered
    /// with 503. A caller may have as many as it leaves to others.
    public var requestsInFlight = 1024
    /// Requests at once of one caller, over all its connections.
    public var requestsInFlightPerCaller = 256
    /// Requests of one connection, those counted that the client has given up.
    public var requestsInFlightPerConnection = 128
    /// Requests in the hands of the handler at once, of all callers but administrators.
    public var requestsRunning = 32
    /// Requests in the hands of the handler at once, of one caller that is no administrator.
    public var requestsRunningPerCaller = 4
    /// Seconds from accepting a connection to the end of its TLS handshake.
    public var handshakeSeconds = 10
    /// Seconds without any request after which a connection with a certificate is closed.
    public var idleSeconds = 300
    /// Seconds without any request after which a connection without a certificate is closed.
    public var anonymousIdleSeconds = 30
    /// Seconds that the peer may take for one send of at most `sendBytes`.
    public var sendSeconds = 30
    /// Bytes that are encrypted and given to the socket at once.
    public var sendBytes = 64 * 1024
    /// Bytes of one streaming answer that wait for a slow client before its writer waits as well.
    public var streamBacklogBytes = 64 * 1024
    /// Bytes of answers that one caller has not read, over all its connections. Beyond it, or beyond what the
    /// caller leaves to others, the server ends each of its connections that an answer is added to. It does not
    /// count for administrators.
    public var unreadBytesPerCaller = 64 << 20
    /// Bytes of answers that all callers but administrators have not read.
    public var unreadBytes = 512 << 20
    /// Seconds of silence after which a streaming answer with a heartbeat sends it.
    public var heartbeatSeconds = 15
    /// Seconds that a connection is kept after its last byte was sent, so that the peer can read it.
    public var lingerSeconds = 2
    /// HTTP/2 limits of a connection with a certificate.
    public var http = HTTP2Limits()
    /// HTTP/2 limits of a connection without a certificate: health checks, and nodes that enrol.
    public var anonymousHTTP: HTTP2Limits = {
        var limits = HTTP2Limits()
        limits.bodyBytes = 64 * 1024
        limits.connectionBodyBytes = 256 * 1024
        limits.concurrentStreams = 16
        limits.outputBytes = 1024 * 1024
        return limits
    }()

    /// The defaults.
    public init() {}

    /// What of this the turns of requests go by.
    var turns: RequestTurns<(ControlRequest, ControlRequestID)>.Limits {
        var limits = RequestTurns<(ControlRequest, ControlRequestID)>.Limits()
        limits.all = requestsInFlight
        limits.perCaller = requestsInFlightPerCaller
        limits.running = requestsRunning
        limits.runningPerCaller = requestsRunningPerCaller
        return limits
    }
}
