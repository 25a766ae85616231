import Core
import DriverKit

/// Decides when a pool's driver host is started, ended and replaced; does nothing itself.
///
/// Hosts are numbered in the order of their start. The performer of the actions owes one `gone` for every
/// host that it was told to spawn, whatever became of it. What is said of a host that no longer matters is
/// ignored.
///
/// What holds at any time:
/// - at most two hosts exist;
/// - a host is attached only when every host that was attached before it is gone: no two hosts can do I/O for
///   the same requests;
/// - requests fail (`failRequests`) only when every host that has seen them is gone.
struct HostSupervisor: Sendable {
    private struct Host: Sendable {
        var number: Int
        var processID: Int32 = 0
        var user: UInt32?
        var gaps: [String] = []
    }

    /// How far the host is that shall serve.
    private enum Next: Sendable {
        case waiting(until: UInt64)
        case starting(Host, deadline: UInt64)
        case ready(Host)
        /// The queues were told to use it.
        case attached(Host)
    }

    /// No host serves.
    private struct Recovery: Sendable {
        /// `starting`, `recovering` or `upgrading`.
        var kind: DriverHostReport.State
        var next: Next
    }

    private struct Running: Sendable {
        var host: Host
        var since: UInt64
    }

    /// The old host serves while the new one starts.
    private struct Upgrade: Sendable {
        var old: Running
        var next: Next
        /// Set while the queues are asked to be quiet.
        var quiesceDeadline: UInt64?
    }

    private enum State: Sendable {
        case idle
        case recovering(Recovery)
        case running(Running)
        case upgrading(Upgrade)
        case quarantined
        case stopped
    }

    private enum Request { case restart, upgrade }

    private struct Dying: Sendable {
        var number: Int
        var wasAttached: Bool
    }

    /// How the host is and what became of it so far.
    private(set) var report = DriverHostReport(state: .starting)

    private var policy: HostPolicy
    private var state = State.idle
    /// Hosts that were killed and are not gone: at most two.
    private var dying: [Dying] = []
    private var hostCount = 0
    private var asked: Request?
    /// When hosts were lost, within the window.
    private var losses: [UInt64] = []
    private var lossesInARow = 0
    /// Requests are to fail as soon as that is safe.
    private var owedFailure: Status?
    /// Why the pool is, or was last, quarantined.
    private var quarantineReason = ""
    private var armed: UInt64?
    private var actions: [Action] = []
    private var now: UInt64 = 0
    private var wallClock: UInt64 = 0

    /// A supervisor of a pool that has not begun.
    init(policy: HostPolicy = HostPolicy()) { self.policy = policy }

    /// Takes an input.
    ///
    /// - Parameters:
    ///   - now: monotonic nanoseconds.
    ///   - wallClock: Unix seconds.
    mutating func handle(_ input: Input, now: UInt64, wallClock: UInt64) -> [Action] {
        self.now = now
        self.wallClock = wallClock
        switch input {
        case .begin:
            guard case .idle = state else { break }
            state = .recovering(Recovery(kind: .starting, next: .waiting(until: now)))
        case .started(let number, let processID, let user, let gaps):
            started(Host(number: number, processID: processID, user: user, gaps: gaps))
        case .startFailed(let number, let message): lost(number, .crash, message)
        case .lost(let number, let cause, let message): lost(number, cause, message)
        case .gone(let number):
            lost(number, .crash, "it ended")
            actions.removeAll { $0 == .kill(host: number) }
            dying.removeAll { $0.number == number }
        case .activated(let number, let pause, let replayed): activated(number, pause, replayed)
        case .timerFired: armed = nil
        case .restartRequested: restart()
        case .upgradeRequested: upgrade()
        case .quiesced:
            if case .upgrading(let upgrade) = state, upgrade.quiesceDeadline != nil { handOver(upgrade) }
        case .quarantineFails(let fails): decide(whetherRequestsFail: fails)
        case .stopRequested: stop()
        }
        advance()
        arm()
        defer { actions.removeAll(keepingCapacity: true) }
        return actions
    }

