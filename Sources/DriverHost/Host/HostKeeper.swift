import Core
import DequeModule
import DriverKit
import Glibc
import Reactor
import Synchronization

// SAFETY: what is not in `shared` is touched by the keeper's own thread only.
/// Looks after the driver hosts of one pool on a thread of its own: starts them, listens to their control
/// sockets, notices their end, and does what the supervisor decides.
///
/// The thread lives as long as the pool: a host dies with the thread that started it
/// (`PR_SET_PDEATHSIG(2const)`).
final class HostKeeper: @unchecked Sendable {
    /// What other threads tell the keeper.
    enum Event: Sendable {
        case lost(instance: Int, cause: DriverHostReport.End.Cause, message: String)
        case queueAdded(Int)
        /// Nothing of an earlier server is left in the pool.
        case atRest
        case quiet(queue: Int, round: UInt64)
        case restart(Answer<Void>)
        case upgrade(Answer<UInt64>)
        case quarantineFails(Bool)
        case shutDown
    }

    /// Where somebody waits for what the keeper does.
    typealias Answer<Value: Sendable> = OneShot<Result<Value, StatusError>>

    /// What something in the pool explains of the memory that hosts have kept.
    struct Explained {
        /// The largest that it was asked to be, in bytes.
        var size: UInt64 = 0
        /// How often hosts were asked.
        var calls: UInt64 = 0

        /// Memory is taken in pieces, with their lists, for each time that it was made larger.
        var memoryBytes: UInt64 {
            let lists = size / Limits.explainedListShare
            return (size + lists).addingReportingOverflow(calls * Limits.explainedMemoryPerCall).partialValue
        }
    }

    struct Shared {
        var inbox: [Event] = []
        /// The host that takes calls.
        var serving: (instance: Int, control: ControlSocket)?
        var calls: [UInt64: PendingCall] = [:]
        var callsMade: UInt64 = 0
        /// Callers that wait for a host.
        var waiting: [OneShot<Void>] = []
        var queues: [Int: IsolatedQueue] = [:]
        var queuesAdded = 0
        /// What is open, by index.
        var open: [UInt32: OpenedByCall] = [:]
        /// What may be kept: as much as what was asked for explains.
        var allowance = StoredDescriptors.Allowance()
        /// What hosts were asked to make or to grow.
        var explained: [Identifier: Explained] = [:]
        var flushFailures: [UInt32: Status] = [:]
        var report = DriverHostReport(state: .starting)
        var notes: [String] = []
        /// Hears of every change, beside `Options.onEvent`.
        var observer: (@Sendable (DriverHostEvent) -> Void)?
        var settings: [String: String] = [:]
        var failsInQuarantine = false
        var isOver = false
    }

    let options: IsolatedDriver.Options
    let deadlines: RequestDeadlines
    let store = StoredDescriptors()
    let shared = Mutex(Shared())
    /// Answered when the first host serves, or cannot.
    let firstStart = Answer<Void>()
    private let ended = ThreadSemaphore()
    private let wakeBell: Doorbell
    let wallClock: any WallClock

    // MARK: The keeper's own

    var supervisor: HostSupervisor
    /// The hosts that exist, by number: at most two.
    var hosts: [Int: HostInstance] = [:]
    /// The host whose queues, and what they are for, are being opened, or that serves.
    var current: HostInstance?
    var timerDeadline: UInt64?
    var openingDeadline: UInt64?
    var quietRound: UInt64 = 0
    var quietWanted: Set<Int> = []
    /// When the loss or the hand-over that is under way began.
    var pauseBegan: UInt64?
    var hasServed = false
    var isShuttingDown = false
    /// Whether no host may begin yet, because an earlier server's I/O goes on.
    var awaitsRest = false
    /// What the supervisor is still to be told.
    private var inputs = Deque<HostSupervisor.Input>()
    private var isFeeding = false
    var restartAnswers: [Answer<Void>] = []
    var upgradeAnswers: [Answer<UInt64>] = []

    init(options: IsolatedDriver.Options) throws(StatusError) {
        self.options = options
        deadlines = options.deadlines
        wallClock = options.wallClock
        supervisor = HostSupervisor(policy: options.policy)
        do throws(ReactorError) { wakeBell = try Doorbell() } catch {
            throw StatusError(.driverFailed, "a driver host's keeper cannot start: \(error)")
        }
        shared.withLock { shared in
            shared.settings = options.settings
            shared.failsInQuarantine = options.policy.failsInQuarantine
        }
        do throws(ReactorError) {
            try DetachedThread.start(name: "keeper") { [self] in run() }
        } catch { throw StatusError(.driverFailed, "a driver host's keeper cannot start: \(error)") }
    }

