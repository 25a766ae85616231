import Capability
import Core
import DriverKit
import Simulation

@testable import Reactor
@testable import Services

/// Clients, network, server and disk in one thread and without a clock: a seed decides what happens next.
///
/// The server's services and the client's protocol core are the real ones.
final class SessionSimulator {
    /// A step, for the trace of a failure.
    struct Trace {
        var step = 0
        var now: UInt64 = 0
        var what: StaticString = ""
        var number = 0
        var detail = 0
    }

    /// What is known of a write.
    struct Write {
        var grant = 0
        /// The latest places of its blocks, even and odd, in the order of all writes to the disk: a write has no
        /// more than two, side by side.
        var versions: (UInt64, UInt64) = (0, 0)
        /// The server's life in which it was done.
        var doneIn = -1
    }

    /// What a client was allowed, once.
    struct Grant {
        var client: Int
        var capability: Identifier
        var epoch: UInt64
        var expiry: UInt64
        /// Somebody took it away, and was told that this is in force.
        var isOver = false
    }

    static let cluster = Identifier(high: 0xC1, low: 0x57E4)
    static let millisecond: UInt64 = 1_000_000

    let seed: UInt64
    var random: SplitMix
    let identifiers: SimulatedRandom
    let serverClock = SimulatedClock()
    private(set) var now: UInt64 = 1
    /// Counts moments, so that no two are the same.
    private var momentNumber: UInt64 = 1
    private(set) var clients: [SimulatedClient] = []
    private var server: SimulatedServer?
    private var connections: [SimulatedConnection] = []
    private var connectionCount = 0
    var disk = SimulatedDisk()
    private(set) var volume: VolumeDescriptor
    /// The machine's life: a loss of power begins another.
    private(set) var life = 0
    /// The server process's life.
    private(set) var serverLife = 0
    var history = [BlockHistory](repeating: BlockHistory(), count: SimulatedDisk.blocks)
    private var writes: [Write] = [Write()]
    private var grants: [Grant] = []
    private var faults = true
    let mayFailRequests: Bool
    private let rarity: Int
    private(set) var steps = 0
    private(set) var failure: String?
    private(set) var trace: [Trace] = []

    init(seed: UInt64) {
        self.seed = seed
        random = SplitMix(seed: seed)
        identifiers = SimulatedRandom(seed: seed)
        rarity = 2 << random.below(5)
        mayFailRequests = random.once(in: 4)
        volume = VolumeDescriptor(
            id: Identifier(high: 0x701, low: 1), name: "v", pool: "p", size: 4096,
            accessMode: random.once(in: 4) ? .shared : .singleWriter, epoch: 1)
        clients = (0..<2).map { SimulatedClient(number: $0, world: self) }
        server = SimulatedServer(world: self)
    }

    /// Runs a scenario: trouble, and then calm in which all must end well.
    func run(steps total: Int) {
        while steps < total, failure == nil { step() }
        faults = false
        if failure == nil { settle() }
        server?.dismantle()
        server = nil
        connections = []
    }

    func fail(_ message: String) {
        if failure == nil { failure = message }
    }

    func note(_ what: StaticString, _ number: Int = 0, _ detail: Int = 0) {
        trace.append(Trace(step: steps, now: now, what: what, number: number, detail: detail))
    }

    /// Seed, what went wrong, and the last steps.
    var account: String {
        var lines = ["SLUICE_SEED=\(seed) step \(steps): \(failure ?? "nothing wrong")"]
        for entry in trace.suffix(60) {
            lines.append(
                "  \(entry.step) at \(entry.now / 1000) us: \(entry.number) \(entry.what) \(entry.detail)")
        }
        return lines.joined(separator: "\n")
    }

    var completed: Int { clients.reduce(0) { $0 + $1.completed } }
    var failedRequests: Int { clients.reduce(0) { $0 + $1.failed } }
    var attachments: Int { clients.reduce(0) { $0 + $1.attachments } }

    // MARK: For the parts

    func moment() -> UInt64 {
        momentNumber += 1
        return momentNumber
    }

    /// A connection to the server; nil when there is none.
    func connect(_ client: SimulatedClient) -> SimulatedConnection? {
        guard let server else { return nil }
        connectionCount += 1
        let connection = SimulatedConnection(
            number: connectionCount, server: server, reactor: random.below(2), thumbprint: client.thumbprint)
        connections.append(connection)
        return connection
    }

    /// A capability for the volume as it is now.
    func issue(to client: SimulatedClient) -> (grant: Int, capability: [UInt8]) {
        let wall = serverClock.now()
        let grant = Grant(
            client: client.number, capability: Identifier.random(using: identifiers), epoch: volume.epoch,
            expiry: wall + 30 + UInt64(random.below(60)))
        grants.append(grant)
        let claims = Claims(
            issuer: SessionSimulator.cluster, audience: SessionSimulator.cluster,
            capability: grant.capability, subject: client.node, issuedAt: wall, notBefore: wall - 1,
            expiry: grant.expiry, holder: client.thumbprint, kind: .volume, resource: volume.id,
            rights: [.read, .write, .flush, .discard], resourceEpoch: grant.epoch,
            nodeEpoch: client.nodeEpoch)
        do throws(CapabilityError) {
            let keys = NoSignatures()
            let capability = try Capability.mint(
                claims, keyID: NoSignatures.keyID, signer: keys, keys: keys)
            return (grants.count - 1, try capability.sealed(keys: keys).bytes)
        } catch { preconditionFailure("no capability: \(error)") }
    }

