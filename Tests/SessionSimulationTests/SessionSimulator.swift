import Core
import Services
import Simulation
import Wire

@testable import Reactor
@testable import Services

/// Clients, network, server and disk in one thread and without a clock: a seed decides what happens next.
///
/// The server's services and the client are the real ones, but for sockets and TLS.
final class SessionSimulator {
    static let cluster = Identifier(high: 0xC1, low: 0x57E4)
    static let millisecond: UInt64 = 1_000_000
    /// Where servers can be, and where somebody else's is.
    static let addresses = [7481, 7482].map(address)
    static let stranger = address(7483)

    private static func address(_ port: UInt16) -> SocketAddress {
        do { return try SocketAddress(host: "127.0.0.1", port: port) } catch {
            preconditionFailure("no address: \(error)")
        }
    }

    /// Of a reactor that is stepped by hand.
    static var reactorOptions: Reactor.Options {
        var options = Reactor.Options()
        options.entries = 4
        options.receiveBufferCount = 1
        options.receiveBufferBytes = 4096
        return options
    }

    let seed: UInt64
    var random: SplitMix
    let identifiers: SimulatedRandom
    let serverClock = SimulatedClock()
    var now: UInt64 = 1
    /// How far the server's time of day was off, from when on: the newest last.
    private(set) var skews: [(since: UInt64, seconds: Int64)] = [(0, 0)]
    /// Counts moments, so that no two are the same.
    private var momentNumber: UInt64 = 1
    var clients: [SimulatedNode] = []
    var server: SimulatedServer?
    /// Where the server is reached now; never empty.
    var places = [addresses[0]]
    /// When the drain that is under way is over; nil when there is none.
    var drainEnd: UInt64?
    /// Where the server is reached then.
    var placesAfterDrain: [SocketAddress] = []
    /// The services of every server that there was, for as long as somebody keeps them.
    private var lives: [() -> IOServices?] = []
    /// What the disk has of dead servers, with a planted bug.
    var zombies: [SimulatedDriver] = []
    var connections: [SimulatedConnection] = []
    private var connectionCount = 0
    let store = SimulatedStore()
    var disk = SimulatedDisk()
    var volume: VolumeDescriptor
    /// The machine's life: a loss of power begins another.
    var life = 0
    /// The server process's life.
    var serverLife = 0
    /// When it is started again.
    var serverStart: UInt64 = 0
    var history = [BlockHistory](repeating: BlockHistory(), count: SimulatedDisk.blocks)
    private var writes: [Write] = [Write()]
    var grants: [Grant] = []
    /// Revoked capabilities and their ends, as the catalog has them.
    var revoked: [(id: Identifier, expiry: UInt64)] = []
    /// Writes whose clients do not wait for them, and which may still be done.
    private var ghosts: [SimulatedRequest] = []
    /// Clients, with the number of their attachment, that had the volume when another got it.
    private var formerWriters: Set<[Int]> = []
    /// Likewise, those that had it when another asked for it.
    private(set) var askedAway: Set<[Int]> = []
    /// Nothing is spared.
    private var faults = true
    var isTroubled: Bool { faults }
    let scenario: Scenario
    let bug: PlantedBug?
    var steps = 0
    /// The step from which on there was no more trouble.
    private(set) var calm = 0
    private(set) var failure: String?
    private(set) var trace: [Trace] = []
    var troubles: [Trouble: Int] = [:]

    /// Steps in which nothing is to happen; every step has random numbers of its own, so that the others stay as
    /// they are.
    let skipped: Set<Int>

    init(seed: UInt64, bug: PlantedBug? = nil, skipping skipped: Set<Int> = []) {
        self.seed = seed
        self.bug = bug
        self.skipped = skipped
        random = SplitMix(seed: seed)
        identifiers = SimulatedRandom(seed: seed)
        scenario = Scenario(&random, seed: seed)
        volume = VolumeDescriptor(
            id: Identifier(high: 0x701, low: 1), name: "v", pool: "p", size: 4096,
            accessMode: scenario.isShared ? .shared : .singleWriter, epoch: 1)
        clients = (0..<2).map { SimulatedNode(number: $0, world: self) }
        startServer()
    }

