import Core
import Reactor
import TLS
import Wire

/// Which volume a `VolumeClient` opens, and how.
public struct VolumeClientOptions: Sendable {
    /// Finds the server's addresses anew and hands them on, from any thread; an empty list when there are none.
    public typealias LookUp = @Sendable (@escaping @Sendable ([SocketAddress]) -> Void) -> Void

    /// Where the I/O server's data port is, the best place first; never empty.
    public var addresses: [SocketAddress]
    /// Asked when none of the addresses can be reached; nil keeps to those.
    public var lookUp: LookUp?
    /// Finds the addresses of `NAME:PORT`, where a server sends its clients; nil follows to addresses only.
    public var resolve: (@Sendable (String, @escaping @Sendable ([SocketAddress]) -> Void) -> Void)?
    /// The DNS name or IP address that the server's certificate must be for.
    public var serverName: String
    /// A client's context with ALPN `sluice/1` and the identity that the capability is bound to.
    public var tls: TLSContext
    /// The capability, binary form.
    public var capability: [UInt8]
    /// The rights to open with; empty: all that the capability and the access mode allow.
    public var rights: Rights
    /// How many channels share the work, 1 to `Limits.channelsPerSessionMax`.
    public var channels = 1
    /// How each channel is set up; a ticket makes all of them join that session.
    public var channel = ChannelOptions()
    /// Whether a session that is lost is followed by a new one, even if it is another's that was joined: its
    /// beginner goes away.
    public var succeedsSession = false
    /// The writer generation that somebody knew whose place the client takes; nil if it takes nobody's.
    public var knownGeneration: UInt64?
    /// Whether lost connections are made again, and requests wait for that.
    public var reconnects = true
    /// How long that is tried, in seconds, before the client ends; nil for ever.
    public var reconnectSeconds: UInt64?
    /// Whether sessions of the same TLS key that have no connection are ended if they are in the way.
    public var takesOver = false
    /// Spreads the tries of many clients.
    public var random: any RandomSource = SystemRandom()

    /// One channel with the defaults.
    public init(
        addresses: [SocketAddress], serverName: String, tls: TLSContext, capability: [UInt8],
        rights: Rights = []
    ) {
        self.addresses = addresses
        self.serverName = serverName
        self.tls = tls
        self.capability = capability
        self.rights = rights
    }
}

/// Hears of a volume; called on the reactor's thread, and kept alive until `volumeClosed`.
public protocol VolumeClientDelegate: AnyObject {
    /// Every channel has opened the volume: requests can be submitted.
    func volumeReady(_ volume: VolumeClient)
    /// Requests ended: those of one channel in one wake-up. New ones may be submitted from here.
    func volumeCompleted(_ volume: VolumeClient, _ completions: Span<ChannelCompletion>)
    /// `submit` takes requests again, though none was completed.
    func volumeHasRoom(_ volume: VolumeClient)
    /// The server said something; once, however many channels heard it. After `resized`, `state` holds the
    /// new size.
    func volumeEvent(_ volume: VolumeClient, _ event: ChannelEvent)
    /// A connection is lost, or getting it back does not work for another reason than before; requests wait.
    func volumeInterrupted(_ volume: VolumeClient, _ reason: ChannelError)
    /// The server takes what is sent on a connection and has answered nothing for so many nanoseconds, not even a PING;
    /// requests wait. Once, until `volumeIsAnswered` or `volumeInterrupted`.
    func volumeIsUnanswered(_ volume: VolumeClient, forNanoseconds silence: UInt64)
    /// The server answers again on every connection.
    func volumeIsAnswered(_ volume: VolumeClient)
    /// The server said what is not believed, such as that the volume has shrunk or that its clients should go where its
    /// certificate does not name it; all stays as it is.
    func volumeIgnored(_ volume: VolumeClient, _ what: String)
    /// Every channel works again, after so many nanoseconds; that many requests were sent again.
    func volumeResumed(_ volume: VolumeClient, afterNanoseconds pause: UInt64, repeated: Int)
    /// The server wants a capability that has not expired before it goes on: call `renew`.
    func volumeNeedsCapability(_ volume: VolumeClient)
    /// The end, after the completions of all requests: the last call.
    func volumeClosed(_ volume: VolumeClient, _ error: ChannelError)
}

extension VolumeClientDelegate {
    /// Nothing: an interruption passes, or ends in `volumeClosed`.
    public func volumeInterrupted(_ volume: VolumeClient, _ reason: ChannelError) {}

    /// Nothing: it passes, or ends in `volumeInterrupted`.
    public func volumeIsUnanswered(_ volume: VolumeClient, forNanoseconds silence: UInt64) {}

    /// Nothing.
    public func volumeIsAnswered(_ volume: VolumeClient) {}

    /// Nothing.
    public func volumeResumed(_ volume: VolumeClient, afterNanoseconds pause: UInt64, repeated: Int) {}

    /// Nothing.
    public func volumeIgnored(_ volume: VolumeClient, _ what: String) {}

    /// Ends the client: nobody renews.
    public func volumeNeedsCapability(_ volume: VolumeClient) { volume.end(.expired) }
}

/// Tells whether an event says anything that another channel has not said before.
struct SeenEvents {
    private var size: UInt64?
    private var isRevoked = false
    private var expiry: UInt64?
    private var isDraining = false
    private var isRecovering = false
    private var isQuarantined = false

    mutating func isNew(_ event: ChannelEvent) -> Bool {
        switch event {
        case .resized(_, let size):
            defer { self.size = size }
            return self.size != size
        case .revoked:
            defer { isRevoked = true }
            return !isRevoked
        case .expiring(_, let expiry):
            defer { self.expiry = expiry }
            return self.expiry != expiry
        case .draining:
            defer { isDraining = true }
            return !isDraining
        case .driverRecovering(_, let isRecovering):
            defer { (self.isRecovering, isQuarantined) = (isRecovering, false) }
            return self.isRecovering != isRecovering || isQuarantined
        case .driverQuarantined:
            defer { (isRecovering, isQuarantined) = (true, true) }
            return !isQuarantined
        }
    }

    /// The connections are new: what they hear of the server's and the driver's state is news.
    mutating func reconnected() {
        isDraining = false
        isRecovering = false
        isQuarantined = false
    }
}
