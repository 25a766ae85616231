import Core
import TLS
import Wire

/// How the data server is sized and how patient it is.
public struct DataServerOptions: Sendable {
    /// Data reactors, so threads.
    public var reactors = 1
    /// Pins reactor `i` to CPU `i` of this list; empty leaves placing to the scheduler.
    public var cpus: [Int] = []
    /// For how long a reactor looks for something to do before it sleeps, in nanoseconds; only while that usually is
    /// long enough.
    public var pollNanoseconds: UInt64 = 0
    /// Connections at once. When there are more, those that are missed least make room (`DataShard.makeRoom`).
    public var connectionsMax = 8192
    /// From accepting a connection to its HELLO, the TLS handshake included, in nanoseconds.
    public var helloNanoseconds = Limits.helloDeadlineSeconds * 1_000_000_000
    /// From the first to the last byte of one frame, in nanoseconds.
    public var frameNanoseconds = Limits.frameDeadlineSeconds * 1_000_000_000
    /// How long a peer may take for one piece of output, in nanoseconds.
    public var sendNanoseconds = Limits.sendDeadlineSeconds * 1_000_000_000
    /// How long a connection that was told to go may take to do so, in nanoseconds.
    public var lingerNanoseconds: UInt64 = 2_000_000_000
    /// How long requests in flight may take to be answered when the server ends, in nanoseconds.
    public var finishNanoseconds: UInt64 = 10_000_000_000
    /// How much ciphertext is made before it is sent, in bytes; one further reply may exceed it.
    public var outputBytesTarget = 256 << 10
    /// Of less that is under way it is half, so that one end works at one half while the other works at the other; but
    /// no less than this, in bytes.
    public var outputBytesLeast = 64 << 10
    /// Receive buffers of one reactor, a power of two, of 64 KiB each.
    public var receiveBufferCount = 128

    /// The defaults.
    public init() {}
}

extension Limits {
    /// Ciphertext that may be kept for a channel that the server does not read from, in bytes.
    static let unreadBytesMax = 8 << 20
    /// Ciphertext that may be kept for all channels of a reactor, in bytes: a node that has more of it than it leaves to
    /// others is read from piece by piece.
    static let unreadBytesMetered = 64 << 20
    /// And for all together that have opened nothing, in bytes.
    static let unreadBytesOfStrangers = 16 << 20
    /// How many connections there may be beyond the most, for the moment that it takes to end others.
    static let connectionsOverMost = 64
    /// What part of the most is ended together when there are too many.
    static let makeRoomPart = 64
    /// How often that may happen, in nanoseconds.
    static let makeRoomNanoseconds: UInt64 = 10_000_000
    /// For how long a connection that has not said HELLO has just come, in nanoseconds.
    static let newConnectionNanoseconds: UInt64 = 1_000_000_000
    /// For how long a client may take nothing of what is sent to it, or not go on writing, while others of its node wait
    /// for the buffers that it has, or the server for its end, in milliseconds.
    static let inTheWayMilliseconds: UInt32 = 2000
    /// How often that is looked at of one that ends with the server, in nanoseconds.
    static let deafLookNanoseconds: UInt64 = 250_000_000
    /// How long a client may take for one piece of output whose authority has ended, in nanoseconds.
    static let hurriedSendNanoseconds: UInt64 = 250_000_000
    /// Connections that wait to be accepted.
    static let acceptBacklog: Int32 = 4096
    /// How long accepting pauses when descriptors or memory ran out, in nanoseconds.
    static let acceptPauseNanoseconds: UInt64 = 100_000_000
    /// How long a connection that ends with the server may take to do so, in nanoseconds.
    static let lastLingerNanoseconds: UInt64 = 200_000_000
    /// After how many seconds of silence a client's machine is asked whether it is there, and how often; thrice in vain
    /// is the end.
    static let keepAliveSeconds: Int32 = 20
    static let keepAliveIntervalSeconds: Int32 = 5
    /// For how long a connection that is in another's way is probed each second.
    static let doubtNanoseconds: UInt64 = 10_000_000_000
    /// For how long the machine of a client that is in another's way may acknowledge nothing, in milliseconds.
    static let unheardMilliseconds: UInt32 = 2000
    /// Decrypted bytes that are looked at in one go.
    static let plaintextBytes = 64 << 10
    /// The plaintext of one full TLS record.
    static let recordBytes = 16 << 10
    /// Payload that is at least this long is decrypted straight to where it belongs.
    static let directBytesMin = 4096
    /// What one wake-up sends, and what it receives of those who send much, when several sessions share a reactor.
    static let sharedTurnBytes = 64 << 10
    /// How much ciphertext is made for one of them before it is another's turn; a record may exceed it.
    static let sharedPieceBytes = 32 << 10
    /// The same where some of them are gentle.
    static let mixedTurnBytes = 16 << 10
    static let mixedPieceBytes = 16 << 10
    /// What is received then at once: a full record.
    static let mixedInputBytes = recordBytes + TLSConnection.recordOverheadBytes
    /// For how long those that want much give way to the others, in nanoseconds.
    static let mixedPatience: UInt64 = 100_000
    /// Requests that a wake-up takes up then before those of others are put off.
    static let mixedTurnRequests = 32
    /// Capabilities whose signatures a wake-up checks before what else has arrived of who asks for more is put off.
    static let turnSignatures: UInt64 = 4
    /// How much of what such a client sends is looked at at once, in bytes.
    static let signaturesPieceBytes = 1024
    /// What a turn costs beside its bytes.
    static let turnCost = 1024
    /// A connection that sends this much at once is metered, in bytes, when several sessions share a reactor.
    static let meteredBytesMin = 16 << 10
    /// One that sends less than this at once is not metered any more.
    static let meteredBytesEnd = 4 << 10
}