    /// Runs a scenario: trouble, and then calm in which all must end well.
    func run(steps total: Int) {
        while steps < total, failure == nil { step() }
        calm = steps
        if failure == nil { settle() }
        if failure == nil { windDown() }
        store.lose(0)
        server?.kill()
        server = nil
        zombies = []
        connections = []
        // A campaign of many seeds has not the memory to keep what is over.
        if failure == nil, lives.contains(where: { $0() != nil }) { fail("a server that is over is kept") }
    }

    func fail(_ message: String) {
        if failure == nil { failure = message }
    }

    func moment() -> UInt64 {
        momentNumber += 1
        return momentNumber
    }

    // MARK: Server and network

    func startServer() {
        let server = SimulatedServer(world: self)
        self.server = server
        lives.append { [weak services = server.services] in services }
        // What was taken away is in force from the start.
        for index in grants.indices where isTakenAway(grants[index]) { grants[index].isOver = true }
    }

    /// A client reaches the server again.
    func comesBack(_ number: Int) {
        clients[number].cutOffUntil = 0
        for connection in connections where connection.client == number && !connection.isSilent {
            connection.frozenUntil = 0
        }
    }

    /// Who answers a client that connects to an address.
    enum Listener {
        /// The network is parted.
        case nobody
        /// The machine is there, and no server is.
        case refusal
        case server(SimulatedServer)
        /// A server that knows nothing of the others.
        case stranger
    }

    func whoIs(at address: SocketAddress, for client: SimulatedNode) -> Listener {
        guard client.cutOffUntil <= now else { return .nobody }
        if address == SessionSimulator.stranger { return .stranger }
        guard let server, places.contains(address) else { return .refusal }
        return .server(server)
    }

    /// A connection to the server.
    func connect(_ client: SimulatedNode, to server: SimulatedServer) -> SimulatedConnection {
        connectionCount += 1
        let connection = SimulatedConnection(
            number: connectionCount, client: client.number, server: server, reactor: random.below(2),
            thumbprint: client.thumbprint)
        connections.append(connection)
        return connection
    }

    /// Somebody sets the server's clock.
    func setClock(by seconds: Int64) {
        serverClock.skew += seconds
        skews.append((now, serverClock.skew))
    }

    /// The furthest that the server's time of day has been ahead since then.
    func skewMost(since: UInt64) -> Int64 {
        let first = skews.lastIndex { $0.since <= since } ?? 0
        return skews[first...].reduce(Int64.min) { max($0, $1.seconds) }
    }

    /// The seconds of the clock for lives at which a handle can end at the earliest whose capability was taken between
    /// then and now.
    func endAtTheEarliest(_ expiry: UInt64, takenSince since: UInt64) -> Int64 {
        Int64(expiry) - SimulatedClock.epoch - skewMost(since: since)
    }

    // MARK: Writes

    /// What is known of a write.
    private struct Write {
        var grant = 0
        var life = 0
        /// The latest places of its blocks, even and odd, in the order of all writes to the disk: a write has no
        /// more than two, side by side.
        var versions: (UInt64, UInt64) = (0, 0)
        /// What was there before it.
        var replaced: UInt64 = 0
        /// The server's life in which it was done.
        var doneIn = -1
    }

    /// A value that no other write has.
    func nameWrite(_ grant: Int) -> UInt64 {
        writes.append(Write(grant: grant, life: life))
        return UInt64(writes.count - 1)
    }

    /// Another session of the same client is to execute a request that was never begun; of a write that is from before a
    /// loss of power, the new life of the disk knows nothing yet.
    func move(_ request: inout SimulatedRequest, to grant: Int) {
        guard request.name != 0 else { return }
        writes[Int(request.name)].grant = grant
        guard request.life != life else { return }
        writes[Int(request.name)].life = life
        request.life = life
        for block in request.first..<request.first + request.count {
            history[block].writeStarted(request.name, at: request.start)
        }
    }

    /// The place of a write in the order of all writes to one of its blocks; 0 when it was not done.
    func version(of name: UInt64, block: Int) -> UInt64 {
        block & 1 == 0 ? writes[Int(name)].versions.0 : writes[Int(name)].versions.1
    }

    /// What was there before a write of one block.
    func replaced(by name: UInt64) -> UInt64 { writes[Int(name)].replaced }

