import Core
import Simulation
import Wire

@testable import Reactor
@testable import SluiceClient

/// A request of the application.
struct SimulatedRequest {
    var opcode = Opcode.read
    var first = 0
    var count = 0
    /// What it writes.
    var name: UInt64 = 0
    var start: UInt64 = 0
    /// The machine's life in which it began.
    var life = 0
    var isForced = false
    /// Of a comparison: what must be there.
    var expected: UInt64 = 0
    /// Of a flush: what was acknowledged before, by block.
    var needs: [UInt64] = []
    var isOpen = false
}

// SAFETY: `memory` is the node's own from init to deinit, a piece for each request that the application can have.
/// A compute node: an application that reads, writes and flushes, the client of the volume that it uses, and what it is
/// told.
///
/// The client is the real one, on a reactor that is stepped by hand; what goes over its connections is looked at here.
@safe
final class SimulatedNode {
    enum Phase {
        /// The application does not use the volume.
        case detached
        case attaching
        case attached
        /// No new requests: it detaches when all have ended.
        case leaving
    }

    static let requestsMax = 6
    static let blocksMax = 2
    static let bufferBytes = blocksMax * SimulatedDisk.blockBytes

    let number: Int
    let node: Identifier
    let thumbprint: Digest32
    var nodeEpoch: UInt64 = 1
    /// Until when it reaches nobody.
    var cutOffUntil: UInt64 = 0
    unowned let world: SessionSimulator
    let reactor: Reactor
    private(set) var phase = Phase.detached
    private(set) var volume: SimulatedVolume?
    private var transport: SimulatedTransport?
    private(set) var session: Identifier?
    /// What its writes are named after.
    private(set) var grant = 0
    /// Those of the present attachment, the newest last.
    private(set) var capabilities: [SimulatedCapability] = []
    /// The last of them that the application was told is in use.
    private var renewedTo = 0
    private var isRenewing = false
    /// The client has asked for a capability.
    private var wantsCapability = false
    /// When the handles of a session's channels can end at the earliest, in seconds of the clock for lives, and the least
    /// of those before; and which capability they have.
    private var ends: [UInt16: (end: Int64, before: Int64, index: Int)] = [:]
    /// It was sent to a stranger.
    private var isSentAstray = false
    /// When its present trouble began.
    private var interruptedAt: UInt64 = 0
    /// Where the server last sent it.
    private(set) var advice: SocketAddress?
    private var isVisiting = false
    private var visitedAt = 0
    /// Its process is being killed: nobody hears anything.
    private(set) var isDead = false
    var requests = [SimulatedRequest](repeating: SimulatedRequest(), count: requestsMax)
    let memory: UnsafeMutableRawPointer
    /// Of each block, the newest write that was acknowledged and not given up as lost: its place on the disk.
    var acknowledged = [UInt64](repeating: 0, count: SimulatedDisk.blocks)
    /// What it last knew each block to hold.
    var lastSeen = [UInt64](repeating: 0, count: SimulatedDisk.blocks)
    /// Writes whose issue was never learnt, and that may still be done.
    private var orphans: [SimulatedRequest] = []
    var counts = Counts()
    /// A bug that is planted once was.
    var hasTampered = false

    /// What a run has seen.
    struct Counts {
        var attachments = 0
        var completed = 0
        var failed = 0
        var resumed = 0
        var repeated = 0
        var sessionsLost = 0
        var unknown = 0
        var superseded = 0
        var givenUp = 0
        var heldExpired = 0
        var compared = 0
        var miscompared = 0
        var redirected = 0
        var renewed = 0
    }

    init(number: Int, world: SessionSimulator) {
        self.number = number
        self.world = world
        node = Identifier(high: 0xA0DE, low: UInt64(number))
        thumbprint = Digest32(first: Identifier(high: 0xCE7, low: UInt64(number)), second: .zero)
        unsafe memory = .allocate(
            byteCount: SimulatedNode.requestsMax * SimulatedNode.bufferBytes, alignment: 64)
        do { reactor = try Reactor(SessionSimulator.reactorOptions) } catch {
            preconditionFailure("no reactor: \(error)")
        }
        reactor.step(now: world.now)
    }

    deinit {
        reactor.abandon()
        unsafe memory.deallocate()
    }

    var openRequests: Int { requests.reduce(0) { $0 + ($1.isOpen ? 1 : 0) } }

