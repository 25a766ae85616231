import Core
import DriverKit
import Glibc
import Reactor
import Synchronization

// SAFETY: everything but `number` is touched on the reactor's thread only; other threads reach it by work
// posted there.
/// The request side of an isolated driver on one reactor: from the consumer's rings through the ledger to the
/// lane of whichever host there is, and back. Requests wait here while there is none.
final class IsolatedQueue: DriverQueue, PolledTarget, CompletionTarget, @unchecked Sendable {
    private enum State {
        /// No host: requests wait.
        case detached
        /// A host serves.
        case attached(HostLane, instance: Int, bell: TargetID)
        /// The pool is quarantined or stopped: requests fail.
        case failing(Status)
    }

    /// Which queue of the pool it is.
    let number: Int
    let arena: Arena
    private let reactor: Reactor
    private let submissions: SubmissionRing
    private let completions: CompletionRing
    private let onCompletions: () -> Void
    private let keeper: HostKeeper
    private let ledger: RequestLedger
    private let replayedTotal = Atomic<UInt64>(0)
    private var state = State.detached
    /// No requests are given to the host: it is about to be replaced.
    private var isQuiescing = false
    private var onQuiet: (@Sendable () -> Void)?
    /// Volumes whose write-back failed: FLUSH says so until they are opened anew.
    private var flushFailures: [UInt32: Status] = [:]
    /// Since when the host has something to do, and has completed nothing; monotonic nanoseconds.
    private var waitingSince: UInt64?
    /// How long that usually takes, in nanoseconds.
    private var usualWait: UInt64 = 0
    private var target: TargetID?
    private var bell = BellTarget()
    /// How often the host rang beyond what it has completed.
    private var uselessRings = 0
    private var isHeartbeatSet = false
    private var pingsSent: UInt64 = 0
    private var heartbeatsMissed = 0

    init(
        number: Int, reactor: Reactor, arena: Arena, submissions: SubmissionRing, completions: CompletionRing,
        onCompletions: @escaping () -> Void, keeper: HostKeeper
    ) {
        self.number = number
        self.reactor = reactor
        self.arena = arena
        self.submissions = submissions
        self.completions = completions
        self.onCompletions = onCompletions
        self.keeper = keeper
        ledger = RequestLedger(capacity: submissions.capacity)
    }

    /// How many entries a lane has.
    var capacity: Int { submissions.capacity }

    func start() {
        target = reactor.register(self)
        reactor.addPolled(self)
    }

    func stop() {
        detach()
        reactor.removePolled(self)
        if let target { reactor.unregister(target) }
        target = nil
        keeper.remove(queue: number)
    }

    /// Work on the queue's reactor; false when that has ended.
    func post(_ work: @escaping @Sendable (IsolatedQueue) -> Void) -> Bool {
        reactor.remote.post { [self] in work(self) }
    }

    // MARK: Requests

    func process() {
        guard !isQuiescing else { return }
        switch state {
        case .detached: return
        case .failing(let status): fail(status)
        case .attached(let host, let instance, _): submit(to: host, instance)
        }
    }

    private func submit(to host: HostLane, _ instance: Int) {
        let lane = host.lane
        var pushed = false
        while let request = ledger.nextReleased(now: reactor.now) {
            guard lane.submissions.push(request) else { return loseFull(instance) }
            pushed = true
        }
        while ledger.hasRoom, completions.room > ledger.inFlight, let request = submissions.pop() {
            if request.opcode == .flush, let failure = flushFailures[request.index] {
                deliver(DriverCompletion(tag: request.tag, status: failure.rawValue, value: 0))
                continue
            }
            guard case .submit(let given) = ledger.admit(request, now: reactor.now) else { continue }
            guard lane.submissions.push(given) else { return loseFull(instance) }
            pushed = true
        }
        if pushed { ring(host) }
    }

    /// Gives the host up: a lane has room for all that is on record, unless the host takes requests and does not
    /// say so.
    private func loseFull(_ instance: Int) {
        lose(instance, .violation, "it leaves no room in the ring of requests")
    }