    /// What an acknowledged write or a read says of a block.
    func observe(_ block: Int, _ name: UInt64, start: UInt64, end: UInt64, isWrite: Bool) {
        if name == BlockBytes.torn { return fail("block \(block) is torn") }
        if let wrong = history[block].observed(name, start: start, end: end, isWrite: isWrite) {
            fail("block \(block): \(wrong)")
        }
    }

    /// A write has failed; until it is over, it may still be done.
    func writeFailed(_ request: SimulatedRequest, isOver: Bool) {
        guard request.name != 0, request.life == life else { return }
        let end = isOver ? moment() : nil
        for block in request.first..<request.first + request.count {
            history[block].writeFailed(request.name, decidedAt: end)
        }
    }

    /// A write may be done as long as its session has something under way.
    func haunt(_ request: SimulatedRequest) {
        ghosts.append(request)
        writeFailed(request, isOver: false)
    }

    /// Somebody has the volume alone: whatever other sessions had under way is over.
    func settleGhosts() {
        ghosts.forEach { writeFailed($0, isOver: true) }
        ghosts.removeAll()
    }

    func writeReachesDriver(_ name: UInt64) {
        if name == BlockBytes.torn { return fail("half a write reaches the driver") }
        note("driver takes", 0, Int(name))
        if writes[Int(name)].doneIn == serverLife { fail("write \(name) is executed twice") }
        if writes[Int(name)].life != life { fail("write \(name) is of before the loss of power") }
        authorize(name)
    }

    func write(_ name: UInt64, block: Int) {
        authorize(name)
        let grant = grants[writes[Int(name)].grant]
        if formerWriters.contains([grant.client, grant.attachment]) {
            fail("client \(grant.client) goes on though another has had the volume")
        }
        let before = disk.cache[block]
        let earlier = self.version(of: name, block: block)
        if earlier > 0, before.version > earlier,
            grants[writes[Int(before.name)].grant].client != grant.client
        {
            fail("write \(name) is repeated over what another client has written")
        }
        if before.name != name { writes[Int(name)].replaced = before.name }
        let version = disk.write(block, name)
        if block & 1 == 0 {
            writes[Int(name)].versions.0 = version
        } else {
            writes[Int(name)].versions.1 = version
        }
    }

    func writeEnds(_ name: UInt64) {
        note("driver ends", 0, Int(name))
        writes[Int(name)].doneIn = serverLife
    }

    /// The server hears that a client asks for the volume: whose claims are a courtesy may lose them, also who does not
    /// know yet that it has one, or is about to leave.
    func asks(_ number: Int) {
        for client in clients where client.phase != .detached && client.number != number {
            askedAway.insert([client.number, client.counts.attachments])
        }
    }

    /// A client is given the volume. Whoever has it meanwhile does not write later: it would go by what it remembers.
    func takes(_ number: Int) {
        guard !scenario.isShared, clients[number].phase == .attaching else { return }
        for client in clients where client.phase == .attached && client.number != number {
            formerWriters.insert([client.number, client.counts.attachments])
        }
    }

    private func authorize(_ name: UInt64) {
        if grants[writes[Int(name)].grant].isOver { fail("write \(name) runs, and its authority is over") }
    }

    /// The power fails and comes back: what was not flushed is lost.
    func losePower() {
        life += 1
        disk.losePower()
        history = disk.medium.map { BlockHistory(initial: $0.name) }
        ghosts.removeAll()
    }

    // MARK: Steps

    /// What an application wants next.
    func nextRequest() -> SimulatedRequest {
        var request = SimulatedRequest()
        request.first = random.below(SimulatedDisk.blocks)
        request.count = min(
            1 + random.below(SimulatedNode.blocksMax), SimulatedDisk.blocks - request.first)
        switch random.below(10) {
        case 0..<4: request.opcode = .read
        case 4..<7:
            request.opcode = .write
            request.isForced = random.once(in: 6)
        case 7..<9:
            request.opcode = .compareAndWrite
            request.count = 1
            request.isForced = random.once(in: 6)
        default:
            request.opcode = .flush
            request.first = 0
            request.count = 0
        }
        return request
    }

