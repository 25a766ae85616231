import Core
import Reactor
import Wire

/// The timers and bounds of sessions.
enum SessionTimes {
    /// How long a holder that has just died, or news on its way, may keep the resource from its user, and how often
    /// to ask.
    static let conflictNanoseconds: UInt64 = 8_000_000_000
    static let conflictPauseNanoseconds: UInt64 = 150_000_000
    /// Between two questions to the name service.
    static let lookUpNanoseconds: UInt64 = 1_000_000_000
    /// How long the clients of one server take to leave it, so that they do not come elsewhere all at once.
    static let spreadNanoseconds: UInt64 = 2_000_000_000
    /// For how long after the time that was given the other place may begin to serve.
    static let latenessSeconds: UInt64 = 60
    /// The token of the timer that ends reconnecting; a member's own is its index.
    static let limitToken = UInt32.max
}

/// A resource of an I/O server, over one or more channels of one session: what clients of every kind of resource build
/// on, by inheriting and saying what becomes of what they hear.
///
/// Lives on one reactor and is used on its thread only; to use several reactors, make one client on each and
/// let the others join the first one's session with its `ticket`. Requests are spread over the channels in
/// turn. A channel that is lost is connected again, and its requests wait for that and are sent once more
/// where that is right (`API/data-channel.md` §4); the client ends when the resource itself is lost.
@safe
public class SessionClient<Transport: SessionTransport>: DataChannelDelegate, CompletionTarget, BatchTarget {
    /// A connection.
    public typealias Link = Transport.Link

    /// An open channel, as requests see it.
    struct Route {
        let channel: DataChannel<Link>
        /// The same, for every request: a channel takes no route away while it is given one.
        let borrowed: Borrowed<DataChannel<Link>>
        let handle: UInt32
    }

    /// What the resource is, as far as the server is believed; nil before the session is ready.
    public final internal(set) var state: ResourceState?

    final let reactor: Reactor
    final let transport: Transport
    final let rules: any ResourceRules
    final var options: SessionOptions
    final let ledger = SessionLedger()
    final var members: [SessionMember<Link>] = []
    final private var routes: [Route] = []
    final private var next = 0
    final var places: ServerPlaces
    final var isLookingUp = false
    /// Looks whether the place that the server sends its clients to can be reached.
    final var move: PlaceProbe<Transport>?
    /// What was not believed last.
    final private var ignored: String?
    /// When the name service may be asked again, in the reactor's time.
    final var nextLookUp: UInt64 = 0
    /// How long the last connection took to be made, in nanoseconds.
    final var usualDial: UInt64 = 0
    final var ticketOfSession: SessionTicket?
    /// When the session began, in the reactor's time; 0 for one that was joined.
    final var sessionBegan: UInt64 = 0
    /// `ready` was said.
    final var isReady = false
    final var ending: ChannelError?
    final var hasAnnouncedEnd = false
    final var interruption: Interruption?
    /// Some connection's server takes what is sent and answers nothing, and that was said.
    final var isUnanswered = false
    /// The first WRITER_CONFLICT or BUSY of a row, in the reactor's time.
    final var conflictSince: UInt64?
    final var seen = SeenEvents()
    final var target: TargetID?
    final var reconnectLimit: TimerID?
    /// What a session that is lost left over for the next one.
    final var leftovers: [ChannelRequest] = unsafe []
    /// Completions that no channel has.
    final private(set) var local: ContiguousArray<ChannelCompletion> = []
    final private var isAtBatchEnd = false
    /// Acknowledged changes were lost, and the user has not heard that from a FLUSH yet.
    final var owesFlushFailure = false
    /// The user is about to hear it: each FLUSH that is sent before that fails.
    final var isTellingLoss = false
    /// Requests wait for a capability that has not expired.
    final var isExpired = false
    /// What became of the last session that was lost; empty if none was.
    public final internal(set) var lastLoss = ""
    /// Waits for a channel that takes the capability.
    final var renewal: ((Result<ResourceState, ChannelError>) -> Void)?

    /// A loss that is not made good yet.
    struct Interruption {
        var since: UInt64
        var reason: String
        var repeated = 0
    }

    init(reactor: Reactor, transport: Transport, rules: any ResourceRules, options: SessionOptions) {
        precondition((1...Limits.channelsPerSessionMax).contains(options.channels), "1 to 64 channels")
        self.reactor = reactor
        self.transport = transport
        self.rules = rules
        self.options = options
        places = ServerPlaces(options.addresses)
        ticketOfSession = options.channel.ticket
        if let ticket = options.channel.ticket { self.options.channel.instance = ticket.instance }
        // The client that this one succeeds may have written what it did not flush.
        if options.succeedsSession { ledger.changed() }
    }