    // MARK: A host comes

    private mutating func started(_ host: Host) {
        switch state {
        case .recovering(var recovery):
            guard case .starting(let awaited, _) = recovery.next, awaited.number == host.number else {
                return
            }
            recovery.next = .ready(host)
            state = .recovering(recovery)
        case .upgrading(var upgrade):
            guard case .starting(let awaited, _) = upgrade.next, awaited.number == host.number else { return }
            upgrade.next = .ready(host)
            upgrade.quiesceDeadline = now + policy.quiesceDeadline
            state = .upgrading(upgrade)
            actions.append(.quiesceQueues)
        case .idle, .running, .quarantined, .stopped: return
        }
        report.starts += 1
    }

    private mutating func activated(_ number: Int, _ pause: UInt64, _ replayed: UInt64) {
        guard case .recovering(let recovery) = state, case .attached(let host) = recovery.next,
            host.number == number
        else { return }
        state = .running(Running(host: host, since: now))
        report.since = wallClock
        report.replayed += replayed
        if recovery.kind != .starting { report.lastPauseNanoseconds = pause }
        enter(.running, "process \(host.processID) serves")
        switch asked {
        case .restart: actions.append(.answerRestart(nil))
        case .upgrade: actions.append(.answerUpgrade(.success(pause)))
        case nil: break
        }
        asked = nil
    }

    // MARK: A host goes

    private mutating func lost(_ number: Int, _ cause: DriverHostReport.End.Cause, _ message: String) {
        switch state {
        case .running(let running) where running.host.number == number:
            leave(running, cause, message)
            count(servedSince: running.since)
            recover(.waiting(until: nextStart), message)
        case .upgrading(let upgrade) where upgrade.old.host.number == number:
            // The host that was to take over does so at once.
            leave(upgrade.old, cause, message)
            count(servedSince: upgrade.old.since)
            recover(upgrade.next, message)
        case .upgrading(let upgrade):
            guard HostSupervisor.number(of: upgrade.next) == number else { return }
            end(number, wasAttached: false, cause, message)
            refuse(upgrade, message)
        case .recovering(let recovery):
            guard HostSupervisor.number(of: recovery.next) == number else { return }
            var wasAttached = false
            if case .attached = recovery.next {
                wasAttached = true
                actions.append(.detachQueues)
            }
            end(number, wasAttached: wasAttached, cause, message)
            count(servedSince: now)
            fail(StatusError(.driverFailed, "the driver's process did not come up: \(message)"))
            let kind = recovery.kind == .starting && !wasAttached ? DriverHostReport.State.starting : nil
            recover(.waiting(until: nextStart), message, kind: kind)
        case .idle, .running, .quarantined, .stopped: return
        }
    }

    /// The queues leave a host that served.
    private mutating func leave(_ old: Running, _ cause: DriverHostReport.End.Cause, _ message: String) {
        actions.append(.detachQueues)
        end(old.host.number, wasAttached: true, cause, message)
    }

    private mutating func end(
        _ number: Int, wasAttached: Bool, _ cause: DriverHostReport.End.Cause, _ message: String
    ) {
        actions.append(.kill(host: number))
        dying.append(Dying(number: number, wasAttached: wasAttached))
        report.ends[cause, default: 0] += 1
        report.lastEnd = DriverHostReport.End(cause: cause, message: message, at: wallClock)
    }

    private mutating func count(servedSince since: UInt64) {
        if now - since >= policy.stableAfter { lossesInARow = 0 }
        lossesInARow += 1
        losses.removeAll { now - $0 > policy.lossWindow }
        losses.append(now)
    }

    private var nextStart: UInt64 { now + policy.delay(lossesInARow: lossesInARow) }

    private mutating func forgive() {
        losses.removeAll()
        lossesInARow = 0
    }