    /// One thing happens, unless nothing can just now.
    func step() {
        steps += 1
        random = SplitMix(seed: seed << 20 ^ UInt64(steps))
        now += UInt64(random.below(20_000))
        if !skipped.contains(steps) {
            var tries = 1
            while !act(), tries < 4 { tries += 1 }
            if tries == 4 { pass() }
        }
        if let drainEnd, now >= drainEnd { endDrain() }
        for client in clients where client.isDue { client.wakeUp() }
        if server == nil, now >= serverStart { startServer() }
        if bug != nil { server?.tamper() }
        serverClock.life.monotonic = now
        if steps & 15 == 0 { checkBounds() }
    }

    /// Nothing much happens: who waits for nothing but time may get it.
    private func pass() {
        let waits =
            clients.compactMap(\.waitsUntil)
            + connections.compactMap { $0.isFrozen ? $0.deadline.map { $0 + 1 } : nil }
        if let next = waits.min(), next > now, random.once(in: faults ? 3 : 1) {
            now = next
        } else {
            now += UInt64(random.below(400_000))
        }
    }

    private func act() -> Bool {
        let client = clients[random.below(clients.count)]
        switch random.below(100) {
        case 0..<14:
            return faults && client.submit(1 + random.below(4))
        case 14..<32: return deliverToServer()
        case 32..<46: return deliverToClient()
        case 46..<64: return stepReactor()
        case 64..<79: return workInDriver()
        case 79..<87: return server.map { $0.jobs.runNext() || $0.work.runNext() } ?? false
        case 87..<91:
            // What is done before it is written down shows only while that takes long.
            if scenario.storeIsSlow, faults, !random.once(in: 16) { return false }
            return store.sync(random.below(3))
        case 91..<97: return client.housekeep(isCalm: !faults)
        default:
            if faults, random.once(in: scenario.rarity) { makeTrouble(client) }
            return false
        }
    }

    /// Some connection on which there is something for the server.
    private func deliverToServer() -> Bool {
        guard !connections.isEmpty else { return false }
        let first = random.below(connections.count)
        for offset in 0..<connections.count {
            let index = (first + offset) % connections.count
            let moved = connections[index].receive()
            if connections[index].isGone {
                connections.remove(at: index)
                return true
            }
            if moved { return true }
        }
        return false
    }

    private func deliverToClient() -> Bool {
        let first = random.below(2)
        return clients[first].hear() || clients[1 - first].hear()
    }

    private func stepReactor() -> Bool {
        guard let server else { return false }
        server.reactors[random.below(2)].step(now: now)
        // Whether it had anything to do is not known.
        return random.once(in: 3)
    }

    private func workInDriver() -> Bool {
        for driver in zombies where random.once(in: 64) {
            for queue in driver.queues { _ = queue.work(faults: false) }
        }
        guard let server else { return false }
        let first = random.below(2)
        var moved = false
        for _ in 0..<1 + random.below(4) {
            let queue = server.driver.queues[first]
            let other = server.driver.queues[1 - first]
            if queue.work(faults: faults) || other.work(faults: faults) { moved = true }
        }
        if faults, random.once(in: 40) {
            // The system writes a block back of its own accord.
            let block = random.below(SimulatedDisk.blocks)
            disk.sync(block..<block + 1)
        }
        return moved
    }

    private func checkBounds() {
        guard let server else { return }
        let live = server.shards.reduce(0) { $0 + $1.channels.all.count { $0 != nil } }
        let inFlight = server.driver.inFlight
        // One that is gone may have an OPEN that waits for the pool's thread, or for the store.
        if live > connections.count + inFlight + store.waiting + 4 {
            fail("\(live) channels of \(connections.count) connections")
        }
        if inFlight > 2 * 8 * 4 { fail("\(inFlight) requests in the driver") }
    }

    /// Without faults, everything that was asked must be answered within bounded steps.
    private func settle() {
        faults = false
        for client in clients { client.cutOffUntil = 0 }
        for connection in connections where !connection.isSilent { connection.frozenUntil = 0 }
        if drainEnd != nil { endDrain() }
        for _ in 0..<500 {
            for _ in 0..<20 where failure == nil { step() }
            for connection in connections { while connection.receive() {} }
            connections.removeAll { $0.isGone }
            if failure != nil || clients.allSatisfy({ $0.lack == nil }) && server?.calls == 0 { return }
        }
        let lacks = clients.compactMap { client in client.lack.map { "client \(client.number) \($0)" } }
        let first =
            lacks.first ?? (server == nil ? "the server does not start" : "an administrator is not answered")
        fail(
            "\(first), nobody troubling: \(clients.map(\.description)), \(server?.description ?? "no server")"
        )
    }

