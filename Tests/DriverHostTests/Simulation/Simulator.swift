import Core
import DriverKit
import Simulation

@testable import DriverHost

/// A pool with two reactors, its consumers, hosts and administrator, in one thread and without a clock: a
/// seed decides what happens next. The ledger and the supervisor are the real ones.
final class Simulator {
    /// A step, for the trace of a failure.
    struct Trace {
        var what: StaticString = ""
        var number = 0
        var now: UInt64 = 0
    }

    static let millisecond: UInt64 = 1_000_000
    static let deadlines = RequestLedger.Deadlines(
        transfer: 20 * millisecond, flush: 30 * millisecond, space: 25 * millisecond,
        withdrawn: 4 * millisecond)

    let seed: UInt64
    private let bug: PlantedBug?
    private var random: SplitMix
    private var supervisor: HostSupervisor
    private let lanes: [SimulatedLane]
    /// Those that are not gone.
    private var hosts: [SimulatedHost] = []
    private var now: UInt64 = 1
    /// Counts what consumers do, so that no two moments are the same.
    private var clock: UInt64 = 1
    private var timer: UInt64?
    /// The host that lanes turn to, and how many have.
    private var attaching = 0
    private var lanesAttached = 0
    private var isQuiescing = false
    private var asksRestart = 0
    private var asksUpgrade = 0
    private var faults = true
    /// Some runs are wild, some nearly calm.
    private var rarity = 1
    private var trace = [Trace](repeating: Trace(), count: 64)
    private(set) var steps = 0
    private(set) var failure: String?
    /// What the run has seen, so that a run that proves nothing is noticed.
    private(set) var seen: [DriverHostReport.State: Int] = [:]
    private(set) var violations = 0
    private(set) var longestHistory = 0

    init(seed: UInt64, bug: PlantedBug? = nil) {
        self.seed = seed
        self.bug = bug
        random = SplitMix(seed: seed)
        var policy = HostPolicy()
        policy.startDeadline = 100 * Simulator.millisecond
        policy.firstDelay = Simulator.millisecond
        policy.longestDelay = 20 * Simulator.millisecond
        policy.stableAfter = 20 * Simulator.millisecond
        policy.lossesMax = 6
        policy.lossWindow = 200 * Simulator.millisecond
        policy.quiesceDeadline = 5 * Simulator.millisecond
        policy.failsInQuarantine = seed & 1 == 0
        supervisor = HostSupervisor(policy: policy)
        lanes = (0..<2).map { SimulatedLane(number: $0, bug: bug) }
        rarity = 2 << random.below(5)
        tell(.begin)
    }

    var report: DriverHostReport { supervisor.report }
    var completed: Int { lanes[0].completed + lanes[1].completed }
    var withdrawn: Int { lanes[0].withdrawn + lanes[1].withdrawn }
    var replayed: UInt64 { lanes[0].ledger.replayed + lanes[1].ledger.replayed }

    /// Runs at least this many steps: rounds with faults, each followed by one in which all must end well.
    func run(steps total: Int) {
        while steps < total, failure == nil {
            faults = true
            let end = steps + 500 + random.below(1500)
            while steps < end, failure == nil { step() }
            faults = false
            settle()
            // Consumers outlive the trouble: the next round begins with what this one left on the device.
        }
    }

    /// Without faults, everything that was asked must be answered within bounded steps.
    private func settle() {
        let end = steps + 6000
        while failure == nil {
            let isDone =
                lanes.allSatisfy { $0.busy == 0 && $0.mailbox.isEmpty && $0.ledger.inFlight == 0 }
                && asksRestart == 0 && asksUpgrade == 0 && report.state == .running
            if isDone { return }
            if steps > end {
                return fail(
                    "not settled: \(lanes[0].busy) + \(lanes[1].busy) requests open, \(report.state)")
            }
            step()
        }
    }

    private func fail(_ message: String) {
        if failure == nil { failure = message }
    }

    private func note(_ what: StaticString, _ number: Int = 0) {
        trace[steps & 63] = Trace(what: what, number: number, now: now)
    }

    /// Seed, what went wrong, and the last steps.
    var account: String {
        var lines = ["SLUICE_SEED=\(seed) step \(steps): \(failure ?? "nothing wrong")"]
        for back in (0..<min(40, steps)).reversed() {
            let entry = trace[(steps - back) & 63]
            lines.append("  \(steps - back) at \(entry.now / 1000) us: \(entry.what) \(entry.number)")
        }
        return lines.joined(separator: "\n")
    }