    /// Waits for the next host, or gives up.
    private mutating func recover(
        _ next: Next, _ message: String, kind: DriverHostReport.State? = nil
    ) {
        if losses.count >= policy.lossesMax {
            discard(next)
            state = .quarantined
            let seconds = policy.lossWindow / 1_000_000_000
            let words = "\(losses.count) processes were lost within \(seconds) s, the last one: \(message)"
            quarantineReason = words
            quarantine()
            fail(StatusError(.quarantined, words))
            return
        }
        let kind = kind ?? .recovering
        state = .recovering(Recovery(kind: kind, next: next))
        enter(kind, message)
    }

    /// Starts no host any more until an administrator asks for one: requests wait for that, or fail.
    private mutating func quarantine() {
        owedFailure = policy.failsInQuarantine ? .quarantined : nil
        enter(.quarantined, quarantineReason)
        if !policy.failsInQuarantine { actions.append(.refuseCalls) }
    }

    private mutating func decide(whetherRequestsFail fails: Bool) {
        guard policy.failsInQuarantine != fails else { return }
        policy.failsInQuarantine = fails
        if case .quarantined = state { quarantine() }
    }

    /// Ends a host that has not served and shall not.
    private mutating func discard(_ next: Next) {
        switch next {
        case .waiting: return
        case .starting(let host, _), .ready(let host):
            actions.append(.kill(host: host.number))
            dying.append(Dying(number: host.number, wasAttached: false))
        case .attached(let host):
            actions += [.detachQueues, .kill(host: host.number)]
            dying.append(Dying(number: host.number, wasAttached: true))
        }
    }

    // MARK: What administrators ask

    private mutating func restart() {
        guard asked == nil else {
            actions.append(
                .answerRestart(StatusError(.busy, "a restart or an upgrade of this pool is under way")))
            return
        }
        switch state {
        case .running(let running):
            leave(running, .restart, "an administrator asked")
            forgive()
            asked = .restart
            recover(.waiting(until: now), "an administrator asked for a restart")
        case .recovering(var recovery):
            forgive()
            asked = .restart
            if case .waiting = recovery.next { recovery.next = .waiting(until: now) }
            state = .recovering(recovery)
        case .quarantined:
            forgive()
            asked = .restart
            owedFailure = nil
            recover(.waiting(until: now), "an administrator asked for a restart")
        case .idle, .upgrading, .stopped:
            actions.append(.answerRestart(StatusError(.busy, "the pool is not running")))
        }
    }

    private mutating func upgrade() {
        let refusal: StatusError
        switch state {
        case .running(let running) where asked == nil:
            asked = .upgrade
            state = .upgrading(Upgrade(old: running, next: .waiting(until: now), quiesceDeadline: nil))
            enter(.upgrading, "an administrator asked for an upgrade")
            return
        case .quarantined: refusal = StatusError(.quarantined, "the pool is quarantined; restart it")
        case .stopped, .idle: refusal = StatusError(.busy, "the pool is not running")
        case .running, .recovering, .upgrading:
            refusal = StatusError(.busy, "another process of this pool is being started; try again")
        }
        actions.append(.answerUpgrade(.failure(refusal)))
    }

    /// The upgrade's host is no good: the old one goes on.
    private mutating func refuse(_ upgrade: Upgrade, _ message: String) {
        if upgrade.quiesceDeadline != nil { actions.append(.resumeQueues) }
        state = .running(upgrade.old)
        enter(.running, "the upgrade was refused, the old process serves on: \(message)")
        fail(StatusError(.driverFailed, "the new process did not come up, the old one serves on: \(message)"))
    }

    private mutating func handOver(_ upgrade: Upgrade) {
        leave(upgrade.old, .upgrade, "a newer process took over")
        forgive()
        state = .recovering(Recovery(kind: .upgrading, next: upgrade.next))
    }

    private mutating func stop() {
        switch state {
        case .stopped: return
        case .running(let running): discard(.attached(running.host))
        case .upgrading(let upgrade):
            discard(.attached(upgrade.old.host))
            discard(upgrade.next)
        case .recovering(let recovery): discard(recovery.next)
        case .idle, .quarantined: break
        }
        state = .stopped
        owedFailure = .draining
        report.state = .stopped
        report.since = nil
        fail(StatusError(.busy, "the pool was stopped"))
    }