    /// What it wants and has not got yet; nil when no request is open, no channel on its way, and each has the newest
    /// capability.
    var lack: StaticString? {
        if openRequests > 0 { return "is not answered" }
        switch phase {
        case .detached: return nil
        case .attaching: return "does not attach"
        case .leaving: return "does not leave"
        case .attached:
            guard let volume, volume.members.allSatisfy({ $0.phase == .open }) else {
                return "has not all of its channels"
            }
            let isRenewed =
                !isRenewing && !wantsCapability && ends.values.allSatisfy { $0.index >= renewedTo }
            return isRenewed ? nil : "is not renewed"
        }
    }

    /// When it goes on by itself; nil while others can do something for it.
    var waitsUntil: UInt64? {
        guard let volume, let transport else { return nil }
        let isWaiting =
            volume.members.contains { $0.phase == .waiting || $0.phase == .conflicted }
            || transport.links.contains { $0.isStuck }
        guard isWaiting, let next = nextDeadline else { return nil }
        return cutOffUntil > world.now ? min(cutOffUntil, next) : next
    }

    private var nextDeadline: UInt64? { unsafe reactor.state.pointee.timers.nextDeadline }
    var isDue: Bool { nextDeadline.map { $0 <= world.now } ?? false }

    /// For the account of a failure.
    var description: String {
        guard let volume else { return "\(phase)" }
        let members = volume.members.map { "\($0.phase) \($0.core.inFlight)+\($0.core.givenUp)" }
        let links = (transport?.links ?? []).map { "\($0.phase) \($0.connection?.number ?? 0)" }
        return "\(phase), \(openRequests) requests open, \(members), \(links), leftovers "
            + "\(unsafe volume.leftovers.count), expired \(volume.isExpired), renewing \(isRenewing), "
            + "capabilities \(ends.values.map(\.index)) of \(renewedTo)"
    }

    /// A wake-up of the client's reactor: what happens in it, then what is due, and what it all adds up to.
    func wakeUp(_ body: () -> Void = {}) {
        reactor.step(now: world.now, arriving: body)
        guard let volume, !isDead else { return }
        if session != nil, volume.ticketOfSession == nil { sessionLost() }
        if volume.ledger.unsettled == 0, !orphans.isEmpty { settle() }
        if world.bug != nil { tamper(volume) }
    }

    /// The network brings something; false when it has nothing.
    func hear() -> Bool {
        guard let transport else { return false }
        var moved = false
        wakeUp {
            // More than one thing may have happened when the reactor looks.
            repeat { moved = transport.work() || moved } while moved && world.random.once(in: 3)
        }
        return moved
    }

    // MARK: Life

    /// Attaches, renews, detaches; false when there is nothing of that to do.
    func housekeep(isCalm: Bool) -> Bool {
        switch phase {
        case .detached:
            // Where only one may write, the other asks now and then.
            guard !isCalm, world.issuesCapabilities, world.scenario.isShared || world.random.once(in: 8)
            else { return false }
            attach()
        case .attaching: return false
        case .attached:
            if !isCalm, isVisiting ? counts.completed > visitedAt : world.random.once(in: 60) {
                world.note("leaves", number)
                phase = .leaving
                return true
            }
            return renew()
        case .leaving:
            guard openRequests == 0 else { return renew() }
            detach("has done all that it wanted")
        }
        return true
    }

    /// Attaches, does a little, and leaves.
    func visit() {
        guard phase == .detached, world.issuesCapabilities else { return }
        attach()
        isVisiting = true
        visitedAt = counts.completed
    }

    private func attach() {
        isVisiting = false
        world.note("attaches", number)
        phase = .attaching
        counts.attachments += 1
        let capability = world.issue(to: self)
        capabilities = [capability]
        (renewedTo, isRenewing, wantsCapability) = (0, false, false)
        grant = world.grant(to: self, by: capability)
        var options = SessionOptions(addresses: world.places, capability: capability.bytes)
        options.channels = 2
        options.channel.depth = 3
        options.channel.instance = Identifier.random(using: world.identifiers)
        options.takesOver = true
        options.random = world.identifiers
        let world = World(world)
        options.lookUp = { answer in answer(world.value.random.once(in: 4) ? [] : world.value.places) }
        let transport = SimulatedTransport(node: self)
        let volume = SimulatedVolume(node: self, transport: transport, options: options)
        self.transport = transport
        self.volume = volume
        wakeUp { volume.start() }
    }