    // MARK: From other threads

    func post(_ event: Event) {
        let isTaken = shared.withLock { shared in
            if shared.isOver { return false }
            shared.inbox.append(event)
            return true
        }
        if isTaken { wakeBell.ring() } else { refuse(event) }
    }

    private func refuse(_ event: Event) {
        let error = StatusError(.driverFailed, "the pool was stopped")
        switch event {
        case .restart(let answer): answer.give(.failure(error))
        case .upgrade(let answer): answer.give(.failure(error))
        default: break
        }
    }

    /// A queue or a caller found that the host must go.
    func lost(instance: Int, cause: DriverHostReport.End.Cause, message: String) {
        post(.lost(instance: instance, cause: cause, message: message))
    }

    func flushFailed(volume: UInt32, status: Status) {
        shared.withLock { $0.flushFailures[volume] = status }
    }

    /// Takes a queue in; it is attached as soon as a host serves.
    func add(_ make: (Int) -> IsolatedQueue) throws(StatusError) -> IsolatedQueue {
        let queue: IsolatedQueue? = shared.withLock { shared in
            guard shared.queuesAdded < options.queues else { return nil }
            let queue = make(shared.queuesAdded)
            shared.queues[shared.queuesAdded] = queue
            shared.queuesAdded += 1
            return queue
        }
        guard let queue else {
            throw StatusError(.busy, "a driver host serves at most \(options.queues) reactors")
        }
        post(.queueAdded(queue.number))
        return queue
    }

    /// A volume was opened anew.
    func forgetFlushFailure(_ index: UInt32) {
        for queue in shared.withLock({ Array($0.queues.values) }) {
            _ = queue.post { $0.forgetFlushFailure(index) }
        }
    }

    func isOpen(_ index: UInt32) -> Bool { shared.withLock { $0.open[index] != nil } }

    func closed(_ index: UInt32) {
        _ = shared.withLock { $0.open.removeValue(forKey: index) }
    }

    func remove(queue number: Int) {
        _ = shared.withLock { $0.queues.removeValue(forKey: number) }
    }

    /// Ends the host and the thread; returns when both are gone, or when the host's device does not let it go.
    func shutDown() {
        post(.shutDown)
        if ended.wait(milliseconds: Limits.shutDownMillisecondsMax) { ended.signal() }
    }

    // MARK: The thread

    var now: UInt64 { SystemClock.monotonic() }

    private func run() {
        if PoolAtRest.isNow(options.folder) { feed(.begin) } else { awaitRest() }
        while !(isShuttingDown && hosts.isEmpty) {
            waitForSomething()
            for event in takeInbox() { take(event) }
            for host in hosts.values { look(after: host) }
            startNext()
            noteGone()
            noteTimers()
            publish()
        }
        finish()
    }

    /// Begins later: until then the pool is as one whose host was lost.
    private func awaitRest() {
        do throws(ReactorError) {
            try PoolAtRest.wait(options.folder) { [self] in post(.atRest) }
        } catch {
            firstStart.give(
                .failure(StatusError(.driverFailed, "the pool's lock cannot be waited for: \(error)")))
            return endAll()
        }
        awaitsRest = true
        hasServed = true
        publish()
        firstStart.give(.success(()))
        options.onEvent(
            DriverHostEvent(
                state: .recovering,
                message: "I/O of the server before this one, or another server, has the pool"))
    }

    private func takeInbox() -> [Event] {
        shared.withLock { shared in
            let inbox = shared.inbox
            shared.inbox = []
            return inbox
        }
    }

    private func waitForSomething() {
        var entries = [pollfd(fd: wakeBell.descriptor.raw, events: Int16(POLLIN), revents: 0)]
        for host in hosts.values {
            if !host.isControlOver { entries.append(poll(host.control.descriptor.raw, POLLIN)) }
            if host.exit == nil { entries.append(poll(host.processDescriptor.raw, POLLIN)) }
            // The lifeline carries nothing: only its end is of interest, which is always reported.
            if !host.isLifelineOver { entries.append(poll(host.lifeline.raw, 0)) }
        }
        let deadline = [timerDeadline, openingDeadline].compactMap { $0 }.min()
        var timeout: Int32 = -1
        if let deadline {
            let now = now
            timeout = deadline <= now ? 0 : Int32(clamping: (deadline - now) / 1_000_000 + 1)
        }
        _ = unsafe Glibc.poll(&entries, nfds_t(entries.count), timeout)
        var count: UInt64 = 0
        _ = unsafe read(wakeBell.descriptor.raw, &count, 8)
    }

    func poll(_ fd: Int32, _ events: Int32) -> pollfd {
        pollfd(fd: fd, events: Int16(events), revents: 0)
    }

