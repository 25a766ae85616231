import Capability
import Core
import DequeModule
import DriverKit
import Logging

@testable import Reactor
@testable import Services

/// One life of the server's process: the real services on two reactors that are stepped by hand.
final class SimulatedServer {
    unowned let world: SessionSimulator
    let services: IOServices
    let driver: SimulatedDriver
    private(set) var reactors: [Reactor] = []
    private(set) var shards: [ServiceShard] = []
    let work = SteppedWork()
    let jobs = SteppedExecutor()
    /// What a planted bug has changed already.
    var tampered: Set<KeptSlots> = []
    /// Administrative calls that have not returned.
    private(set) var calls = 0

    init(world: SessionSimulator) {
        self.world = world
        let driver = SimulatedDriver(world: world)
        self.driver = driver
        var logger = Logger(label: "simulation", factory: { _ in SwiftLogNoOpLogHandler() })
        logger.logLevel = .critical
        var configuration = IOServices.Configuration(
            cluster: SessionSimulator.cluster, serverName: "simulated", signatures: NoSignatures(),
            wallClock: world.serverClock, random: world.identifiers, logger: logger,
            driverFactory: { _ in driver })
        configuration.lifeClock = world.serverClock.life
        configuration.slotsMax = 4
        configuration.arenaBytes = 8 * Limits.arenaGranule
        configuration.poolExecutor = work.add
        configuration.sessionStore = StoreOfLife(world.store, driver, work, world.bug)
        services = IOServices(configuration: configuration)
        for _ in 0..<2 {
            do {
                let reactor = try Reactor(SessionSimulator.reactorOptions)
                reactor.step(now: world.now)
                reactors.append(reactor)
                shards.append(try services.makeShard(reactor: reactor))
            } catch { preconditionFailure("no reactor: \(error)") }
        }
        set(.trust(keys: [NoSignatures.keyID: NoSignatures.key]))
        set(.addPool(PoolDescriptor(name: "p", driver: "simulated", settings: [:], folder: "")))
        set(.publishVolume(world.volume))
        for client in world.clients {
            set(.setNode(id: client.node, name: "n\(client.number)", epoch: client.nodeEpoch))
        }
        for (id, expiry) in world.revoked {
            set(.revokeCapability(id, expiry: expiry, reason: "test"))
        }
        set(
            .restoreSessions(
                world.store.sessions.values.sorted { $0.id < $1.id }, writers: world.store.writers))
    }

    /// Performs an action to its end, before anything else happens.
    private func set(_ action: ServiceAction<Void>) {
        perform(action) { [world] result in
            if case .failure(let error) = result { world.fail("setting up: \(error)") }
        }
        var rounds = 0
        while calls > 0 {
            rounds += 1
            precondition(rounds < 1000, "an action does not end")
            _ = jobs.runNext() || work.runNext()
            for reactor in reactors { reactor.step(now: world.now) }
        }
    }

    /// Begins an action; `completion` is called in a later step.
    func perform<Answer>(
        _ action: ServiceAction<Answer>, _ completion: @escaping (Result<Answer, StatusError>) -> Void
    ) {
        calls += 1
        let end = Unshared { [self] (result: Result<Answer, StatusError>) in
            calls -= 1
            completion(result)
        }
        let services = services
        Task(executorPreference: jobs) {
            do throws(StatusError) {
                let outcome = try await services.perform(action)
                end.value(.success(outcome))
            } catch { end.value(.failure(error)) }
        }
    }

    /// Has the next action miss a reactor; what is returned undoes that.
    func hideShard() -> () -> Void {
        let all = services.state.withLock { $0.shards }
        services.state.withLock { _ = $0.shards.removeLast() }
        return { [services] in services.state.withLock { $0.shards = all } }
    }

    /// The process is killed. What it was doing for administrators ends without effect.
    func kill() {
        driver.isDead = true
        for connection in world.connections where connection.server === self { connection.breakServer() }
        var rounds = 0
        while calls > 0, rounds < 1000 {
            rounds += 1
            _ = jobs.runNext() || work.runNext()
            step()
        }
        if calls > 0 { world.fail("an administrator is never answered: \(description)") }
        dismantle()
    }