    /// Gets a newer capability when half of the time of the old one is over, as this side measures it, or when the
    /// client says that it has ended.
    private func renew() -> Bool {
        guard world.issuesCapabilities, !isRenewing, let volume, volume.isReady, let last = capabilities.last,
            wantsCapability || world.now >= last.halfLife
        else { return false }
        let capability = world.issue(to: self)
        capabilities.append(capability)
        let index = capabilities.count - 1
        wantsCapability = false
        isRenewing = true
        world.note("renews", number, index)
        wakeUp {
            volume.renew(capability: capability.bytes) { [self] result in renewed(index, result) }
        }
        return true
    }

    private func renewed(_ index: Int, _ result: Result<ResourceState, ChannelError>) {
        guard !isDead, phase != .detached, volume?.ending == nil else { return }
        isRenewing = false
        defer { mayHaveEnough() }
        switch result {
        case .success:
            counts.renewed += 1
            renewedTo = index
        case .failure(.refused(_, let status, _)):
            world.note("is refused a renewal", number, Int(status.rawValue))
            switch status {
            case .expired, .notYetValid, .writerConflict, .busy: wantsCapability = true
            default:
                world.mustBeEnding(grant, status)
                close()
            }
        case .failure: break
        }
    }

    /// Gives the volume up: what is unanswered has failed.
    func detach(_ why: StaticString) {
        world.note(why, number)
        wakeUp { volume?.close() }
        if phase != .detached { world.fail("client \(number) does not end: \(description)") }
    }

    /// The client's process is killed: nobody hears of anything any more.
    func kill() {
        guard phase != .detached, let volume, let transport else { return }
        world.note("is killed", number)
        wakeUp {
            for member in volume.members where member.phase == .open && world.random.once(in: 2) {
                // It was about to go, with requests still unanswered.
                member.channel?.closeHandle(member.handle) { _ in }
            }
        }
        transport.die()
        isDead = true
        wakeUp { volume.close() }
        isDead = false
        for tag in requests.indices where requests[tag].isOpen {
            requests[tag].isOpen = false
            world.haunt(requests[tag])
        }
        forget()
    }

    private func forget() {
        if isVisiting { world.comesBack(1 - number) }
        isVisiting = false
        volume = nil
        transport = nil
        session = nil
        ends = [:]
        advice = nil
        isSentAstray = false
        acknowledged = [UInt64](repeating: 0, count: SimulatedDisk.blocks)
        phase = .detached
        orphans.forEach { world.haunt($0) }
        orphans.removeAll()
    }

    /// One of its connections breaks at its end.
    func loseConnection() {
        let links = (transport?.links ?? []).filter { $0.phase == .secured }
        guard !links.isEmpty else { return }
        let link = links[world.random.below(links.count)]
        wakeUp { link.lose("it was reset") }
    }

    // MARK: The application

    /// Begins some requests in one wake-up; false when it can take none.
    func submit(_ count: Int) -> Bool {
        guard phase == .attached, volume?.isReady == true else { return false }
        var moved = false
        wakeUp { for _ in 0..<count where submit() { moved = true } }
        return moved
    }

    /// The application goes on from where it is told that something has ended.
    func maySubmit() {
        guard !isDead, phase == .attached, world.isTroubled, world.random.once(in: 4) else { return }
        _ = submit()
    }

    private func submit() -> Bool {
        guard let tag = requests.firstIndex(where: { !$0.isOpen }) else { return false }
        let request = world.nextRequest()
        if request.opcode.isChange, overlaps(request) { return false }
        return begin(request, tag)
    }

    /// Sends so many FLUSHes in one wake-up.
    func flush(_ count: Int) {
        let free = requests.indices.filter { !requests[$0].isOpen }
        wakeUp { for tag in free.prefix(count) { _ = begin(SimulatedRequest(opcode: .flush), tag) } }
    }

    private func begin(_ wanted: SimulatedRequest, _ tag: Int) -> Bool {
        guard let volume else { return false }
        var request = wanted
        request.isOpen = true
        request.start = world.moment()
        request.life = world.life
        if request.opcode == .flush { request.needs = acknowledged }
        let buffer = unsafe memory + tag * SimulatedNode.bufferBytes
        if request.opcode.isChange {
            request.name = world.nameWrite(grant)
            request.expected = lastSeen[request.first]
            for block in 0..<SimulatedNode.blocksMax {
                let isExpected = request.opcode == .compareAndWrite && block == 0
                unsafe BlockBytes.fill(
                    buffer + block * SimulatedDisk.blockBytes,
                    isExpected ? request.expected : request.name)
            }
        }
        let isTaken = unsafe volume.submit(
            ChannelRequest(
                request.opcode, flags: request.isForced ? .fua : [], handle: 0,
                offset: UInt64(request.first * SimulatedDisk.blockBytes),
                count: UInt32(request.count * SimulatedDisk.blockBytes),
                buffer: request.opcode == .flush ? nil : buffer, tag: UInt64(tag)))
        guard isTaken else { return false }
        requests[tag] = request
        if request.opcode.isChange {
            for block in request.first..<request.first + request.count {
                world.history[block].writeStarted(request.name, at: request.start)
            }
        }
        world.note(request.opcode, number, Int(request.name))
        return true
    }