    // MARK: What heirs hear

    /// Every channel has opened the resource: requests can be submitted.
    func ready() {}
    /// Requests ended: those of one channel in one wake-up. New ones may be submitted from here.
    func completed(_ completions: Span<ChannelCompletion>) {}
    /// `submit` takes requests again, though none was completed.
    func hasRoom() {}
    /// The server said something; once, however many channels heard it. `state` is as it says.
    func heard(_ event: ChannelEvent) {}
    /// A connection is lost, or getting it back does not work for another reason than before; requests wait.
    func interrupted(by reason: ChannelError) {}
    /// The server takes what is sent on a connection and has answered nothing for so many nanoseconds.
    func unanswered(forNanoseconds silence: UInt64) {}
    /// The server answers again on every connection.
    func answered() {}
    /// The server said something that the client does not believe; all stays as it is.
    func doubted(_ what: String) {}
    /// Every channel works again, after so many nanoseconds; that many requests were sent again.
    func resumed(afterNanoseconds pause: UInt64, repeated: Int) {}
    /// The server wants a capability that has not expired before it goes on.
    func needsCapability() { end(.expired) }
    /// The end, after the completions of all requests: the last call.
    func closed(_ error: ChannelError) {}

    // MARK: Entry points

    /// Connects and opens; call it once.
    public final func start() {
        precondition(members.isEmpty, "a client starts once")
        target = reactor.register(self)
        members = (0..<options.channels).map {
            SessionMember(index: $0, ledger: ledger, holdsExpired: options.reconnects)
        }
        connect(members[0])
    }

    /// Sends a request on the next channel that has a free slot, at the latest when this wake-up ends; its handle
    /// is set here.
    ///
    /// - Returns: false when no channel can take it now, which the next completion or `hasRoom` changes; or when the
    ///   client is not ready.
    final func submit(_ request: ChannelRequest) -> Bool {
        guard isReady, ending == nil, unsafe leftovers.isEmpty else { return false }
        let opcode = unsafe request.opcode
        if ledger.unsettled > 0, opcode.isChange { return false }
        if owesFlushFailure, opcode == .flush {
            isTellingLoss = true
            complete(tag: unsafe request.tag, .ioError)
            return true
        }
        return unsafe route(request)
    }

