import Core
import Reactor
import TLS
import Wire

/// Which volume a `VolumeClient` opens, and how.
public struct VolumeClientOptions: Sendable {
    /// The I/O server's data port.
    public var address: SocketAddress
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

    /// One channel with the defaults.
    public init(
        address: SocketAddress, serverName: String, tls: TLSContext, capability: [UInt8], rights: Rights = []
    ) {
        self.address = address
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
    /// The server said something; once, however many channels heard it. After `resized`, `state` holds the
    /// new size.
    func volumeEvent(_ volume: VolumeClient, _ event: ChannelEvent)
    /// The end, after the completions of all requests: the last call.
    func volumeClosed(_ volume: VolumeClient, _ error: ChannelError)
}

/// A volume of an I/O server, over one or more channels of one session.
///
/// Lives on one reactor and is used on its thread only; to use several reactors, make one client on each and
/// let the others join the first one's session with its `ticket`. Requests are spread over the channels in
/// turn. A channel that is lost ends the client.
public final class VolumeClient: DataChannelDelegate {
    private struct Member {
        let channel: DataChannel
        var handle: UInt32 = 0
    }

    /// What the volume is; nil before `volumeReady`.
    public private(set) var state: ResourceState?

    private let reactor: Reactor
    private let options: VolumeClientOptions
    private let buffers: TLSBufferPool
    private var delegate: (any VolumeClientDelegate)?
    private var members: [Member] = []
    private var next = 0
    private var opened = 0
    private var ending: ChannelError?
    private var seen = SeenEvents()
    private var joinTicket: SessionTicket?

    /// A client; `buffers` may be shared by everything on the reactor that uses TLS.
    public init(
        reactor: Reactor, options: VolumeClientOptions, buffers: TLSBufferPool? = nil,
        delegate: any VolumeClientDelegate
    ) {
        precondition((1...Limits.channelsPerSessionMax).contains(options.channels), "1 to 64 channels")
        self.reactor = reactor
        self.options = options
        self.buffers = buffers ?? TLSBufferPool()
        self.delegate = delegate
        joinTicket = options.channel.ticket
    }

    // MARK: Entry points

    /// Connects and opens; call it once. `volumeReady` or `volumeClosed` follows.
    public func start() {
        precondition(members.isEmpty, "a volume client starts once")
        addChannel()
    }

    /// Sends a request on the next channel that has a free slot, at the latest when this wake-up ends.
    ///
    /// `buffer` holds the `count` bytes of a READ or WRITE and stays valid until the completion; at most
    /// `state.transferBytesMax`. `tag` comes back with the completion.
    ///
    /// - Returns: false when no channel has a slot now, which the next completion changes; or when the client
    ///   is not ready.
    public func submit(
        _ opcode: Opcode, flags: RequestFlags = [], offset: UInt64 = 0, count: UInt32 = 0,
        buffer: UnsafeMutableRawPointer? = nil, tag: UInt64
    ) -> Bool {
        guard state != nil, ending == nil else { return false }
        for _ in 0..<members.count {
            let index = next
            next = next + 1 == members.count ? 0 : next + 1
            let request = unsafe ChannelRequest(
                opcode, flags: flags, handle: members[index].handle, offset: offset, count: count,
                buffer: buffer, tag: tag)
            if unsafe members[index].channel.submit(request) { return true }
        }
        return false
    }

    /// Requests that can be in flight at once; 0 before `volumeReady`.
    public var depth: Int { members.reduce(0) { $0 + $1.channel.depth } }

    /// Requests that are submitted and not completed.
    public var inFlight: Int { members.reduce(0) { $0 + $1.channel.inFlight } }

    /// What other clients need to join the session; nil before `volumeReady`.
    public var ticket: SessionTicket? { joinTicket }

    /// What the server last said to a request that it refused; empty when it said nothing.
    public var lastMessage: String {
        members.lazy.map(\.channel.lastMessage).first { !$0.isEmpty } ?? ""
    }

    /// Puts a newer capability in the place of the one in use, on every channel; I/O goes on meanwhile.
    public func renew(
        capability: [UInt8], completion: @escaping (Result<ResourceState, ChannelError>) -> Void
    ) {
        guard let first = state, ending == nil else { return completion(.failure(ending ?? .closed)) }
        var waiting = members.count
        var outcome = Result<ResourceState, ChannelError>.success(first)
        for member in members {
            member.channel.renew(handle: member.handle, capability: capability) { [self] result in
                waiting -= 1
                switch (result, outcome) {
                case (.failure, .success), (.success, .success): outcome = result
                case (_, .failure): break
                }
                guard waiting == 0 else { return }
                if case .success(let renewed) = outcome { state = renewed }
                completion(outcome)
            }
        }
    }

    /// Ends the client: requests in flight end with `ioError`, then `volumeClosed` comes. Flush first what
    /// must last.
    public func close() {
        end(.closed)
    }

    // MARK: Channels

    private func addChannel() {
        var setup = options.channel
        setup.ticket = joinTicket
        do throws(ChannelError) {
            let channel = try DataChannel(
                reactor: reactor, address: options.address, serverName: options.serverName, tls: options.tls,
                options: setup, buffers: buffers, delegate: self)
            members.append(Member(channel: channel))
            channel.connect()
        } catch {
            end(error)
        }
    }

    /// The first channel starts or joins the session and opens the volume; the others follow once that has
    /// worked.
    public func channelReady(_ channel: DataChannel) {
        if joinTicket == nil { joinTicket = channel.ticket }
        channel.open(capability: options.capability, rights: options.rights) { [self] result in
            switch result {
            case .success(let (handle, resource)): channelOpened(channel, handle, resource)
            case .failure(let error): end(error)
            }
        }
    }

    private func channelOpened(_ channel: DataChannel, _ handle: UInt32, _ resource: ResourceState) {
        guard ending == nil, let index = members.firstIndex(where: { $0.channel === channel }) else { return }
        guard resource.kind == .volume else {
            return end(.violation("the server opened something that is no volume"))
        }
        members[index].handle = handle
        opened += 1
        if opened == 1 {
            for _ in 1..<options.channels where ending == nil { addChannel() }
        }
        guard ending == nil, opened == options.channels else { return }
        state = resource
        delegate?.volumeReady(self)
    }

    /// For the channels.
    public func channelCompleted(_ channel: DataChannel, _ completions: Span<ChannelCompletion>) {
        delegate?.volumeCompleted(self, completions)
    }

    /// For the channels.
    public func channelEvent(_ channel: DataChannel, _ event: ChannelEvent) {
        if case .resized(_, let size) = event { state?.size = size }
        if seen.isNew(event) { delegate?.volumeEvent(self, event) }
    }

    /// For the channels.
    public func channelClosed(_ channel: DataChannel, _ error: ChannelError) {
        end(error)
        members.removeAll { $0.channel === channel }
        next = 0
        announceEnd()
    }

    private func end(_ error: ChannelError) {
        guard ending == nil else { return }
        ending = error
        for member in members { member.channel.close() }
        announceEnd()
    }

    private func announceEnd() {
        guard members.isEmpty, let ending, let listener = delegate else { return }
        delegate = nil
        listener.volumeClosed(self, ending)
    }
}

/// Tells whether an event says anything that another channel has not said before.
struct SeenEvents {
    private var size: UInt64?
    private var isRevoked = false
    private var expiry: UInt64?
    private var isDraining = false
    private var isRecovering = false

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
            defer { self.isRecovering = isRecovering }
            return self.isRecovering != isRecovering
        }
    }
}