    /// Whether a change of the same bytes is open. A restarted server does not know what became of it, so that it is
    /// repeated, on top of what came after it: no kernel has two writes of a page under way.
    private func overlaps(_ request: SimulatedRequest) -> Bool {
        guard world.bug != .clientChangesWhatItChanges else { return false }
        return requests.contains {
            $0.isOpen && $0.opcode.isChange && $0.first < request.first + request.count
                && request.first < $0.first + $0.count
        }
    }

    /// The application has waited long enough for one of its requests.
    func giveUp() {
        guard let tag = requests.firstIndex(where: { $0.isOpen }), phase == .attached, let volume else {
            return
        }
        world.note("gives up", number, Int(requests[tag].name))
        counts.givenUp += 1
        wakeUp { volume.giveUp(tag: UInt64(tag)) }
    }

    /// The application gave a write up that may still be done.
    func orphan(_ request: SimulatedRequest) {
        orphans.append(request)
        world.writeFailed(request, isOver: false)
    }

    /// The writes that were given up are done, or never will be.
    private func settle() {
        orphans.forEach { world.writeFailed($0, isOver: true) }
        orphans.removeAll()
    }

    // MARK: What the client says

    /// The application closes the client, whatever that is about.
    private func close() {
        if world.bug == .closeForgetsWhatWaits {
            for member in volume?.members ?? [] where member.channel?.state == .closed {
                for slot in 0..<member.core.depth { unsafe member.core.flights[slot].phase = .free }
            }
        }
        volume?.close()
    }

    /// Whatever it is told may make the application close the client, there and then.
    func mayHaveEnough() {
        guard !isDead, phase == .attached, world.isTroubled, world.random.once(in: 400) else { return }
        world.note("has enough", number)
        close()
    }

    func heard(_ event: ChannelEvent) {
        guard !isDead else { return }
        defer { mayHaveEnough() }
        if case .draining(_, let target) = event, let place = try? SocketAddress(text: target) {
            world.note("is sent elsewhere", number, Int(place.port))
            advice = place
            if place == SessionSimulator.stranger { isSentAstray = true }
            counts.redirected += 1
        }
    }

    func interrupted(by reason: ChannelError) {
        guard !isDead else { return }
        defer { mayHaveEnough() }
        world.note("is interrupted", number)
        interruptedAt = volume?.interruption?.since ?? interruptedAt
        switch reason {
        case .violation, .tls, .superseded, .closed: world.fail("client \(number): \(reason)")
        case .refused(.hello, let status, _):
            if ![.notFound, .busy, .draining].contains(status) { world.fail("client \(number): \(reason)") }
        case .refused, .unreachable, .timedOut, .lost, .expired: break
        }
    }

    /// All its channels work again. Where they do at a place that it was sent to, a stranger that it was sent to before is
    /// no place of its any more.
    func isBack() {
        guard let volume, let advice, advice != SessionSimulator.stranger,
            volume.members.allSatisfy({ $0.channel?.address == advice })
        else { return }
        isSentAstray = false
    }

    func needsCapability() {
        guard !isDead else { return }
        world.note("wants a capability", number)
        wantsCapability = true
        mayHaveEnough()
    }

    /// The server does not know the session any more.
    private func sessionLost() {
        world.note("has lost its session", number)
        counts.sessionsLost += 1
        // Who finds nobody else for long believes in the end what it hears where it was sent by mistake.
        let isAstray = isSentAstray && world.now - interruptedAt >= Backoff.soonNanoseconds
        if !isAstray { world.mustHaveEnded(grant) }
        session = nil
        ends = [:]
        if let last = capabilities.last { grant = world.grant(to: self, by: last) }
        leftoversBegin()
        orphans.forEach { world.haunt($0) }
        orphans.removeAll()
    }

