import Core
import Reactor
import TLS
import Wire

/// A volume of an I/O server, over one or more channels of one session.
///
/// Lives on one reactor and is used on its thread only; to use several reactors, make one client on each and
/// let the others join the first one's session with its `ticket`. Requests are spread over the channels in
/// turn. A channel that is lost is connected again, and its requests wait for that and are sent once more
/// where that is right (`API/data-channel.md` §4); the client ends when the volume itself is lost.
@safe
public final class VolumeClient: DataChannelDelegate, CompletionTarget, BatchTarget {
    /// An open channel, as requests see it.
    private struct Route {
        let channel: DataChannel
        /// The same, for every request: a channel takes no route away while it is given one.
        let borrowed: Borrowed<DataChannel>
        let handle: UInt32
    }

    /// What the volume is; nil before `volumeReady`.
    public internal(set) var state: ResourceState?

    let reactor: Reactor
    var options: VolumeClientOptions
    let buffers: TLSBufferPool
    var delegate: (any VolumeClientDelegate)?
    let ledger = SessionLedger()
    var members: [VolumeMember] = []
    private var routes: [Route] = []
    private var next = 0
    var places: ServerPlaces
    var isLookingUp = false
    /// Looks whether the place that the server sends its clients to can be reached.
    var move: PlaceProbe?
    /// What was not believed last.
    private var ignored: String?
    /// When the name service may be asked again, in the reactor's time.
    var nextLookUp: UInt64 = 0
    /// How long the last connection took to be made, in nanoseconds.
    var usualDial: UInt64 = 0
    var ticketOfSession: SessionTicket?
    /// When the session began, in the reactor's time; 0 for one that was joined.
    var sessionBegan: UInt64 = 0
    /// `volumeReady` was said.
    var isReady = false
    var ending: ChannelError?
    var interruption: Interruption?
    /// Some connection's server takes what is sent and answers nothing, and that was said.
    var isUnanswered = false
    /// The first WRITER_CONFLICT or BUSY of a row, in the reactor's time.
    var conflictSince: UInt64?
    var seen = SeenEvents()
    var target: TargetID?
    var reconnectLimit: TimerID?
    /// What a session that is lost left over for the next one.
    var leftovers: [ChannelRequest] = unsafe []
    /// Completions that no channel has.
    private(set) var local: ContiguousArray<ChannelCompletion> = []
    private var isAtBatchEnd = false
    /// Acknowledged changes were lost, and no FLUSH has said so yet.
    var owesFlushFailure = false
    /// Requests wait for a capability that has not expired.
    var isExpired = false
    /// What became of the last session that was lost; empty if none was.
    public internal(set) var lastLoss = ""
    /// Waits for a channel that takes the capability.
    var renewal: ((Result<ResourceState, ChannelError>) -> Void)?