    func withdraw(_ tags: Set<UInt64>, status: Status) {
        ledger.withdraw(tags, status: status, now: reactor.refreshNow())
        answerWithdrawn()
        // Held requests may have waited for those that are gone now.
        if isQuiescing { noteQuiet() } else { process() }
    }

    private func answerWithdrawn() {
        while let completion = ledger.nextWithdrawn() { deliver(completion) }
    }

    private func ring(_ host: HostLane) {
        if waitingSince == nil { waitingSince = reactor.refreshNow() }
        if host.lane.takeHostSleeps() { host.bell.ring() }
        setHeartbeat()
    }

    private func deliver(_ completion: DriverCompletion) {
        push(completion)
        onCompletions()
    }

    @inline(__always)
    private func push(_ completion: DriverCompletion) {
        let pushed = completions.push(completion)
        precondition(pushed || completions.isBroken, "a request was taken without room for its completion")
    }

    /// Takes the host's completions.
    func poll() {
        guard case .attached(let host, let instance, _) = state else { return }
        let rings = bell.take()
        let answers = host.lane.completions
        var count = 0
        var violation: HostViolation?
        while violation == nil, let completion = answers.pop() {
            if completion.status != Status.ok.rawValue { noteFlush(completion) }
            switch ledger.judge(completion) {
            case .deliver(let result):
                push(result)
                count += 1
            case .violation(let found): violation = found
            }
        }
        if count > 0 { onCompletions() }
        if let violation { return lose(instance, .violation, "\(violation)") }
        if answers.isBroken || host.lane.submissions.isBroken {
            return lose(instance, .violation, "an impossible count in a ring")
        }
        uselessRings = max(0, uselessRings + rings - count)
        if uselessRings > Limits.uselessRingsMax {
            return lose(instance, .violation, "it rings the doorbell without a completion")
        }
        guard count > 0 else { return }
        noteWait()
        if isQuiescing {
            noteQuiet()
        } else if ledger.hasReleased || submissions.count > 0 {
            submit(to: host, instance)
        }
    }

    /// Remembers what the next host could not know: the kernel reports a lost write once.
    private func noteFlush(_ completion: DriverCompletion) {
        guard let request = ledger.request(given: completion.tag),
            let status = Status(rawValue: completion.status), status.kind == .device
        else { return }
        // A durable write without room has failed as a whole, and nothing before it was lost.
        guard request.opcode == .flush || (request.flags.contains(.fua) && status != .noSpace) else { return }
        flushFailures[request.index] = status
        keeper.flushFailed(volume: request.index, status: status)
    }

    func prepareToSleep() -> Bool {
        guard case .attached(let host, _, _) = state else { return true }
        return host.lane.serverPreparesToSleep()
    }

    var hasSomething: Bool {
        guard case .attached(let host, _, _) = state else { return false }
        return host.lane.completions.count > 0
    }

    /// The reactor waits for a device that answers within microseconds, not for one that takes longer than waking
    /// up does.
    var worthWaitingNanoseconds: UInt64 {
        ledger.inFlight > 0 && usualWait < Limits.laneWaitNanoseconds ? Limits.laneWaitNanoseconds : 0
    }

    /// Takes how long the host took for the first completion after it was given something.
    private func noteWait() {
        guard let since = waitingSince else { return }
        waitingSince = nil
        let wait = min(reactor.refreshNow() &- since, 16 * Limits.laneWaitNanoseconds)
        usualWait = (usualWait * 7 + wait) / 8
    }

    func awake() {
        if case .attached(let host, _, _) = state { host.lane.serverIsAwake() }
    }

    /// The host has told its reactors itself before it answered.
    func indexChanged(_ index: UInt32) {}

    private func lose(_ instance: Int, _ cause: DriverHostReport.End.Cause, _ message: String) {
        detach()
        keeper.lost(instance: instance, cause: cause, message: message)
    }

    // MARK: Hosts come and go

    /// Stops using the host; what is unfinished waits for the next.
    func detach() {
        if case .attached(_, _, let bell) = state {
            reactor.unregister(bell)
            state = .detached
        }
    }