    /// What was never begun is the next session's, if nobody else has written.
    private func leftoversBegin() {
        guard let volume else { return }
        for index in unsafe volume.leftovers.indices {
            world.move(&requests[Int(unsafe volume.leftovers[index].tag)], to: grant)
        }
    }

    func closed(_ error: ChannelError) {
        guard !isDead else { return }
        world.note("has ended", number)
        if openRequests > 0 { world.fail("client \(number) ends and \(openRequests) requests do not") }
        let wasReady = volume?.isReady == true
        switch error {
        case .closed: break
        case .superseded: counts.superseded += 1
        case .refused(_, .writerConflict, _): if wasReady { world.mustHaveEnded(grant) }
        case .refused(.open, .staleEpoch, _) where (volume?.state?.epoch ?? .max) < world.volume.epoch: break
        case .refused(_, let status, _) where wasReady: world.mustBeEnding(grant, status)
        case .refused(.hello, .busy, _), .refused(.hello, .draining, _), .refused(.open, .busy, _): break
        case .refused(.hello, .notFound, _) where isSentAstray: break
        // A clock was set back.
        case .refused(.open, .notYetValid, _): break
        case .refused(_, let status, _): world.mustBeEnding(grant, status)
        case .unreachable, .lost, .timedOut:
            if wasReady { world.fail("client \(number) gives up: \(error)") }
        case .violation, .tls, .expired: world.fail("client \(number): \(error)")
        }
        forget()
    }

    // MARK: What goes over its connections

    /// A frame leaves.
    func says(_ link: SimulatedLink, _ header: RequestHeader, _ payload: [UInt8]) {
        switch header.knownOpcode {
        case .hello: link.channelNumber = (try? Hello(bytes: payload))?.resumes
        case .open:
            if let open = try? OpenRequest(bytes: payload) { offers(link, open.capability, isOpening: true) }
        case .renew:
            if let renew = try? RenewRequest(bytes: payload) {
                offers(link, renew.capability, isOpening: false)
            }
        default: break
        }
    }

    private func offers(_ link: SimulatedLink, _ bytes: [UInt8], isOpening: Bool) {
        guard let index = capabilities.lastIndex(where: { $0.bytes == bytes }) else {
            return world.fail("client \(number) offers a capability that it never got")
        }
        if index < renewedTo {
            world.fail("client \(number) offers a capability in whose place another one was taken")
        }
        link.sentAt = world.now
        link.sentExpiry = capabilities[index].expiry
        link.sentIndex = index
        world.mayUse(capabilities[index], grant)
    }

    /// A frame arrives.
    func hears(_ link: SimulatedLink, _ header: ReplyHeader, _ payload: [UInt8]) {
        guard !header.isEvent, let status = header.knownStatus else { return }
        switch Opcode(rawValue: header.opcode) {
        case .hello: if status == .ok, let reply = try? HelloReply(bytes: payload) { greeted(link, reply) }
        case .open where status == .ok: opened(link)
        case .renew where status == .ok: taken(link)
        case .open, .renew: world.note("is refused", number, Int(status.rawValue))
        default:
            guard status == .expired, header.opcode >= Opcode.read.rawValue else { return }
            world.note("waits for a capability", number)
            counts.heldExpired += 1
            if let number = link.channelNumber, let known = ends[number] {
                world.mustBeLate(self, end: min(known.end, known.before))
            }
        }
    }

    private func greeted(_ link: SimulatedLink, _ reply: HelloReply) {
        link.channelNumber = reply.channel
        guard reply.resumption == .fresh else { return counts.resumed += 1 }
        guard reply.secret.contains(where: { $0 != 0 }) else { return }
        if session != nil { world.fail("client \(number) begins a session and has one") }
        session = reply.session
        world.begins(reply.session, grant)
        leftoversBegin()
    }

    private func opened(_ link: SimulatedLink) {
        world.note("is open", number)
        world.opens(grant)
        if phase == .attaching {
            // Whatever an older process of this machine had under way is over now.
            if !world.scenario.isShared { world.settleGhosts() }
            phase = .attached
        }
        taken(link)
    }

    /// A request that was sent before may be answered after renewals, or be repeated after a resume and answered as it was
    /// then: by what held when it came first.
    private func taken(_ link: SimulatedLink) {
        guard let number = link.channelNumber else { return }
        let known = ends[number]
        ends[number] = (
            world.endAtTheEarliest(link.sentExpiry, takenSince: link.sentAt),
            min(known?.end ?? .max, known?.before ?? .max), link.sentIndex
        )
    }
}