    /// Hands the request to the next channel that takes it.
    private final func route(_ request: ChannelRequest) -> Bool {
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
    public final func giveUp(tag: UInt64) {
        for member in members { member.core.giveUp(tag: tag) }
        let before = unsafe leftovers.count
        unsafe leftovers.removeAll { unsafe $0.tag == tag }
        for _ in unsafe leftovers.count..<before { complete(tag: tag, .timedOut) }
        askForBatchEnd()
    }

    /// Requests that can be in flight at once; 0 before the session is ready.
    public final var depth: Int { members.reduce(0) { $0 + $1.core.depth } }

    /// Requests that are submitted and not completed.
    public final var inFlight: Int {
        unsafe members.reduce(local.count + leftovers.count) { $0 + $1.core.inFlight }
    }

    /// Whether a connection is lost and not back yet.
    public final var isInterrupted: Bool { interruption != nil }

    /// What other clients need to join the session; nil before the session is ready.
    public final var ticket: SessionTicket? { ticketOfSession }

    /// What the server last said to a request that it refused; empty when it said nothing.
    public final var lastMessage: String {
        members.lazy.map(\.core.lastMessage).first { !$0.isEmpty } ?? ""
    }

    /// Puts a newer capability in the place of the one in use, on every channel; I/O goes on meanwhile. A
    /// channel that is lost opens the resource with it.
    public final func renew(
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
                case .success(let renewed): completion(taken(renewed, on: open))
                case .failure(let error):
                    // Whoever has the claim now has it for good: what this side remembers is not true any more.
                    if isExpired, error.status == .writerConflict { end(error) }
                    completion(.failure(error))
                case nil:
                    if let ending { return completion(.failure(ending)) }
                    renewal?(.failure(.closed))
                    renewal = completion
                }
            }
        }
    }

    /// Ends the client: requests in flight end with `ioError`, then `closed` comes. Flush first what
    /// must last.
    public final func close() {
        end(.closed)
    }

    /// What a server says of the resource in answer to RENEW.
    final func taken(
        _ described: ResourceState, on open: [SessionMember<Link>]
    ) -> Result<ResourceState, ChannelError> {
        switch rules.judge(described, isOpened: false, known: state) {
        case .over(let error):
            end(error)
            return .failure(error)
        case .notBelieved(let fault):
            open.forEach { $0.channel?.end(.violation(fault)) }
            return .failure(.violation(fault))
        case .taken(let believed, let findings):
            take(believed, findings, handle: open.first?.handle ?? 0)
            authorityReturned()
            return .success(described)
        }
    }

    /// Takes the resource to be this now, and tells what was found besides.
    final func take(_ believed: ResourceState, _ findings: ResourceVerdict.Findings, handle: UInt32) {
        state = believed
        if let doubt = findings.doubt { ignore(doubt) }
        guard let size = findings.newSize else { return }
        let event = ChannelEvent.resized(handle: handle, size: size)
        if seen.isNew(event) { heard(event) }
    }

    /// Says what of the server's words the client does not believe; once, until these are others.
    final func ignore(_ what: String) {
        guard ending == nil, ignored != what else { return }
        ignored = what
        doubted(what)
    }

    // MARK: The reactor

    /// For the reactor.
    public final func completed(token: UInt32, result: Int32, flags: CompletionFlags) {
        if token == SessionTimes.limitToken { return reconnectingTookTooLong() }
        let member = members[Int(token)]
        member.timer = nil
        switch member.phase {
        case .waiting: connect(member)
        case .conflicted: open(member)
        case .idle, .connecting, .opening, .open, .needsCapability: break
        }
    }

    /// For the reactor: hands out the completions that no open channel hands out.
    public final func batchEnded() {
        isAtBatchEnd = false
        if !local.isEmpty {
            let ready = local
            local = []
            if isTellingLoss { (owesFlushFailure, isTellingLoss) = (false, false) }
            completed(ready.span)
        }
        for member in members {
            while member.core.takeCompletions({ completed($0) }) {}
        }
        announceEnd()
    }

    final func askForBatchEnd() {
        guard !isAtBatchEnd else { return }
        isAtBatchEnd = true
        reactor.atBatchEnd(self)
    }

    final func complete(tag: UInt64, _ status: Status) {
        local.append(ChannelCompletion(tag: tag, value: 0, status: status))
        askForBatchEnd()
    }

    // MARK: Requests and channels

    /// Requests may take the member's channel from now on.
    final func addRoute(_ channel: DataChannel<Link>, handle: UInt32) {
        routes.append(Route(channel: channel, borrowed: Borrowed(channel), handle: handle))
        submitLeftovers()
    }

    final func removeRoute(_ channel: DataChannel<Link>) {
        routes.removeAll { $0.channel === channel }
        next = 0
    }

    /// Sends what the session before left over, or what waited for a capability; what does not fit into the new session
    /// fails.
    final func submitLeftovers() {
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
    final func failLeftovers(where isMeant: (Opcode) -> Bool = { _ in true }) {
        let before = unsafe leftovers
        unsafe leftovers = unsafe before.filter { unsafe !isMeant($0.opcode) }
        for index in unsafe before.indices where unsafe isMeant(before[index].opcode) {
            complete(tag: unsafe before[index].tag, .ioError)
        }
    }

    /// For the channels.
    public final func channelCompleted(_ channel: DataChannel<Link>, _ completions: Span<ChannelCompletion>) {
        if unsafe !leftovers.isEmpty { submitLeftovers() }
        completed(completions)
    }

    /// For the channels.
    public final func channelEvent(_ channel: DataChannel<Link>, _ event: ChannelEvent) {
        guard ending == nil, let member = member(of: channel) else { return }
        // What is said of another handle than this connection's is nobody's concern.
        if let handle = event.handle { guard handle == member.handle, handle != 0 else { return } }
        if event.handle != nil {
            guard let known = state else { return }
            switch rules.judge(event, known: known) {
            case .taken(let believed): state = believed
            case .notBelieved(let fault): return ignore(fault)
            }
        }
        if case .draining(let seconds, let target) = event {
            drains(channel, seconds: seconds, target: target)
        }
        if seen.isNew(event) { heard(event) }
    }

    /// For the channels.
    public final func channelIsUnanswered(_ channel: DataChannel<Link>) {
        guard isReady, ending == nil, !isUnanswered, let since = channel.unansweredSince else { return }
        isUnanswered = true
        unanswered(forNanoseconds: reactor.now &- since)
    }

    /// For the channels.
    public final func channelIsAnswered(_ channel: DataChannel<Link>) {
        guard isUnanswered, !members.contains(where: { $0.channel?.unansweredSince != nil }) else { return }
        isUnanswered = false
        answered()
    }

    /// For the channels.
    public final func channelExpired(_ channel: DataChannel<Link>) {
        for member in members {
            unsafe leftovers += member.core.takeExpired()
        }
        if ending == nil { authorityEnded() } else { failLeftovers() }
    }

    /// For the channels.
    public final func channelSettled(_ channel: DataChannel<Link>) {
        guard ending == nil, isReady else { return }
        if unsafe !leftovers.isEmpty { submitLeftovers() }
        hasRoom()
    }
}