    /// Gives what is unfinished to a new host, and then what waits.
    func attach(_ host: HostLane, instance: Int) {
        // The host was on its way when the queue was stopped.
        guard target != nil else { return }
        bell = BellTarget()
        uselessRings = 0
        let bellTarget = reactor.register(bell)
        reactor.pollMultishot(
            fd: host.serverBell.descriptor.raw, events: UInt32(POLLIN), target: bellTarget, token: 0)
        state = .attached(host, instance: instance, bell: bellTarget)
        isQuiescing = false
        onQuiet = nil
        flushFailures = keeper.shared.withLock { $0.flushFailures }
        pingsSent = 0
        heartbeatsMissed = 0
        ledger.beginReplay()
        answerWithdrawn()
        let before = ledger.replayed
        let now = reactor.refreshNow()
        while let request = ledger.nextReplay(now: now) {
            guard host.lane.submissions.push(request) else { return loseFull(instance) }
        }
        replayedTotal.add(ledger.replayed - before, ordering: .relaxed)
        if ledger.inFlight > 0 { ring(host) }
        submit(to: host, instance)
    }

    /// Nothing is left of any host that was given requests: what was withdrawn need not wait for the next one.
    func hostsAreGone() {
        guard case .detached = state else { return }
        ledger.beginReplay()
        answerWithdrawn()
    }

    /// The volume was opened anew: an earlier failure of its write-back is forgotten.
    func forgetFlushFailure(_ volume: UInt32) { flushFailures[volume] = nil }

    /// How many requests were given to a host a second time, since the start. Any thread.
    var replayed: UInt64 { replayedTotal.load(ordering: .relaxed) }

    /// Gives no more requests to the host, and calls back when it has none.
    func quiesce(_ onQuiet: @escaping @Sendable () -> Void) {
        isQuiescing = true
        self.onQuiet = onQuiet
        noteQuiet()
    }

    private func noteQuiet() {
        guard ledger.inFlight == 0, let onQuiet else { return }
        self.onQuiet = nil
        onQuiet()
    }

    /// Gives requests to the host again.
    func resume() {
        isQuiescing = false
        onQuiet = nil
        process()
    }

    /// Fails every request, those to come too, until a host is attached.
    func fail(with status: Status) {
        guard target != nil else { return }
        detach()
        state = .failing(status)
        isQuiescing = false
        while let completion = ledger.failNext(status) { deliver(completion) }
        fail(status)
    }

    /// Lets requests wait again that would fail.
    func wait() {
        if case .failing = state { state = .detached }
    }

    private func fail(_ status: Status) {
        while completions.room > 0, let request = submissions.pop() {
            deliver(DriverCompletion(tag: request.tag, status: status.rawValue, value: 0))
        }
    }

    // MARK: Signs of life

    private func setHeartbeat() {
        guard !isHeartbeatSet, let target else { return }
        isHeartbeatSet = true
        _ = reactor.setTimer(after: Limits.heartbeatNanoseconds, target: target, token: 0)
    }

    /// The heartbeat: with requests in flight, the host must answer pings, and no request may be overdue.
    func completed(token: UInt32, result: Int32, flags: CompletionFlags) {
        isHeartbeatSet = false
        guard case .attached(let host, let instance, _) = state, ledger.inFlight > 0 else { return }
        if host.lane.lastEcho == pingsSent {
            heartbeatsMissed = 0
            pingsSent += 1
            host.lane.sendPing(pingsSent)
        } else {
            heartbeatsMissed += 1
            if heartbeatsMissed >= Limits.heartbeatsMissedMax {
                let time = UInt64(heartbeatsMissed) * Limits.heartbeatNanoseconds / 1_000_000
                return lose(instance, .hang, "no sign of life for \(time) ms")
            }
        }
        if let overdue = ledger.overdue(now: reactor.now, deadlines: keeper.deadlines) {
            return lose(instance, .hang, "\(overdue)")
        }
        ring(host)
    }
}

/// Takes the host's ringing: the turn that delivers it polls the queue, too.
private final class BellTarget: CompletionTarget {
    private var rings = 0

    func completed(token: UInt32, result: Int32, flags: CompletionFlags) { rings += 1 }

    /// How often it rang since it was asked last.
    func take() -> Int {
        defer { rings = 0 }
        return rings
    }
}