    // MARK: Steps

    /// One thing happens.
    func step() {
        steps += 1
        now += UInt64(random.below(20_000))
        note("nothing")
        let lane = lanes[random.below(2)]
        var isIdle = false
        switch random.below(100) {
        case 0..<18:
            note("consumer submits on lane", lane.number)
            isIdle = true
            for _ in 0..<(faults ? 1 + random.below(4) : 0)
            where lane.submit(clock: &clock, random: &random) { isIdle = false }
        case 18..<36:
            note("reactor pumps lane", lane.number)
            isIdle = !pump(lane)
        case 36..<66:
            isIdle = hosts.isEmpty
            if !isIdle { work(hosts[random.below(hosts.count)], lane) }
        case 66..<86:
            note("reactor polls lane", lane.number)
            isIdle = !poll(lane)
        case 86..<94:
            isIdle = !keep()
        case 94..<97:
            note("timers")
            tick()
        case 97: ask()
        default:
            if faults { breakSomething() } else { isIdle = true }
        }
        // Time passes faster where little happens.
        if isIdle { now += UInt64(random.below(400_000)) }
        check()
    }

    private func check() {
        for lane in lanes {
            if let wrong = lane.failure { fail(wrong) }
            let open = lane.waiting.count + lane.ledger.inFlight
            if open != lane.busy { fail("lane \(lane.number): \(lane.busy) asked, \(open) on record") }
        }
        if hosts.count > 2 && bug != .attachesBeforeGone { fail("\(hosts.count) hosts exist") }
        if steps & 1023 == 0 {
            longestHistory = max(longestHistory, lanes[0].longestHistory, lanes[1].longestHistory)
        }
    }

    private func pump(_ lane: SimulatedLane) -> Bool {
        if !lane.mailbox.isEmpty {
            if let number = lane.receive(now: now, clock: &clock, hosts: hosts), number == attaching {
                lanesAttached += 1
                if lanesAttached == lanes.count {
                    tell(.activated(host: number, pause: Simulator.millisecond, replayed: 0))
                }
            }
            return true
        }
        if isQuiescing, lanes.allSatisfy({ $0.isQuiet && $0.ledger.inFlight == 0 }) {
            isQuiescing = false
            tell(.quiesced)
            return true
        }
        var moved = false
        for _ in 0..<3 where lane.pump(now: now, clock: &clock, hosts: hosts) { moved = true }
        return moved
    }

    private func poll(_ lane: SimulatedLane) -> Bool {
        guard let host = lane.host else { return false }
        for round in 0..<(1 + random.below(4)) {
            switch lane.poll(now: now, clock: &clock, hosts: hosts, random: &random) {
            case .nothing: return round > 0
            case .answered: break
            case .violation(let violation):
                violations += 1
                tell(.lost(host: host.number, cause: .violation, message: violation.description))
                return true
            }
        }
        return true
    }

    private func work(_ host: SimulatedHost, _ lane: SimulatedLane) {
        note("work in host", host.number)
        var tasks = 1 + random.below(8)
        while tasks > 0,
            host.work(
                lane: lane.number, device: &lane.device, arena: &lane.arena, random: &random, faults: faults)
        { tasks -= 1 }
        if faults && random.once(in: 40) {
            // The system writes back a page of its own accord.
            let block = random.below(SimulatedDevice.blocks)
            lane.device.flush(block..<block + 1)
        }
    }

    /// The thread that watches processes: one host's news.
    private func keep() -> Bool {
        guard !hosts.isEmpty else { return false }
        let index = random.below(hosts.count)
        let host = hosts[index]
        switch host.life {
        case .starting:
            guard now >= host.readyAt else { return false }
            note("host has started or failed", host.number)
            if host.startFails {
                host.life = .dead
                tell(.startFailed(host: host.number, message: "it cannot"))
            } else {
                host.life = .ready
                tell(.started(host: host.number, processID: Int32(host.number), user: nil, gaps: []))
            }
        case .ready: return false
        case .dead:
            if !host.isLost && random.once(in: 2) {
                note("host is reported lost", host.number)
                host.isLost = true
                tell(.lost(host: host.number, cause: .crash, message: "killed"))
            } else if random.once(in: 4) {
                note("host is gone", host.number)
                host.life = .gone
                hosts.remove(at: index)
                if !hosts.contains(where: \.wasAttached) { post(.hostsAreGone) }
                tell(.gone(host: host.number))
            }
        case .gone: return false
        }
        return true
    }

