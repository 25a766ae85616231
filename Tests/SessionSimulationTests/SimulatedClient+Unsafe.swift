import Capability
import Core
import Simulation
import Wire

@testable import SluiceClient

/// One channel of a client through all its connections: the real protocol core, and the connection of now.
final class SimulatedChannel {
    enum State {
        /// No connection, and none is to be made now: another channel's is needed first.
        case idle
        /// No connection; the next chance makes one.
        case waiting
        /// HELLO is not answered.
        case greeting
        /// OPEN is not answered.
        case opening
        case open
    }

    let core: ChannelCore
    var connection: SimulatedConnection?
    var state = State.idle
    var handle: UInt32 = 0
    /// The capability that the handle has.
    var capability: Identifier?
    var isRenewing = false
    /// When the capability was sent that is being opened or renewed with, and its end.
    var sentAt: UInt64 = 0
    var sentExpiry: UInt64 = 0
    /// When the handle can end at the earliest, in seconds of the clock for lives.
    var end = Int64.max
    /// The least of those before.
    var endBefore = Int64.max

    init(ledger: SessionLedger, holdsExpired: Bool) {
        core = ChannelCore(ledger: ledger)
        core.holdsExpired = holdsExpired
    }
}

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

// SAFETY: `memory` is the client's own from init to deinit, a piece for each request that the application can have.
/// A compute node: the channels of one session, an application that reads, writes and flushes, and what it is told.
///
/// What `VolumeClient` does with its channels is done here in small, without sockets.
@safe
final class SimulatedClient {
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
    private(set) var phase = Phase.detached
    private(set) var channels: [SimulatedChannel] = []
    private(set) var session: Identifier?
    private var secret: [UInt8] = []
    /// What its writes are named after.
    private(set) var grant = 0
    private var capability = SimulatedCapability()
    private var epoch: UInt64 = 0
    /// Of the process that has the volume attached.
    private var instance = Identifier.zero
    /// What it knows of the volume's writer.
    private var writerGeneration: UInt64?
    private var isShared = false
    private var isVisiting = false
    /// Requests wait for a capability that has not ended.
    private var isExpired = false
    private var visitedAt = 0
    var ledger = SessionLedger()
    private var owesFlushFailure = false
    private var leftovers: [ChannelRequest] = unsafe []
    var requests = [SimulatedRequest](repeating: SimulatedRequest(), count: requestsMax)
    let memory: UnsafeMutableRawPointer
    /// Of each block, the newest write that was acknowledged and not given up as lost: its place on the disk.
    var acknowledged = [UInt64](repeating: 0, count: SimulatedDisk.blocks)
    /// What it last knew each block to hold.
    var lastSeen = [UInt64](repeating: 0, count: SimulatedDisk.blocks)
    /// Writes whose issue was never learnt, and that may still be done.
    private var orphans: [SimulatedRequest] = []
    var counts = Counts()

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
    }

    init(number: Int, world: SessionSimulator) {
        self.number = number
        self.world = world
        node = Identifier(high: 0xA0DE, low: UInt64(number))
        thumbprint = Digest32(first: Identifier(high: 0xCE7, low: UInt64(number)), second: .zero)
        unsafe memory = .allocate(
            byteCount: SimulatedClient.requestsMax * SimulatedClient.bufferBytes, alignment: 64)
    }

    deinit { unsafe memory.deallocate() }

    var openRequests: Int { requests.reduce(0) { $0 + ($1.isOpen ? 1 : 0) } }
    /// Whether it has all that it wants: no request is open and no channel on its way.
    var isSettled: Bool {
        openRequests == 0
            && (phase == .detached || phase == .attached && channels.allSatisfy { $0.state == .open })
    }

    // MARK: Life

    /// Connects, reconnects, attaches, renews, detaches; false when there is nothing of that to do.
    func housekeep(isCalm: Bool) -> Bool {
        switch phase {
        case .detached:
            // Where only one may write, the other asks now and then.
            guard !isCalm, world.issuesCapabilities, world.scenario.isShared || world.random.once(in: 8)
            else { return false }
            attach()
        case .attaching: return connectMore()
        case .attached:
            if !isCalm, isVisiting ? counts.completed > visitedAt : world.random.once(in: 60) {
                world.note("leaves", number)
                phase = .leaving
                return true
            }
            return renew() || connectMore()
        case .leaving:
            guard openRequests == 0 else { return renew() || connectMore() }
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
        instance = Identifier.random(using: world.identifiers)
        writerGeneration = nil
        ledger = SessionLedger()
        capability = world.issue(to: self)
        grant = world.grant(to: self, by: capability)
        channels = (0..<2).map { _ in
            SimulatedChannel(ledger: ledger, holdsExpired: world.bug != .clientTellsOfExpiry)
        }
        isExpired = false
        channels[0].state = .waiting
    }

    private func connectMore() -> Bool {
        guard let channel = channels.first(where: { $0.state == .waiting }),
            session != nil || channels.allSatisfy({ $0 === channel || $0.state == .idle }),
            let connection = world.connect(self)
        else { return false }
        world.note("connects", number, connection.number)
        channel.connection = connection
        channel.state = .greeting
        var hello = Hello(features: .resume, slots: 4, instance: instance)
        if let session {
            hello.session = session
            hello.secret = secret
        }
        if channel.core.isSuspended {
            hello.resumes = channel.core.greeting?.channel
            hello.slots = UInt16(channel.core.slots)
        }
        let body = hello.bytes
        connection.send(RequestHeader(length: UInt32(body.count), opcode: Opcode.hello.rawValue).bytes + body)
        return true
    }

    /// Gets a newer capability when half of the time of the old one is over, as this side measures it, or when the
    /// server says that it has ended.
    private func renew() -> Bool {
        // What found no free slot when it was to be sent again finds one later.
        if !isExpired, unsafe !leftovers.isEmpty { sendLeftovers() }
        guard world.issuesCapabilities else { return false }
        let isAsked = isExpired && channels.contains { $0.state == .open }
        if world.now >= capability.halfLife || isAsked && !channels.contains(where: { $0.isRenewing }) {
            capability = world.issue(to: self)
        }
        for channel in channels where channel.state == .open && !channel.isRenewing {
            guard channel.capability != capability.id, let connection = channel.connection else { continue }
            let body = RenewRequest(capability: capability.bytes).bytes
            guard
                let header = channel.core.beginControl(.renew, handle: channel.handle, bodyBytes: body.count)
            else { continue }
            channel.isRenewing = true
            channel.capability = capability.id
            channel.sentAt = world.now
            channel.sentExpiry = capability.expiry
            world.mayUse(capability, grant)
            connection.send(header.bytes + body)
            return true
        }
        return false
    }

    /// Gives the volume up: what is unanswered has failed.
    func detach(_ why: StaticString) {
        world.note(why, number)
        for channel in channels {
            channel.connection?.closeClient(inOrder: true)
            channel.connection = nil
            channel.core.abandon(.ioError)
            unsafe leftovers += channel.core.takeExpired()
            hand(channel)
        }
        while let request = unsafe leftovers.popLast() { fail(Int(unsafe request.tag), .ioError) }
        forget()
    }

    /// The client's process is killed: nobody hears of anything any more.
    func kill() {
        guard phase != .detached else { return }
        world.note("is killed", number)
        for channel in channels {
            if channel.state == .open, let connection = channel.connection, world.random.once(in: 2),
                let close = channel.core.beginControl(.close, handle: channel.handle, bodyBytes: 0)
            {
                // It was about to go, with requests still unanswered.
                connection.send(close.bytes)
            }
            channel.connection?.closeClient(inOrder: false)
        }
        for tag in requests.indices where requests[tag].isOpen {
            requests[tag].isOpen = false
            world.haunt(requests[tag])
        }
        forget()
    }

    private func forget() {
        if isVisiting { world.comesBack(1 - number) }
        isVisiting = false
        unsafe leftovers = unsafe []
        channels = []
        session = nil
        owesFlushFailure = false
        acknowledged = [UInt64](repeating: 0, count: SimulatedDisk.blocks)
        phase = .detached
        orphans.forEach { world.haunt($0) }
        orphans.removeAll()
    }

    // MARK: The application

    /// Begins a request; false when it can take none.
    func submit() -> Bool {
        guard phase == .attached, unsafe leftovers.isEmpty,
            let tag = requests.firstIndex(where: { !$0.isOpen })
        else { return false }
        var request = world.nextRequest()
        if request.opcode.isChange, ledger.unsettled > 0 || overlaps(request) { return false }
        request.isOpen = true
        request.start = world.moment()
        request.life = world.life
        if request.opcode == .flush {
            request.needs = acknowledged
            if owesFlushFailure {
                owesFlushFailure = false
                requests[tag] = request
                world.note("is told that a flush failed", number)
                fail(tag, .ioError)
                return true
            }
        }
        let buffer = unsafe memory + tag * SimulatedClient.bufferBytes
        if request.opcode.isChange {
            request.name = world.nameWrite(grant)
            request.expected = lastSeen[request.first]
            for block in 0..<SimulatedClient.blocksMax {
                let isExpected = request.opcode == .compareAndWrite && block == 0
                unsafe BlockBytes.fill(
                    buffer + block * SimulatedDisk.blockBytes,
                    isExpected ? request.expected : request.name)
            }
        }
        let wire = unsafe ChannelRequest(
            request.opcode, flags: request.isForced ? .fua : [], handle: 0,
            offset: UInt64(request.first * SimulatedDisk.blockBytes),
            count: UInt32(request.count * SimulatedDisk.blockBytes),
            buffer: request.opcode == .flush ? nil : buffer, tag: UInt64(tag))
        guard unsafe route(wire) else { return false }
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

    /// Sends a request on some channel that takes it.
    private func route(_ request: ChannelRequest) -> Bool {
        var request = unsafe request
        let first = world.random.below(channels.count)
        for offset in 0..<channels.count {
            let channel = channels[(first + offset) % channels.count]
            guard channel.state == .open, let connection = channel.connection else { continue }
            unsafe request.handle = channel.handle
            guard let header = unsafe channel.core.begin(request) else { continue }
            var frame = header.bytes
            if header.length > 0 {
                frame += unsafe Array(
                    UnsafeRawBufferPointer(start: request.buffer, count: Int(header.length)))
            }
            connection.send(frame)
            return true
        }
        return false
    }

    /// The application has waited long enough for one of its requests.
    func giveUp() {
        guard let tag = requests.firstIndex(where: { $0.isOpen }), phase == .attached else { return }
        world.note("gives up", number, Int(requests[tag].name))
        counts.givenUp += 1
        for channel in channels {
            channel.core.giveUp(tag: UInt64(tag))
            hand(channel)
        }
        let waiting = unsafe leftovers.count
        unsafe leftovers.removeAll { unsafe $0.tag == UInt64(tag) }
        if unsafe leftovers.count < waiting { fail(tag, .timedOut) }
    }

    // MARK: What arrives

    /// Takes in what has arrived on a connection, or some of it; false when there is nothing to do.
    func hear(_ channel: SimulatedChannel) -> Bool {
        guard let connection = channel.connection, !connection.isFrozen else { return false }
        let count = min(
            connection.toClient.count, world.random.once(in: 3) ? 1 + world.random.below(100) : .max)
        guard count > 0 else {
            guard connection.isServerClosed else { return false }
            lose(channel)
            return true
        }
        let bytes = connection.toClient.take(count)
        connection.windowOpened()
        do throws(ChannelError) {
            var at = 0
            while at < bytes.count {
                let isDirect = channel.core.isRoomDirect
                let room = unsafe channel.core.room
                let piece = min(room.count, bytes.count - at)
                unsafe room.copyBytes(from: bytes[at..<at + piece])
                try channel.core.received(piece, isDirect: isDirect)
                at += piece
            }
        } catch {
            hand(channel)
            guard case .refused(_, let status, _) = error else {
                world.fail("client \(number): \(error)")
                return true
            }
            helloRefused(channel, status)
            return true
        }
        hand(channel)
        let notices = channel.core.notices
        channel.core.notices = []
        for notice in notices where channel.connection === connection { take(notice, channel) }
        return true
    }

    private func take(_ notice: ChannelNotice, _ channel: SimulatedChannel) {
        switch notice {
        case .hello(let reply):
            if session == nil {
                session = reply.session
                secret = reply.secret
                world.begins(reply.session, grant)
                leftoversBegin()
            }
            if reply.resumption != .fresh { counts.resumed += 1 }
            channel.state = .opening
            channel.capability = capability.id
            channel.sentAt = world.now
            channel.sentExpiry = capability.expiry
            world.mayUse(capability, grant)
            let body = OpenRequest(
                kind: .volume, rights: [], takesOver: phase == .attaching, capability: capability.bytes
            ).bytes
            guard let header = channel.core.beginControl(.open, handle: 0, bodyBytes: body.count) else {
                return world.fail("client \(number) has no slot for OPEN")
            }
            channel.connection?.send(header.bytes + body)
        case .state(let handle, let state):
            guard !isStale(state) else {
                counts.superseded += 1
                return detach("finds that somebody else has written")
            }
            // A request that was sent before may be answered after renewals, or be repeated after a resume and answered as
            // it was then: by what held when it came first.
            channel.endBefore = min(channel.end, channel.endBefore)
            channel.end = world.endAtTheEarliest(channel.sentExpiry, takenSince: channel.sentAt)
            if channel.state == .opening { opened(channel, handle, state) } else { renewed(channel) }
        case .done, .event: break
        case .settled: settle()
        case .expired: holdExpired(channel)
        case .refused(let opcode, let status, _): refused(channel, opcode, status)
        }
    }

    /// Whether somebody else has had the volume for writing since this client knew who had.
    private func isStale(_ state: ResourceState) -> Bool {
        guard state.accessMode == .singleWriter else { return false }
        let known = writerGeneration ?? state.writerGeneration
        writerGeneration = state.writerGeneration
        return known != state.writerGeneration && world.bug != .clientIgnoresWriters
    }

    private func opened(_ channel: SimulatedChannel, _ handle: UInt32, _ state: ResourceState) {
        if epoch != 0, phase != .attaching, state.epoch != epoch {
            if state.epoch < epoch { world.fail("the volume's epoch went back") }
            return detach("finds that the volume was given to others")
        }
        epoch = state.epoch
        isShared = state.accessMode == .shared
        world.opens(grant)
        if phase == .attaching {
            // Whatever an older process of this machine had under way is over now.
            if !isShared { world.settleGhosts() }
            phase = .attached
        }
        world.note("is open", number)
        channel.handle = handle
        channel.state = .open
        channel.isRenewing = false
        let minds = isShared && world.bug != .clientRepeatsAmongOthers
        while let next = unsafe channel.core.nextRepeat(handle: handle, isShared: minds) {
            counts.repeated += 1
            let payload = unsafe next.payload.map { unsafe Array($0) } ?? []
            world.note("repeats", number, Int(unsafe next.header.slot))
            channel.connection?.send(unsafe next.header.bytes + payload)
        }
        hand(channel)
        if channel.core.notices.contains(where: { if case .settled = $0 { true } else { false } }) {
            settle()
        }
        channel.core.notices = []
        for other in channels where other.state == .idle { other.state = .waiting }
        sendLeftovers()
    }

    private func renewed(_ channel: SimulatedChannel) {
        channel.isRenewing = false
        sendLeftovers()
    }

    /// Sends what the session before left over, or what waited for a capability.
    private func sendLeftovers() {
        isExpired = false
        while let next = unsafe leftovers.first {
            // A change that was given up may land still, and must not do so after this one.
            if ledger.unsettled > 0, unsafe next.opcode.isChange { return }
            guard unsafe route(next) else { return }
            unsafe leftovers.removeFirst()
        }
    }

    /// What was never begun is the next session's, if nobody else has written.
    private func leftoversBegin() {
        for index in unsafe leftovers.indices {
            world.move(&requests[Int(unsafe leftovers[index].tag)], to: grant)
        }
    }

    /// What FLUSHes that wait would cover is lost.
    private func failLeftoverFlushes() {
        let before = unsafe leftovers
        unsafe leftovers = unsafe before.filter { unsafe $0.opcode != .flush }
        for index in unsafe before.indices where unsafe before[index].opcode == .flush {
            fail(Int(unsafe before[index].tag), .ioError)
        }
    }

    /// Requests were refused because the capability has ended: they wait for another.
    private func holdExpired(_ channel: SimulatedChannel) {
        world.note("waits for a capability", number)
        world.mustBeLate(self, end: min(channel.end, channel.endBefore))
        let refused = unsafe channel.core.takeExpired()
        counts.heldExpired += unsafe refused.count
        unsafe leftovers += refused
        isExpired = true
    }

    private func refused(_ channel: SimulatedChannel, _ opcode: Opcode, _ status: Status) {
        world.note("is refused", number, Int(status.rawValue))
        switch (opcode, status) {
        case (.open, .expired), (.open, .notYetValid):
            capability = world.issue(to: self)
            lose(channel)
        case (.open, .writerConflict) where phase == .attaching: detach("finds another writer")
        case (.open, .writerConflict):
            world.mustHaveEnded(grant)
            detach("has lost its claim")
        case (.renew, .expired), (.renew, .notYetValid):
            capability = world.issue(to: self)
            channel.isRenewing = false
        case (.renew, .writerConflict): lose(channel)
        default:
            world.mustBeEnding(grant, status)
            detach("has lost the volume")
        }
    }

    private func helloRefused(_ channel: SimulatedChannel, _ status: Status) {
        world.note("is refused in HELLO", number, Int(status.rawValue))
        channel.connection?.closeClient(inOrder: false)
        channel.connection = nil
        channel.state = .waiting
        switch status {
        case .notFound: sessionLost()
        case .busy: break
        default: world.fail("client \(number) was answered \(status.name) to HELLO")
        }
    }

    /// The connection of a channel is gone.
    func lose(_ channel: SimulatedChannel) {
        world.note("loses a connection", number, channel.connection?.number ?? 0)
        unsafe leftovers += channel.core.takeExpired()
        channel.connection?.closeClient(inOrder: false)
        channel.connection = nil
        channel.isRenewing = false
        guard phase != .attaching else { return detach("has not come to open the volume") }
        if channel.core.isSuspended || channel.core.canResume {
            channel.core.suspend()
        } else {
            channel.core.abandon(.ioError)
        }
        channel.state = .waiting
        hand(channel)
    }

    /// The server does not know the session any more.
    private func sessionLost() {
        world.note("has lost its session", number)
        counts.sessionsLost += 1
        guard phase != .attaching else { return detach("has not come to open the volume") }
        world.mustHaveEnded(grant)
        let isLossy = ledger.lose()
        if isLossy, world.bug != .clientHidesLoss { owesFlushFailure = true }
        session = nil
        grant = world.grant(to: self, by: capability)
        for channel in channels {
            unsafe leftovers += channel.core.takeExpired()
            unsafe leftovers += channel.core.surrender(losesFlushes: isLossy)
            channel.connection?.closeClient(inOrder: true)
            channel.connection = nil
            channel.state = .idle
            channel.core.notices = []
            hand(channel)
        }
        if isLossy { failLeftoverFlushes() }
        leftoversBegin()
        orphans.forEach { world.haunt($0) }
        orphans.removeAll()
        channels[0].state = .waiting
    }

    /// Hands out what a channel has completed.
    func hand(_ channel: SimulatedChannel) {
        while channel.core.takeCompletions({ completions in
            for index in completions.indices { end(completions[index]) }
        }) {}
    }

    func fail(_ tag: Int, _ status: Status) {
        end(ChannelCompletion(tag: UInt64(tag), value: 0, status: status))
    }

    /// The application gave a write up that may still be done.
    func orphan(_ request: SimulatedRequest) {
        orphans.append(request)
        world.writeFailed(request, isOver: false)
    }

    /// The writes that were given up are done, or never will be.
    func settle() {
        orphans.forEach { world.writeFailed($0, isOver: true) }
        orphans.removeAll()
    }
}