    /// A loss that is not made good yet.
    struct Interruption {
        var since: UInt64
        var reason: String
        var repeated = 0
    }

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
        places = ServerPlaces(options.addresses)
        ticketOfSession = options.channel.ticket
        if let ticket = options.channel.ticket { self.options.channel.instance = ticket.instance }
        // Whoever is succeeded may have written what was not flushed.
        if options.succeedsSession { ledger.changed() }
    }

    // MARK: Entry points

    /// Connects and opens; call it once. `volumeReady` or `volumeClosed` follows.
    public func start() {
        precondition(members.isEmpty, "a volume client starts once")
        target = reactor.register(self)
        members = (0..<options.channels).map {
            VolumeMember(index: $0, ledger: ledger, holdsExpired: options.reconnects)
        }
        connect(members[0])
    }

    /// Sends a request on the next channel that has a free slot, at the latest when this wake-up ends.
    ///
    /// `buffer` is as `ChannelRequest` says and stays valid until the completion; a READ or WRITE has at most
    /// `state.transferBytesMax` bytes. `tag` comes back with the completion.
    ///
    /// - Returns: false when no channel can take it now, which the next completion or `volumeHasRoom` changes;
    ///   or when the client is not ready.
    public func submit(
        _ opcode: Opcode, flags: RequestFlags = [], offset: UInt64 = 0, count: UInt32 = 0,
        buffer: UnsafeMutableRawPointer? = nil, namesMarker: Bool = false, tag: UInt64
    ) -> Bool {
        guard isReady, ending == nil, unsafe leftovers.isEmpty else { return false }
        if ledger.unsettled > 0, opcode.isChange { return false }
        if owesFlushFailure, opcode == .flush {
            owesFlushFailure = false
            complete(tag: tag, .ioError)
            return true
        }
        return unsafe route(
            ChannelRequest(
                opcode, flags: flags, handle: 0, offset: offset, count: count, buffer: buffer,
                namesMarker: namesMarker, tag: tag))
    }

    /// Hands the request to the next channel that takes it.
    private func route(_ request: ChannelRequest) -> Bool {
        var request = unsafe request
        for _ in 0..<routes.count {
            let index = next
            next = next + 1 == routes.count ? 0 : next + 1
            unsafe request.handle = routes[index].handle
            if routes[index].borrowed.with({ unsafe $0.submit(request) }) { return true }
        }
        return false
    }

    /// Ends every request with this tag with `timedOut`; its memory is free as soon as this returns. A change
    /// that ended so may still be executed, so that `submit` takes no other change until that is settled.
    public func giveUp(tag: UInt64) {
        for member in members { member.core.giveUp(tag: tag) }
        let before = unsafe leftovers.count
        unsafe leftovers.removeAll { unsafe $0.tag == tag }
        for _ in unsafe leftovers.count..<before { complete(tag: tag, .timedOut) }
        askForBatchEnd()
    }

    /// Requests that can be in flight at once; 0 before `volumeReady`.
    public var depth: Int { members.reduce(0) { $0 + $1.core.depth } }

    /// Requests that are submitted and not completed.
    public var inFlight: Int {
        unsafe members.reduce(local.count + leftovers.count) { $0 + $1.core.inFlight }
    }

    /// Whether a connection is lost and not back yet.
    public var isInterrupted: Bool { interruption != nil }

    /// What other clients need to join the session; nil before `volumeReady`.
    public var ticket: SessionTicket? { ticketOfSession }

    /// What the server last said to a request that it refused; empty when it said nothing.
    public var lastMessage: String {
        members.lazy.map(\.core.lastMessage).first { !$0.isEmpty } ?? ""
    }

    /// Puts a newer capability in the place of the one in use, on every channel; I/O goes on meanwhile. A
    /// channel that is lost opens the volume with it.
    public func renew(
        capability: [UInt8], completion: @escaping (Result<ResourceState, ChannelError>) -> Void
    ) {
        guard isReady, ending == nil else { return completion(.failure(ending ?? .closed)) }
        options.capability = capability
        let open = members.filter { $0.phase == .open }
        for member in members where member.phase == .needsCapability { self.open(member) }
        guard !open.isEmpty else {
            renewal?(.failure(.closed))
            renewal = completion
            return
        }
        var waiting = open.count
        var outcome: Result<ResourceState, ChannelError>?
        for member in open {
            guard let channel = member.channel else { continue }
            channel.renew(handle: member.handle, capability: capability) { [self] result in
                waiting -= 1
                switch (result, outcome) {
                case (.failure(.refused), .some(.failure(.refused))): break
                case (.failure(.refused), _), (.success, .none), (.success, .some(.success)): outcome = result
                // A channel that is lost meanwhile opens with the new one.
                case (.success, .some(.failure)), (.failure, _): break
                }
                guard waiting == 0 else { return }
                switch outcome {
                case .success(let renewed):
                    if let stale = staleness(under: renewed) {
                        end(stale)
                        return completion(.failure(stale))
                    }
                    if let fault = state?.fault(of: renewed) {
                        open.forEach { $0.channel?.end(.violation(fault)) }
                        return completion(.failure(.violation(fault)))
                    }
                    let hasGrown = state.map { renewed.size > $0.size } ?? false
                    take(renewed)
                    if hasGrown { tellSize(handle: open.first?.handle ?? 0, renewed.size) }
                    authorityReturned()
                    completion(.success(renewed))
                case .failure(let error):
                    // Whoever has the claim now has it for good: what this side remembers is not true any more.
                    if isExpired, error.status == .writerConflict { end(error) }
                    completion(.failure(error))
                case nil:
                    if let ending { completion(.failure(ending)) } else { renewal = completion }
                }
            }
        }
    }

    /// Ends the client: requests in flight end with `ioError`, then `volumeClosed` comes. Flush first what
    /// must last.
    public func close() {
        end(.closed)
    }

    // MARK: The reactor

    /// Takes what a server says of the volume now. A transfer fits every channel, whichever was opened last; a size that
    /// is less than before is not believed, and what lies behind it is for the server to refuse.
    func take(_ later: ResourceState) {
        let before = state
        state = later
        guard let before else { return }
        state?.transferBytesMax = min(later.transferBytesMax, before.transferBytesMax)
        guard let fault = before.fault(ofNewSize: later.size) else { return }
        state?.size = before.size
        ignore(fault)
    }

    /// Says what of the server's is not believed; once, until it says something else.
    func ignore(_ what: String) {
        guard ending == nil, ignored != what else { return }
        ignored = what
        delegate?.volumeIgnored(self, what)
    }

    /// The volume has grown, which an event says only to who is connected.
    func tellSize(handle: UInt32, _ size: UInt64) {
        let event = ChannelEvent.resized(handle: handle, size: size)
        if seen.isNew(event) { delegate?.volumeEvent(self, event) }
    }

    /// For the reactor.
    public func completed(token: UInt32, result: Int32, flags: CompletionFlags) {
        if token == VolumeMember.limitToken { return reconnectingTookTooLong() }
        let member = members[Int(token)]
        member.timer = nil
        switch member.phase {
        case .waiting: connect(member)
        case .conflicted: open(member)
        case .idle, .connecting, .opening, .open, .needsCapability: break
        }
    }

    /// For the reactor: hands out the completions that no open channel hands out.
    public func batchEnded() {
        isAtBatchEnd = false
        if !local.isEmpty {
            let ready = local
            local = []
            delegate?.volumeCompleted(self, ready.span)
        }
        for member in members {
            while member.core.takeCompletions({ delegate?.volumeCompleted(self, $0) }) {}
        }
        announceEnd()
    }

    func askForBatchEnd() {
        guard !isAtBatchEnd else { return }
        isAtBatchEnd = true
        reactor.atBatchEnd(self)
    }

    func complete(tag: UInt64, _ status: Status) {
        local.append(ChannelCompletion(tag: tag, value: 0, status: status))
        askForBatchEnd()
    }

    // MARK: Requests and channels

    /// Requests may take the member's channel from now on.
    func addRoute(_ channel: DataChannel, handle: UInt32) {
        routes.append(Route(channel: channel, borrowed: Borrowed(channel), handle: handle))
        submitLeftovers()
    }

    func removeRoute(_ channel: DataChannel) {
        routes.removeAll { $0.channel === channel }
        next = 0
    }

    /// Sends what the session before left over, or what waited for a capability; what does not fit into the new session
    /// fails.
    func submitLeftovers() {
        guard !isExpired else { return }
        while let request = unsafe leftovers.first {
            // A change that was given up may land still, and must not do so after this one.
            if ledger.unsettled > 0, unsafe request.opcode.isChange { return }
            let fits = unsafe request.count <= state?.transferBytesMax ?? 0 || request.opcode != .read
            if !fits {
                complete(tag: unsafe request.tag, .ioError)
            } else if unsafe !route(request) {
                return
            }
            unsafe leftovers.removeFirst()
        }
    }

    /// Ends those of the leftovers that are meant.
    func failLeftovers(where isMeant: (Opcode) -> Bool = { _ in true }) {
        let before = unsafe leftovers
        unsafe leftovers = unsafe before.filter { unsafe !isMeant($0.opcode) }
        for index in unsafe before.indices where unsafe isMeant(before[index].opcode) {
            complete(tag: unsafe before[index].tag, .ioError)
        }
    }

    /// For the channels.
    public func channelCompleted(_ channel: DataChannel, _ completions: Span<ChannelCompletion>) {
        if unsafe !leftovers.isEmpty { submitLeftovers() }
        delegate?.volumeCompleted(self, completions)
    }

    /// For the channels.
    public func channelEvent(_ channel: DataChannel, _ event: ChannelEvent) {
        guard ending == nil, let member = member(of: channel) else { return }
        // What is said of another handle than this connection's is nobody's concern.
        if let handle = event.handle { guard handle == member.handle, handle != 0 else { return } }
        if case .resized(_, let size) = event {
            guard let known = state else { return }
            if let fault = known.fault(ofNewSize: size) { return ignore(fault) }
            state?.size = size
        }
        if case .draining(let seconds, let target) = event {
            drains(channel, seconds: seconds, target: target)
        }
        if seen.isNew(event) { delegate?.volumeEvent(self, event) }
    }

    /// For the channels.
    public func channelIsUnanswered(_ channel: DataChannel) {
        guard isReady, ending == nil, !isUnanswered, let since = channel.unansweredSince else { return }
        isUnanswered = true
        delegate?.volumeIsUnanswered(self, forNanoseconds: reactor.now &- since)
    }

    /// For the channels.
    public func channelIsAnswered(_ channel: DataChannel) {
        guard isUnanswered, !members.contains(where: { $0.channel?.unansweredSince != nil }) else { return }
        isUnanswered = false
        delegate?.volumeIsAnswered(self)
    }

    /// For the channels.
    public func channelExpired(_ channel: DataChannel) {
        for member in members {
            unsafe leftovers += member.core.takeExpired()
        }
        if ending == nil { authorityEnded() } else { failLeftovers() }
    }

    /// For the channels.
    public func channelSettled(_ channel: DataChannel) {
        guard ending == nil, isReady else { return }
        if unsafe !leftovers.isEmpty { submitLeftovers() }
        delegate?.volumeHasRoom(self)
    }
}