    /// Answers who waits for a host that serves.
    private mutating func fail(_ error: StatusError) {
        switch asked {
        case .restart: actions.append(.answerRestart(error))
        case .upgrade: actions.append(.answerUpgrade(.failure(error)))
        case nil: break
        }
        asked = nil
    }

    // MARK: What can be done now

    private mutating func advance() {
        switch state {
        case .idle, .running: break
        case .recovering(var recovery):
            if let late = overdue(recovery.next) {
                lost(late, .hang, slowStart)
                return advance()
            }
            start(&recovery.next)
            if case .ready(let host) = recovery.next, !isSeenByOthers {
                recovery.next = .attached(host)
                actions.append(.attachQueues(host: host.number))
            }
            state = .recovering(recovery)
        case .upgrading(var upgrade):
            if let late = overdue(upgrade.next) {
                lost(late, .hang, slowStart)
            } else if let deadline = upgrade.quiesceDeadline, now >= deadline {
                handOver(upgrade)
                return advance()
            } else {
                start(&upgrade.next)
                state = .upgrading(upgrade)
            }
        case .quarantined, .stopped:
            if let status = owedFailure, !isSeenByOthers {
                owedFailure = nil
                actions.append(.failRequests(status))
                if case .stopped = state { enter(.stopped, "the pool was stopped") }
            }
        }
        showHost()
    }

    private mutating func start(_ next: inout Next) {
        guard case .waiting(let until) = next, now >= until, hostsAlive < 2 else { return }
        hostCount += 1
        next = .starting(Host(number: hostCount), deadline: now + policy.startDeadline)
        actions.append(.spawn(host: hostCount))
    }

    /// Whether a host that has seen requests may still touch their buffers.
    private var isSeenByOthers: Bool { dying.contains { $0.wasAttached } }

    private var hostsAlive: Int {
        if case .upgrading = state { return dying.count + 1 }
        return dying.count
    }

    private func overdue(_ next: Next) -> Int? {
        guard case .starting(let host, let deadline) = next, now >= deadline else { return nil }
        return host.number
    }

    private var slowStart: String { "it did not start within \(policy.startDeadline / 1_000_000) ms" }

    private static func number(of next: Next) -> Int? {
        switch next {
        case .waiting: nil
        case .starting(let host, _), .ready(let host), .attached(let host): host.number
        }
    }

    private mutating func enter(_ state: DriverHostReport.State, _ message: String) {
        if report.state != state || report.stateSince == nil { report.stateSince = wallClock }
        report.state = state
        report.reason = message
        if state != .running && state != .upgrading { report.since = nil }
        actions.append(.report(DriverHostEvent(state: state, message: message)))
    }

    private mutating func showHost() {
        let host: Host? =
            switch state {
            case .running(let running): running.host
            case .upgrading(let upgrade): upgrade.old.host
            case .recovering(let recovery):
                switch recovery.next {
                case .ready(let host), .attached(let host): host
                case .waiting, .starting: nil
                }
            case .idle, .quarantined, .stopped: nil
            }
        report.processID = host?.processID
        report.user = host?.user
        report.sandboxGaps = host?.gaps ?? report.sandboxGaps
    }

    private mutating func arm() {
        var wanted: UInt64?
        switch state {
        case .recovering(let recovery): wanted = deadline(recovery.next)
        case .upgrading(let upgrade): wanted = upgrade.quiesceDeadline ?? deadline(upgrade.next)
        case .idle, .running, .quarantined, .stopped: break
        }
        guard wanted != armed else { return }
        armed = wanted
        if let wanted {
            actions.append(.armTimer(wanted > now ? wanted - now : 0))
        } else {
            actions.append(.cancelTimer)
        }
    }

    private func deadline(_ next: Next) -> UInt64? {
        switch next {
        // A start that is overdue waits for a host to be gone, not for time.
        case .waiting(let until): until > now ? until : nil
        case .starting(_, let deadline): deadline
        case .ready, .attached: nil
        }
    }
}
