import Core
import Reactor
import Wire

/// One I/O request on a handle.
@unsafe
public struct ChannelRequest {
    /// READ, WRITE, WRITE_ZEROES, DISCARD, FLUSH, COMPARE_AND_WRITE or BLOCK_STATUS.
    public var opcode: Opcode
    /// Modifiers that the opcode allows.
    public var flags: RequestFlags
    /// What OPEN gave.
    public var handle: UInt32
    /// The first byte; 0 for FLUSH.
    public var offset: UInt64
    /// The bytes covered; 0 for FLUSH.
    public var count: UInt32
    /// The `count` bytes of a READ or WRITE; what is expected and then what is written of COMPARE_AND_WRITE;
    /// `Limits.blockStatusBytesMax` bytes for the extents of a BLOCK_STATUS. Valid until the completion; nil for
    /// the others.
    public var buffer: UnsafeMutableRawPointer?
    /// BLOCK_STATUS since a marker: the marker's id follows the extents in the buffer.
    public var namesMarker: Bool
    /// Comes back with the completion.
    public var tag: UInt64

    /// A request from its fields.
    @inlinable
    public init(
        _ opcode: Opcode, flags: RequestFlags = [], handle: UInt32, offset: UInt64 = 0, count: UInt32 = 0,
        buffer: UnsafeMutableRawPointer? = nil, namesMarker: Bool = false, tag: UInt64
    ) {
        unsafe self.opcode = opcode
        unsafe self.flags = flags
        unsafe self.handle = handle
        unsafe self.offset = offset
        unsafe self.count = count
        unsafe self.buffer = unsafe buffer
        unsafe self.namesMarker = namesMarker
        unsafe self.tag = tag
    }

    /// Where the bytes that are sent with it begin.
    var payload: UnsafeMutableRawPointer? {
        unsafe namesMarker ? buffer.map { unsafe $0 + Limits.blockStatusBytesMax } : buffer
    }
}

/// The end of one I/O request.
@frozen
public struct ChannelCompletion: Sendable, Hashable {
    /// The request's tag.
    public let tag: UInt64
    /// What the reply's value field said: the bytes covered, or the place of a difference.
    public let value: UInt64
    /// How it ended. `ioError` also for requests whose channel was lost: they may or may not have been
    /// executed.
    public let status: Status

    /// A completion from its fields.
    @inlinable
    public init(tag: UInt64, value: UInt64, status: Status) {
        self.tag = tag
        self.value = value
        self.status = status
    }
}

/// What another channel needs to join a session.
public struct SessionTicket: Sendable {
    /// The session.
    public let session: Identifier
    /// Its secret.
    public let secret: SecretBytes
    /// Who began it.
    public let instance: Identifier

    /// A ticket from its parts.
    public init(session: Identifier, secret: SecretBytes, instance: Identifier) {
        self.session = session
        self.secret = secret
        self.instance = instance
    }
}

/// How a channel is set up.
public struct ChannelOptions: Sendable {
    /// I/O requests in flight at most; one slot more is asked for, so that RENEW never waits behind I/O.
    public var depth = 32
    /// The largest payload wanted, in bytes; 0 leaves it to the server.
    public var payloadBytesMax: UInt32 = 0
    /// The name in the server's lists and logs.
    public var clientName = "sluice"
    /// The session to join; nil starts one.
    public var ticket: SessionTicket?
    /// Who begins a session: the next session of the same instance is the same writer to the server.
    public var instance = Identifier.random(using: SystemRandom())
    /// Asks for the feature RESUME: the channel's session goes on when the connection is lost, and requests in
    /// flight wait for another one. For clients that make one.
    var outlivesConnections = false
    /// From `connect` to the TCP connection, in milliseconds.
    public var dialMilliseconds: UInt64 = 5000
    /// From there to HELLO's reply, in seconds.
    public var connectSeconds: UInt64 = 15
    /// From HELLO to its reply, where the server has to end what a lost connection left under way first.
    public var resumeSeconds: UInt64 = 60
    /// While replies are awaited, a second of silence sends a PING. Two further ones end the connection if the
    /// network acknowledges nothing, and three times so many seconds in any case.
    public var pulseSeconds: UInt64 = 10

    /// The defaults.
    public init() {}
}

/// Hears of a channel; called on the reactor's thread, and kept alive until `channelClosed`.
public protocol DataChannelDelegate<Link>: AnyObject {
    /// What carries the channel's bytes.
    associatedtype Link: ChannelLink

    /// HELLO is answered: handles can be opened.
    func channelReady(_ channel: DataChannel<Link>)
    /// I/O requests ended: all those of one wake-up. New requests may be submitted from here.
    func channelCompleted(_ channel: DataChannel<Link>, _ completions: Span<ChannelCompletion>)
    /// The server said something unasked.
    func channelEvent(_ channel: DataChannel<Link>, _ event: ChannelEvent)
    /// Every request of the connection before was sent again: new ones can be submitted.
    func channelOpened(_ channel: DataChannel<Link>)
    /// No change that was given up can be executed any more.
    func channelSettled(_ channel: DataChannel<Link>)
    /// The server takes what is sent, and has answered nothing for a second and a half, not even a PING. Once, until
    /// `channelIsAnswered` or the end.
    func channelIsUnanswered(_ channel: DataChannel<Link>)
    /// The server has said something after `channelIsUnanswered`.
    func channelIsAnswered(_ channel: DataChannel<Link>)
    /// Requests were refused because the capability has ended, and are not executed: the core has them.
    func channelExpired(_ channel: DataChannel<Link>)
    /// The channel's end, after the completions of all its requests: the last call.
    func channelClosed(_ channel: DataChannel<Link>, _ error: ChannelError)
}

extension DataChannelDelegate {
    /// Nothing: only channels that outlive their connections say it.
    public func channelOpened(_ channel: DataChannel<Link>) {}

    /// Nothing: it passes, or the channel ends.
    public func channelIsUnanswered(_ channel: DataChannel<Link>) {}

    /// Nothing.
    public func channelIsAnswered(_ channel: DataChannel<Link>) {}
    /// Nothing: only owners that hold such requests hear it.
    public func channelExpired(_ channel: DataChannel<Link>) {}

    /// Nothing: only owners that give requests up hear it.
    public func channelSettled(_ channel: DataChannel<Link>) {}
}