    /// A value that no other write has.
    func nameWrite(_ grant: Int) -> UInt64 {
        writes.append(Write(grant: grant))
        return UInt64(writes.count - 1)
    }

    /// The place of a write in the order of all writes to one of its blocks.
    func version(of name: UInt64, block: Int) -> UInt64 {
        block & 1 == 0 ? writes[Int(name)].versions.0 : writes[Int(name)].versions.1
    }

    /// What an acknowledged write or a read says of a block.
    func observe(_ block: Int, _ name: UInt64, start: UInt64, end: UInt64, isWrite: Bool) {
        if name == BlockBytes.torn { return fail("block \(block) is torn") }
        if let wrong = history[block].observed(name, start: start, end: end, isWrite: isWrite) {
            fail("block \(block): \(wrong)")
        }
    }

    func work(_ queue: SimulatedQueue) -> Bool { queue.work(faults: faults) }

    func writeReachesDriver(_ name: UInt64) {
        note("driver takes", 0, Int(name))
        if writes[Int(name)].doneIn == serverLife { fail("write \(name) is executed twice") }
        authorize(name)
    }

    func writeReachesDisk(_ name: UInt64) {
        authorize(name)
    }

    func wrote(_ name: UInt64, block: Int, version: UInt64) {
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

    private func authorize(_ name: UInt64) {
        if grants[writes[Int(name)].grant].isOver { fail("write \(name) runs, and its authority is over") }
    }

    // MARK: Steps

    /// One thing happens.
    func step() {
        steps += 1
        now += UInt64(random.below(20_000))
        var isIdle = true
        switch random.below(100) {
        case 0..<20:
            if faults { isIdle = !clients[random.below(clients.count)].submit() }
        case 20..<40: isIdle = !deliverToServer()
        case 40..<55: isIdle = !deliverToClient()
        case 55..<70: isIdle = !stepReactor()
        case 70..<88: isIdle = !workInDriver()
        case 88..<92: isIdle = !(server.map { $0.jobs.runNext() || $0.work.runNext() } ?? false)
        case 92..<96:
            isIdle = !clients[random.below(clients.count)].housekeep(isCalm: !faults)
        default:
            if faults, random.once(in: rarity) { breakSomething() }
        }
        if isIdle { now += UInt64(random.below(400_000)) }
        serverClock.monotonic = now
        check()
    }

    private func deliverToServer() -> Bool {
        guard !connections.isEmpty else { return false }
        let index = random.below(connections.count)
        let moved = connections[index].receive()
        if connections[index].isGone { connections.remove(at: index) }
        return moved
    }

    private func deliverToClient() -> Bool {
        let client = clients[random.below(clients.count)]
        guard !client.channels.isEmpty else { return false }
        return client.hear(client.channels[random.below(client.channels.count)])
    }

    private func stepReactor() -> Bool {
        guard let server else { return false }
        server.reactors[random.below(2)].step(now: now)
        return true
    }

    private func workInDriver() -> Bool {
        guard let server else { return false }
        let queue = server.driver.queues[random.below(2)]
        var moved = false
        for _ in 0..<1 + random.below(4) where queue.work(faults: faults) { moved = true }
        if faults, random.once(in: 40) {
            // The system writes a block back of its own accord.
            let block = random.below(SimulatedDisk.blocks)
            disk.sync(block..<block + 1)
        }
        return moved
    }

    private func breakSomething() {
        let client = clients[random.below(clients.count)]
        guard let channel = client.channels.first(where: { $0.connection != nil }) else { return }
        note("connection breaks", client.number)
        client.lose(channel)
    }

    private func check() {}

    /// Without faults, everything that was asked must be answered within bounded steps.
    private func settle() {
        for _ in 0..<400 {
            for _ in 0..<20 where failure == nil { step() }
            for connection in connections { while connection.receive() {} }
            connections.removeAll { $0.isGone }
            if failure != nil || clients.allSatisfy({ $0.openRequests == 0 }) { return }
        }
        fail("not settled: \(clients.map(\.openRequests)) requests open")
    }
}

// SAFETY: it is used on the simulation's only thread.
/// The server's time of day.
final class SimulatedClock: WallClock, @unchecked Sendable {
    var monotonic: UInt64 = 0
    /// How far it is off, in seconds.
    var skew: Int64 = 0

    func now() -> UInt64 { UInt64(1_800_000_000 + skew) + monotonic / 1_000_000_000 }
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
