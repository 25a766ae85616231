import Core
import Reactor
import Wire

/// Where a session is held, what it opens, and how.
public struct SessionOptions: Sendable {
    /// Finds the server's addresses anew and hands them on, from any thread; an empty list when there are none.
    public typealias LookUp = @Sendable (@escaping @Sendable ([SocketAddress]) -> Void) -> Void

    /// Where the I/O server's data port is, the best place first; never empty.
    public var addresses: [SocketAddress]
    /// Asked when none of the addresses can be reached; nil keeps to those.
    public var lookUp: LookUp?
    /// Finds the addresses of `NAME:PORT`, where a server sends its clients; nil follows to addresses only.
    public var resolve: (@Sendable (String, @escaping @Sendable ([SocketAddress]) -> Void) -> Void)?
    /// The capability, binary form.
    public var capability: [UInt8]
    /// The rights to open with; empty: all that the capability and the access mode allow.
    public var rights: Rights
    /// How many channels share the work, 1 to `Limits.channelsPerSessionMax`.
    public var channels = 1
    /// How each channel is set up; a ticket makes all of them join that session.
    public var channel = ChannelOptions()
    /// Whether the client begins a new session when one is lost that another client began and this one joined: its
    /// beginner goes away.
    public var succeedsSession = false
    /// Whether lost connections are made again, and requests wait for that.
    public var reconnects = true
    /// For how long the client tries that before it ends, in seconds; nil for ever.
    public var reconnectSeconds: UInt64?
    /// Whether sessions of the same TLS key that have no connection are ended if they are in the way.
    public var takesOver = false
    /// Spreads the tries of many clients.
    public var random: any RandomSource = SystemRandom()

    /// One channel with the defaults.
    public init(addresses: [SocketAddress], capability: [UInt8], rights: Rights = []) {
        self.addresses = addresses
        self.capability = capability
        self.rights = rights
    }
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