    /// What there is of clients, when there are none; nil if nothing.
    var remains: String? {
        let (sessions, kept, writers) = services.state.withLock { state in
            (
                state.directory.sessions.sessions.count, state.directory.sessions.keptChannels,
                state.directory.resources.values.reduce(0) { $0 + $1.writers.count }
            )
        }
        if sessions > 0 || kept > 0 || writers > 0 {
            return "\(sessions) sessions, \(kept) lost channels, \(writers) writers"
        }
        for shard in shards {
            let channels = shard.channels.all.count { $0 != nil }
            let bytes = shard.ports.all.reduce(0) { $0 + ($1?.allocator.usedBytes ?? 0) }
            if channels + bytes + shard.greetings.count + shard.fences.count > 0
                || shard.compares.count + shard.exclusions.count + shard.held.count > 0
                || shard.delayed.count + shard.waitingForRoom > 0
            {
                return "\(channels) channels, \(bytes) bytes of buffers; \(description)"
            }
        }
        return nil
    }

    /// What there is of it, for the account of a failure.
    var description: String {
        var parts = [
            "\(calls) calls, jobs \(!jobs.isEmpty), work \(!work.isEmpty), store \(world.store.waiting)"
        ]
        for (index, shard) in shards.enumerated() {
            for case let channel? in shard.channels.all {
                let slots = (0..<UInt16(channel.slots.count)).map { "\(channel.slots[$0].state)" }
                parts.append(
                    "reactor \(index) \(channel.peerAddress) detached \(channel.isDetached) \(slots) handles "
                        + "\(channel.handles.positions { _ in true }.count)")
            }
            parts.append(
                "fences \(shard.fences.count), compares \(shard.compares.count), "
                    + "exclusions \(shard.exclusions.count), held \(shard.held.count)")
        }
        return parts.joined(separator: "; ")
    }

    private func dismantle() {
        for shard in shards {
            services.remove(shard: shard)
            shard.ports.removeAll()
            shard.ports.forgetRemoved()
            shard.channels.removeAll()
            shard.channels.forgetRemoved()
            shard.greetings.removeAll()
            shard.delayed.removeAll()
            shard.held.removeAll()
            shard.compares.removeAll()
            shard.exclusions.removeAll()
            shard.fences.removeAll()
        }
        // Who waits for bytes keeps its reactor, and that everything.
        services.reservations.withLock { $0 = RangeReservations() }
        work.drop()
        for reactor in reactors { reactor.abandon() }
        shards = []
    }

    private func step() {
        for reactor in reactors { reactor.step(now: world.now) }
        for queue in driver.queues { while queue.work(faults: false) {} }
    }
}

// SAFETY: everything runs on the simulation's only thread.
/// A value that the compiler believes other threads might see.
struct Unshared<Value>: @unchecked Sendable {
    let value: Value
    init(_ value: Value) { self.value = value }
}

// SAFETY: `queue` is used on the simulation's only thread.
/// The pool's thread: its work, in order, when the simulation says so.
final class SteppedWork: @unchecked Sendable {
    private var queue = Deque<@Sendable () -> Void>()

    var isEmpty: Bool { queue.isEmpty }

    func drop() { queue.removeAll() }

    var add: @Sendable (@escaping @Sendable () -> Void) -> Void {
        { [self] in queue.append($0) }
    }

    func runNext() -> Bool {
        guard let work = queue.popFirst() else { return false }
        work()
        return true
    }
}

// SAFETY: `queue` is used on the simulation's only thread: tasks that prefer this executor run nowhere else, and what
// resumes them is the simulation too.
/// Runs the jobs of `async` functions one at a time, when the simulation says so.
final class SteppedExecutor: TaskExecutor, @unchecked Sendable {
    private var queue = Deque<UnownedJob>()

    var isEmpty: Bool { queue.isEmpty }

    func enqueue(_ job: consuming ExecutorJob) { queue.append(UnownedJob(job)) }

    func runNext() -> Bool {
        guard let job = queue.popFirst() else { return false }
        unsafe job.runSynchronously(on: asUnownedTaskExecutor())
        return true
    }
}

/// Signatures that cost nothing and are always right: they are proved elsewhere.
struct NoSignatures: SignatureVerifier, SignatureSigner, SigningKeyFactory {
    static let keyID: [UInt8] = [1]
    static let key = [UInt8](repeating: 7, count: 32)

    let publicKey = NoSignatures.key

    func isValid(signature: [UInt8], message: [UInt8], publicKey: [UInt8]) -> Bool { true }
    func publicKey(seed: [UInt8]) -> [UInt8]? { NoSignatures.key }
    func sign(_ message: [UInt8]) -> [UInt8] { [UInt8](repeating: 9, count: 64) }
    func makeKey() -> (seed: [UInt8], signer: any SignatureSigner) { (NoSignatures.key, self) }
    func signer(seed: [UInt8]) -> any SignatureSigner { self }
}