    /// When all clients have gone and every time is over, the server has nothing of them any more.
    private func windDown() {
        for client in clients where client.phase != .detached { client.detach("goes home") }
        for connection in connections { connection.frozenUntil = 0 }
        for _ in 0..<40 {
            for _ in 0..<20 where failure == nil { step() }
            for connection in connections { while connection.receive() {} }
            connections.removeAll { $0.isGone }
            // In all more than a session lasts that nobody misses.
            now += 2 * 86_400 * 1_000_000_000
            if connections.isEmpty, store.sessions.isEmpty, server.map({ $0.remains == nil }) ?? false {
                return
            }
        }
        guard failure == nil, let server else { return }
        if let left = server.remains { fail("the server keeps \(left)") }
        if !store.sessions.isEmpty { fail("\(store.sessions.count) sessions stay written down") }
        if !connections.isEmpty { fail("\(connections.count) connections stay") }
    }

    // MARK: The trace

    /// A step, for the account of a failure.
    struct Trace: Equatable {
        enum Event {
            case told(StaticString)
            case asked(Opcode)
        }

        let step: Int
        let now: UInt64
        let event: Event
        let number: Int
        let detail: Int

        var what: String {
            switch event {
            case .told(let what): "\(what)"
            case .asked(let opcode): opcode.name
            }
        }

        static func == (one: Trace, other: Trace) -> Bool {
            one.step == other.step && one.now == other.now && one.number == other.number
                && one.detail == other.detail && one.what == other.what
        }
    }

    func note(_ what: StaticString, _ number: Int = 0, _ detail: Int = 0) {
        trace.append(Trace(step: steps, now: now, event: .told(what), number: number, detail: detail))
    }

    func note(_ opcode: Opcode, _ number: Int = 0, _ detail: Int = 0) {
        trace.append(Trace(step: steps, now: now, event: .asked(opcode), number: number, detail: detail))
    }

    /// Seed, what went wrong, and what had happened.
    var account: String {
        var lines = ["SLUICE_SEED=\(seed) step \(steps): \(failure ?? "nothing wrong")"]
        for entry in trace.suffix(200) {
            lines.append(
                "  \(entry.step) at \(entry.now / 1000) us: \(entry.number) \(entry.what) \(entry.detail)")
        }
        return lines.joined(separator: "\n")
    }
}

/// What a seed decides once.
struct Scenario {
    let isShared: Bool
    /// Requests may fail in the device.
    let requestsFail: Bool
    /// Trouble comes once in so many chances.
    let rarity: Int
    /// The disk of the catalog takes long: most of what sessions are waits to be written down. One seed in sixteen, by its
    /// number, so that all others do what they did.
    let storeIsSlow: Bool

    init(_ random: inout SplitMix, seed: UInt64) {
        isShared = random.once(in: 4)
        requestsFail = random.once(in: 4)
        rarity = 1 << random.below(5)
        storeIsSlow = seed.isMultiple(of: 16)
    }
}

// SAFETY: it is used on the simulation's only thread.
/// The server's time of day, and the clock that nobody sets.
final class SimulatedClock: WallClock, @unchecked Sendable {
    static let epoch: Int64 = 1_800_000_000
    let life = SimulatedLife()
    /// How far it is off, in seconds.
    var skew: Int64 = 0

    func now() -> UInt64 { UInt64(SimulatedClock.epoch + skew) + life.monotonic / 1_000_000_000 }
}

// SAFETY: it is used on the simulation's only thread.
/// The clock for lives.
final class SimulatedLife: MonotonicClock, @unchecked Sendable {
    var monotonic: UInt64 = 0
    func now() -> UInt64 { monotonic }
}

// SAFETY: it is used on the simulation's only thread.
/// Ids and secrets that a seed repeats.
final class SimulatedRandom: RandomSource, @unchecked Sendable {
    private var random: SplitMix

    init(seed: UInt64) { random = SplitMix(seed: ~seed) }

    func bytes(_ count: Int) -> [UInt8] {
        (0..<count).map { _ in UInt8(truncatingIfNeeded: random.next()) }
    }
}
