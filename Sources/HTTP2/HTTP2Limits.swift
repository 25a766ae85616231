import Core

/// What one HTTP/2 connection may cost.
///
/// Every figure is a hard maximum for a single connection; the number of connections is limited by whoever
/// owns the
/// sockets.
public struct HTTP2Limits: Sendable, Equatable {
    /// Most bytes in one request's or response's header list, counted as RFC 9113 §6.5.2 does (32 more a
    /// field).
    public var headerBytes = 16 * 1024
    /// Most bytes in one message body that is gathered before it is delivered.
    public var bodyBytes = 1024 * 1024
    /// Most bytes that are taken, and thrown away, of a body that was refused as too large.
    public var drainBytes = 4 * 1024 * 1024
    /// Most bytes of unfinished request bodies held for all streams together.
    public var connectionBodyBytes = 4 * 1024 * 1024
    /// Most streams the peer may have open at once; RFC 9113 §6.5.2 advises against fewer than 100, and clients begin
    /// with as many before they have heard of the limit.
    public var concurrentStreams = 100
    /// Requests served before the peer is told, by GOAWAY, to open a new connection.
    public var requestsPerConnection = 1 << 28
    /// Most bytes of response bodies waiting to be sent on all streams together.
    public var outputBytes = 16 * 1024 * 1024
    /// Most frames waiting to be sent that are not body bytes, such as acknowledgements.
    public var outputFrames = 1024
    /// Streams that may end by a reset at once before the connection is given up (CVE-2023-44487,
    /// CVE-2025-8671).
    public var resetBurst = 100
    /// Resets a second that are given back to the budget.
    public var resetsPerSecond = 10
    /// Control frames (SETTINGS, PING, PRIORITY, WINDOW_UPDATE, empty DATA) taken at once. Frames of unknown
    /// types are skipped without work and are not counted.
    public var controlFrameBurst = 1000
    /// Control frames a second that are given back to the budget.
    public var controlFramesPerSecond = 100
    /// Bytes of receive window given to the peer for each stream.
    public var streamWindowBytes = 64 * 1024
    /// Bytes of receive window given to the peer for the whole connection; at least 65,535.
    public var connectionWindowBytes = 256 * 1024
    /// Seconds that a request may take from its first frame to its last.
    public var requestSeconds = 30
    /// Seconds that a whole answer may take from its first frame to its last.
    public var answerSeconds = 300
    /// Seconds that body bytes of an answer may wait for the peer to take any.
    public var stallSeconds = 60

    /// The values that a control connection starts from.
    public init() {}
}