    private func tick() {
        if let timer, now >= timer {
            self.timer = nil
            tell(.timerFired)
        }
        for lane in lanes {
            guard let host = lane.host, host.life != .gone else { continue }
            if let late = lane.ledger.overdue(now: now, deadlines: Simulator.deadlines) {
                tell(.lost(host: host.number, cause: .hang, message: late.description))
            }
        }
    }

    private func ask() {
        let mustRestart = report.state == .quarantined
        if mustRestart || (faults && random.once(in: 12)) {
            guard asksRestart == 0 else { return }
            note("administrator restarts")
            asksRestart += 1
            tell(.restartRequested)
        } else if faults && random.once(in: 6) {
            guard asksUpgrade == 0 else { return }
            note("administrator upgrades")
            asksUpgrade += 1
            tell(.upgradeRequested)
        } else if faults && random.once(in: 2) {
            let lane = lanes[random.below(2)]
            note("users are cut off on lane", lane.number)
            lane.withdraw(now: now, clock: &clock, hosts: hosts, random: &random)
        }
    }

    private func breakSomething() {
        guard !hosts.isEmpty, random.once(in: rarity) else { return }
        let host = hosts[random.below(hosts.count)]
        guard host.life == .ready || host.life == .starting else { return }
        switch random.below(8) {
        case 0..<5:
            note("host crashes", host.number)
            host.life = .dead
        case 5:
            note("host hangs", host.number)
            host.isHung = host.life == .ready
        default:
            let lane = lanes[random.below(2)]
            guard lane.host === host else { return }
            note("host lies on lane", lane.number)
            host.lie(lane: lane.number, oldTag: lane.oldTag, random: &random)
        }
    }

    // MARK: What the supervisor wants

    private func tell(_ input: HostSupervisor.Input) {
        let before = report.state
        for action in supervisor.handle(input, now: now, wallClock: now / 1_000_000_000) {
            perform(action)
        }
        if report.state != before { seen[report.state, default: 0] += 1 }
    }

    private func perform(_ action: HostSupervisor.Action) {
        switch action {
        case .spawn(let number):
            let isSlow = faults && random.once(in: 25)
            let delay = isSlow ? 150 * Simulator.millisecond : UInt64(random.below(3_000_000))
            hosts.append(
                SimulatedHost(
                    number: number, readyAt: now + delay, startFails: faults && random.once(in: 12),
                    lanes: lanes.count))
        case .kill(let number):
            for host in hosts where host.number == number {
                host.life = .dead
                host.isLost = true
            }
            if bug == .attachesBeforeGone { tell(.gone(host: number)) }
        case .detachQueues: post(.detach)
        case .attachQueues(let number): attach(number)
        case .quiesceQueues:
            isQuiescing = true
            post(.quiesce)
        case .resumeQueues:
            isQuiescing = false
            post(.resume)
        // Nobody calls here, and requests wait by themselves.
        case .refuseCalls: break
        case .failRequests(let status):
            if hosts.contains(where: \.wasAttached) { fail("requests fail while a host may use them") }
            post(.fail(status))
        case .armTimer(let delay): timer = now + delay
        case .cancelTimer: timer = nil
        case .report(let event):
            if event.state != report.state && event.state != .recovering {
                fail("event \(event.state) in state \(report.state)")
            }
        case .answerRestart:
            asksRestart -= 1
            if asksRestart < 0 { fail("a restart was answered twice") }
        case .answerUpgrade:
            asksUpgrade -= 1
            if asksUpgrade < 0 { fail("an upgrade was answered twice") }
        }
    }

    private func post(_ message: SimulatedLane.Message) {
        if case .detach = message { isQuiescing = false }
        for lane in lanes { lane.mailbox.append(message) }
    }

    private func attach(_ number: Int) {
        guard let next = hosts.first(where: { $0.number == number }) else {
            return fail("host \(number) is attached and does not exist")
        }
        for host in hosts where host.wasAttached {
            // With the bug, what the overlapping hosts do to the data must be found, not this.
            if bug != .attachesBeforeGone { fail("host \(number) is attached before \(host.number) is gone") }
        }
        next.wasAttached = true
        attaching = number
        lanesAttached = 0
        post(.attach(next))
    }
}