    private func look(after host: HostInstance) {
        receive(from: host)
        if host.exit == nil {
            host.reap()
            // What the host sent before it ended is still in the socket.
            if host.exit != nil { receive(from: host) }
        }
        if host.exit != nil, host.isControlOver, !host.isLifelineOver { host.discardPackets() }
        if !host.isLifelineOver {
            var entry = poll(host.lifeline.raw, 0)
            if unsafe Glibc.poll(&entry, 1, 0) > 0 { host.isLifelineOver = true }
        }
        if host.exit != nil, host.phase != .ending { lose(host, .crash, host.exitMessage) }
    }

    private func noteGone() {
        for (number, host) in hosts where host.isGone {
            hosts[number] = nil
            if current === host { current = nil }
            if !hosts.values.contains(where: \.wasServing) { forEachQueue { $0.hostsAreGone() } }
            feed(.gone(host: number))
        }
    }

    private func noteTimers() {
        let now = now
        if let deadline = timerDeadline, deadline <= now {
            timerDeadline = nil
            feed(.timerFired)
        }
        if let deadline = openingDeadline, deadline <= now {
            openingDeadline = nil
            if let current { lose(current, .hang, "the driver did not open its volumes in time") }
        }
    }

    private func take(_ event: Event) {
        switch event {
        case .lost(let instance, let cause, let message):
            if let host = hosts[instance] { lose(host, cause, message) }
        case .atRest:
            awaitsRest = false
            feed(.begin)
        case .queueAdded(let number):
            guard let host = current, host.phase == .serving else { return }
            if let queue = shared.withLock({ $0.queues[number] }) { offer(queue, to: host) }
        case .quiet(let queue, let round):
            guard round == quietRound, quietWanted.remove(queue) != nil, quietWanted.isEmpty else { return }
            feed(.quiesced)
        case .restart(let answer):
            restartAnswers.append(answer)
            pauseBegan = pauseBegan ?? now
            feed(.restartRequested)
        case .upgrade(let answer):
            upgradeAnswers.append(answer)
            feed(.upgradeRequested)
        case .quarantineFails(let fails): feed(.quarantineFails(fails))
        case .shutDown:
            feed(.stopRequested)
            endAll()
        }
    }

    /// A host is no good any more.
    func lose(_ host: HostInstance, _ cause: DriverHostReport.End.Cause, _ message: String) {
        guard host.phase != .ending else { return }
        host.phase = .ending
        host.process.signal(SIGKILL)
        guard hasServed else {
            // Whoever makes a pool hears of what is wrong with it at once.
            firstStart.give(.failure(StatusError(.driverFailed, "the driver host was lost: \(message)")))
            return endAll()
        }
        if host === current {
            openingDeadline = nil
            pauseBegan = pauseBegan ?? now
        }
        feed(.lost(host: host.number, cause: cause, message: message))
    }

    func endAll() {
        isShuttingDown = true
        for host in hosts.values {
            host.phase = .ending
            host.process.signal(SIGKILL)
        }
    }

    /// Tells the supervisor, and does what it says. What comes of that is told when all of it is done: actions
    /// of one input must not get between those of another.
    func feed(_ input: HostSupervisor.Input) {
        inputs.append(input)
        guard !isFeeding else { return }
        isFeeding = true
        while !isShuttingDown, let next = inputs.popFirst() {
            apply(supervisor.handle(next, now: now, wallClock: wallClock.now()))
        }
        isFeeding = false
    }

    /// Shows others how the pool is.
    func publish() {
        var report = supervisor.report
        if awaitsRest { report.state = .recovering }
        report.replayed = shared.withLock { $0.queues.values.reduce(0) { $0 + $1.replayed } }
        shared.withLock { $0.report = report }
    }

    private func finish() {
        let (queues, calls, waiting, events) = shared.withLock { shared in
            shared.isOver = true
            shared.serving = nil
            shared.report = supervisor.report
            shared.report.state = .stopped
            defer {
                shared.queues = [:]
                shared.calls = [:]
                shared.waiting = []
                shared.inbox = []
            }
            return (Array(shared.queues.values), Array(shared.calls.values), shared.waiting, shared.inbox)
        }
        for queue in queues { _ = queue.post { $0.fail(with: .driverFailed) } }
        for call in calls { call.hostLost() }
        for one in waiting { one.give(()) }
        events.forEach(refuse)
        let error = StatusError(.driverFailed, "the pool was stopped")
        restartAnswers.forEach { $0.give(.failure(error)) }
        upgradeAnswers.forEach { $0.give(.failure(error)) }
        firstStart.give(.failure(error))
        store.forgetAll()
        ended.signal()
    }
}
