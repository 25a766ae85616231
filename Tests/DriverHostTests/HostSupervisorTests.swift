import Core
import DriverKit
import Testing

@testable import DriverHost

@Suite("HostSupervisor: when a host is started, ended and replaced")
struct HostSupervisorTests {
    private typealias Action = HostSupervisor.Action
    private typealias Input = HostSupervisor.Input

    /// A supervisor with a clock; what it reports is kept apart from what it does.
    private struct Rig {
        var supervisor = HostSupervisor(policy: HostPolicy())
        var now: UInt64 = 1_000_000_000_000
        var events: [DriverHostEvent] = []
        /// How often whoever calls the driver was to be refused.
        var refusals = 0

        mutating func callAsFunction(_ input: Input, after milliseconds: UInt64 = 0) -> [Action] {
            now += milliseconds * 1_000_000
            var done: [Action] = []
            for action in supervisor.handle(input, now: now, wallClock: now / 1_000_000_000) {
                if case .refuseCalls = action { refusals += 1 }
                if case .report(let event) = action { events.append(event) } else { done.append(action) }
            }
            return done
        }

        /// The host comes up and serves.
        mutating func serve(_ host: Int) {
            _ = self(started(host))
            _ = self(.activated(host: host, pause: 20, replayed: 3))
        }

        mutating func run() {
            _ = self(.begin)
            serve(1)
        }

        mutating func crash(_ host: Int, after milliseconds: UInt64 = 0) -> [Action] {
            self(.lost(host: host, cause: .crash, message: "killed by signal 11"), after: milliseconds)
        }

        var state: DriverHostReport.State { supervisor.report.state }
    }

    private static func started(_ host: Int) -> Input {
        .started(host: host, processID: Int32(1000 + host), user: 60_000, gaps: ["no Landlock"])
    }
    private func started(_ host: Int) -> Input { Self.started(host) }

    private func millis(_ count: UInt64) -> UInt64 { count * 1_000_000 }

    @Test("a pool begins: spawn, attach, serve")
    func begins() {
        var rig = Rig()
        #expect(rig(.begin) == [.spawn(host: 1), .armTimer(millis(10_000))])
        #expect(rig.state == .starting && rig.supervisor.report.processID == nil)
        #expect(rig(started(1)) == [.attachQueues(host: 1), .cancelTimer])
        #expect(rig(.activated(host: 1, pause: 5, replayed: 0)).isEmpty)
        let report = rig.supervisor.report
        #expect(report.state == .running && report.processID == 1001 && report.user == 60_000)
        #expect(report.sandboxGaps == ["no Landlock"] && report.since == 1000 && report.starts == 1)
        #expect(report.lastPauseNanoseconds == nil)
        #expect(rig.events.map(\.state) == [.running])
        #expect(rig(.begin).isEmpty)
    }

    @Test("a lost host's successor starts at once and is attached only when the lost one is gone")
    func recovers() {
        var rig = Rig()
        rig.run()
        #expect(
            rig.crash(1) == [.detachQueues, .kill(host: 1), .spawn(host: 2), .armTimer(millis(10_000))])
        #expect(rig.state == .recovering)
        #expect(rig(started(2)) == [.cancelTimer])
        #expect(rig(.gone(host: 1)) == [.attachQueues(host: 2)])
        #expect(rig.state == .recovering)
        _ = rig(.activated(host: 2, pause: 42, replayed: 7))
        let report = rig.supervisor.report
        #expect(report.state == .running && report.lastPauseNanoseconds == 42 && report.replayed == 10)
        #expect(report.ends == [.crash: 1] && report.lastEnd?.message == "killed by signal 11")
        #expect(rig.events.map(\.state) == [.running, .recovering, .running])
    }

    @Test("the lost host may be gone before the next has started")
    func goneFirst() {
        var rig = Rig()
        rig.run()
        _ = rig.crash(1)
        #expect(rig(.gone(host: 1)).isEmpty)
        #expect(rig(started(2)) == [.attachQueues(host: 2), .cancelTimer])
    }

    @Test("a host that is gone without further words was lost, and is not killed again")
    func goneAlone() {
        var rig = Rig()
        rig.run()
        #expect(rig(.gone(host: 1)) == [.detachQueues, .spawn(host: 2), .armTimer(millis(10_000))])
        #expect(rig(started(2)) == [.attachQueues(host: 2), .cancelTimer])
        #expect(rig.supervisor.report.ends == [.crash: 1])
    }

    @Test("a host that is lost while the queues turn to it")
    func lostWhileAttaching() {
        var rig = Rig()
        rig.run()
        _ = rig.crash(1)
        _ = rig(.gone(host: 1))
        _ = rig(started(2))
        #expect(rig.crash(2) == [.detachQueues, .kill(host: 2), .armTimer(millis(100))])
        #expect(rig(.activated(host: 2, pause: 1, replayed: 1)).isEmpty)
        #expect(rig.state == .recovering)
        #expect(rig(.timerFired, after: 100) == [.spawn(host: 3), .armTimer(millis(10_000))])
        #expect(rig(started(3)) == [.cancelTimer])
        #expect(rig(.gone(host: 2)) == [.attachQueues(host: 3)])
    }

    @Test("delays double while hosts die young, and end with one that lasts")
    func backsOff() {
        var rig = Rig()
        rig.run()
        var delays: [UInt64] = []
        var host = 1
        for _ in 0..<5 {
            // Far enough apart for no quarantine, too close to be stable.
            let actions = rig.crash(host, after: 249)
            _ = rig(.gone(host: host))
            host += 1
            if actions.contains(.spawn(host: host)) {
                delays.append(0)
            } else if case .armTimer(let delay)? = actions.last {
                delays.append(delay / 1_000_000)
                #expect(rig(.timerFired, after: delay / 1_000_000 - 1).first == .armTimer(millis(1)))
                #expect(rig(.timerFired, after: 1).first == .spawn(host: host))
            }
            rig.serve(host)
        }
        #expect(delays == [0, 100, 200, 400, 800])
        #expect(rig.crash(host, after: 250).contains(.spawn(host: host + 1)))
    }

    @Test("the policy's delays")
    func delays() {
        let policy = HostPolicy()
        let delays = (0...12).map { policy.delay(lossesInARow: $0) / 1_000_000 }
        #expect(delays == [0, 0, 100, 200, 400, 800, 1600, 3200, 6400, 10_000, 10_000, 10_000, 10_000])
        #expect(policy.delay(lossesInARow: .max) == policy.longestDelay)
    }

    @Test("a host that does not start in time is ended, and another one tried")
    func slowStart() {
        var rig = Rig()
        _ = rig(.begin)
        #expect(
            rig(.timerFired, after: 10_000) == [
                .kill(host: 1), .spawn(host: 2), .armTimer(millis(10_000)),
            ])
        #expect(rig(started(1)).isEmpty)
        #expect(rig.state == .starting && rig.supervisor.report.ends == [.hang: 1])
        #expect(rig(.gone(host: 1)).isEmpty)
        // The late one never saw a request: nobody waits for it.
        #expect(rig(started(2)).first == .attachQueues(host: 2))
    }

    @Test("there are never more than two hosts")
    func atMostTwo() {
        var rig = Rig()
        rig.run()
        _ = rig.crash(1)
        _ = rig(.startFailed(host: 2, message: "no folder"))
        #expect(rig(.timerFired, after: 100).isEmpty)
        #expect(rig(.gone(host: 2)) == [.spawn(host: 3), .armTimer(millis(10_000))])
        #expect(rig(started(3)) == [.cancelTimer])
        #expect(rig(.gone(host: 1)) == [.attachQueues(host: 3)])
    }

    /// Loses hosts in a row until the supervisor gives up; returns the last host's number.
    private func exhaust(_ rig: inout Rig) -> Int {
        var host = 1
        rig.run()
        while true {
            _ = rig.crash(host, after: 10)
            if rig.state == .quarantined { return host }
            _ = rig(.gone(host: host))
            host += 1
            _ = rig(.timerFired, after: 7_000)
            rig.serve(host)
            if host > 20 { return host }
        }
    }

    @Test("too many losses quarantine the pool, and requests wait for a restart; whoever calls is refused")
    func quarantineWaits() {
        var rig = Rig()
        let last = exhaust(&rig)
        #expect(last == 8 && rig.state == .quarantined && rig.refusals == 1)
        #expect(rig(.gone(host: last)).isEmpty)
        #expect(rig(.timerFired, after: 100_000).isEmpty)
        #expect(rig(.restartRequested) == [.spawn(host: 9), .armTimer(millis(10_000))])
        #expect(rig(started(9)) == [.attachQueues(host: 9), .cancelTimer])
    }

    @Test("whether requests wait in quarantine can be decided while they do, and while they fail")
    func quarantineIsDecidedAnew() {
        var rig = Rig()
        let last = exhaust(&rig)
        _ = rig(.gone(host: last))
        #expect(rig(.quarantineFails(true)) == [.failRequests(.quarantined)])
        #expect(rig(.quarantineFails(true)).isEmpty)
        #expect(rig(.quarantineFails(false)) == [.refuseCalls])
        #expect(rig.state == .quarantined)
    }

    @Test(
        "too many losses quarantine the pool, and where it is set so requests fail when the last host is gone"
    )
    func quarantines() {
        var rig = Rig()
        _ = rig(.quarantineFails(true))
        let last = exhaust(&rig)
        #expect(last == 8 && rig.state == .quarantined)
        #expect(rig.supervisor.report.ends == [.crash: 8] && rig.supervisor.report.processID == nil)
        #expect(rig(.gone(host: last)) == [.failRequests(.quarantined)])
        #expect(rig(.timerFired, after: 100_000).isEmpty)
        let words = rig.events.last?.message ?? ""
        #expect(words.contains("8 processes") && words.contains("killed by signal 11"))
        guard case .answerUpgrade(.failure(let refusal))? = rig(.upgradeRequested).first else {
            Issue.record("an upgrade out of quarantine")
            return
        }
        #expect(refusal.status == .quarantined)
    }

    @Test("a restart brings a pool out of quarantine")
    func leavesQuarantine() {
        var rig = Rig()
        let last = exhaust(&rig)
        _ = rig(.gone(host: last))
        #expect(rig(.restartRequested) == [.spawn(host: 9), .armTimer(millis(10_000))])
        #expect(rig.state == .recovering)
        #expect(rig(started(9)) == [.attachQueues(host: 9), .cancelTimer])
        #expect(rig(.activated(host: 9, pause: 1, replayed: 0)) == [.answerRestart(nil)])
        #expect(rig.crash(9).contains(.spawn(host: 10)))
    }

    @Test("a restart that comes before the requests failed saves them")
    func restartBeforeFailure() {
        var rig = Rig()
        let last = exhaust(&rig)
        #expect(rig(.restartRequested) == [.spawn(host: 9), .armTimer(millis(10_000))])
        #expect(rig(started(9)) == [.cancelTimer])
        #expect(rig(.gone(host: last)) == [.attachQueues(host: 9)])
    }

    @Test("losses that lie far apart do not add up")
    func windowSlides() {
        var rig = Rig()
        rig.run()
        for host in 1...30 {
            _ = rig.crash(host, after: 10_000)
            #expect(rig.state == .recovering)
            _ = rig(.gone(host: host))
            rig.serve(host + 1)
        }
        #expect(rig.supervisor.report.ends == [.crash: 30] && rig.state == .running)
    }

    @Test("a host that never comes up at all ends in quarantine")
    func neverStarts() {
        var rig = Rig()
        _ = rig(.begin)
        for host in 1...8 {
            #expect(rig.state == .starting)
            _ = rig(.startFailed(host: host, message: "no folder"))
            _ = rig(.gone(host: host))
            _ = rig(.timerFired, after: 7_000)
        }
        #expect(rig.state == .quarantined)
        #expect(rig.events.last?.message.contains("no folder") == true)
    }

    // MARK: Administrators

    @Test("a restart is no loss")
    func restarts() {
        var rig = Rig()
        rig.run()
        for host in 1...20 {
            #expect(
                rig(.restartRequested, after: 10) == [
                    .detachQueues, .kill(host: host), .spawn(host: host + 1), .armTimer(millis(10_000)),
                ])
            _ = rig(.gone(host: host))
            _ = rig(started(host + 1))
            #expect(rig(.activated(host: host + 1, pause: 9, replayed: 0)) == [.answerRestart(nil)])
        }
        #expect(rig.supervisor.report.ends == [.restart: 20])
    }

    @Test("a restart whose host does not come up says so, and the pool goes on trying")
    func restartFails() {
        var rig = Rig()
        rig.run()
        _ = rig(.restartRequested)
        _ = rig(.gone(host: 1))
        let actions = rig(.startFailed(host: 2, message: "no folder"))
        guard case .answerRestart(let error?)? = actions.dropFirst().first else {
            Issue.record("\(actions)")
            return
        }
        #expect(error.status == .driverFailed && error.message.contains("no folder"))
        #expect(
            rig(.gone(host: 2)) == [.spawn(host: 3), .armTimer(millis(10_000))] || rig.state == .recovering)
        rig.serve(3)
        #expect(rig.state == .running)
    }

    @Test("a restart does not wait for a delay")
    func restartSkipsDelay() {
        var rig = Rig()
        rig.run()
        for host in 1...5 {
            _ = rig.crash(host)
            _ = rig(.gone(host: host))
            if host < 5 {
                _ = rig(.timerFired, after: 1_000)
                rig.serve(host + 1)
            }
        }
        #expect(rig(.restartRequested).first == .spawn(host: 6))
        guard case .answerRestart(let refusal?)? = rig(.restartRequested).first else {
            Issue.record("a second restart at once")
            return
        }
        #expect(refusal.status == .busy)
    }

    @Test("an upgrade: start, quiesce, hand over, attach")
    func upgrades() {
        var rig = Rig()
        rig.run()
        #expect(rig(.upgradeRequested) == [.spawn(host: 2), .armTimer(millis(10_000))])
        #expect(rig.state == .upgrading && rig.supervisor.report.processID == 1001)
        #expect(rig(started(2), after: 300) == [.quiesceQueues, .armTimer(millis(500))])
        #expect(rig(.quiesced, after: 3) == [.detachQueues, .kill(host: 1), .cancelTimer])
        #expect(rig.state == .upgrading)
        #expect(rig(.quiesced).isEmpty)
        #expect(rig(.gone(host: 1)) == [.attachQueues(host: 2)])
        #expect(
            rig(.activated(host: 2, pause: 33, replayed: 0)) == [.answerUpgrade(.success(33))])
        #expect(rig.supervisor.report.ends == [.upgrade: 1])
        #expect(rig.supervisor.report.lastPauseNanoseconds == 33 && rig.state == .running)
    }

    @Test("an upgrade does not wait long for the old host")
    func upgradeTimesOut() {
        var rig = Rig()
        rig.run()
        _ = rig(.upgradeRequested)
        _ = rig(started(2))
        #expect(rig(.timerFired, after: 499) == [.armTimer(millis(1))])
        #expect(rig(.timerFired, after: 1) == [.detachQueues, .kill(host: 1)])
        #expect(rig(.gone(host: 1)) == [.attachQueues(host: 2)])
    }

    @Test("an upgrade whose host does not come up leaves the old one serving")
    func upgradeRefused() {
        var rig = Rig()
        rig.run()
        _ = rig(.upgradeRequested)
        let actions = rig(.startFailed(host: 2, message: "wrong version"))
        #expect(actions.first == .kill(host: 2))
        guard actions.count == 3, case .answerUpgrade(.failure(let error)) = actions[1] else {
            Issue.record("\(actions)")
            return
        }
        #expect(error.message.contains("wrong version"))
        #expect(rig.state == .running && rig.supervisor.report.processID == 1001)
        #expect(rig.supervisor.report.since == 1000)
    }

    @Test("an upgrade whose host dies while the queues are quiet lets them go on")
    func upgradeDiesQuiescing() {
        var rig = Rig()
        rig.run()
        _ = rig(.upgradeRequested)
        _ = rig(started(2))
        let actions = rig(.gone(host: 2))
        #expect(actions.contains(.resumeQueues) && !actions.contains(.detachQueues))
        #expect(rig.state == .running)
        #expect(rig(.upgradeRequested).first == .spawn(host: 3))
    }

    @Test("the old host is lost during an upgrade: the new one takes over at once")
    func lostDuringUpgrade() {
        for isReady in [false, true] {
            var rig = Rig()
            rig.run()
            _ = rig(.upgradeRequested)
            if isReady { _ = rig(started(2)) }
            #expect(rig.crash(1).starts(with: [.detachQueues, .kill(host: 1)]))
            #expect(rig.state == .recovering)
            #expect(rig(.gone(host: 1)) == (isReady ? [.attachQueues(host: 2)] : []))
            if !isReady { #expect(rig(started(2)).first == .attachQueues(host: 2)) }
            #expect(
                rig(.activated(host: 2, pause: 8, replayed: 0)) == [.answerUpgrade(.success(8))])
        }
    }

    @Test("an upgrade is refused while another host is being started")
    func upgradeBusy() {
        var rig = Rig()
        rig.run()
        _ = rig.crash(1)
        guard case .answerUpgrade(.failure(let refusal))? = rig(.upgradeRequested).first else {
            Issue.record("accepted")
            return
        }
        #expect(refusal.status == .busy)
    }

    @Test("a pool that ends: everything is killed, and left requests fail when all are gone")
    func stops() {
        var rig = Rig()
        rig.run()
        _ = rig(.upgradeRequested)
        let actions = rig(.stopRequested)
        #expect(actions.contains(.kill(host: 1)) && actions.contains(.kill(host: 2)))
        #expect(actions.contains(.detachQueues) && actions.contains(.cancelTimer))
        #expect(actions.contains { if case .answerUpgrade(.failure) = $0 { true } else { false } })
        #expect(rig.state == .stopped)
        #expect(rig(.gone(host: 1)) == [.failRequests(.draining)])
        #expect(rig(.gone(host: 2)).isEmpty)
        #expect(rig.events.last?.state == .stopped)
        #expect(rig(.stopRequested).isEmpty)
        guard case .answerRestart(.some)? = rig(.restartRequested).first else {
            Issue.record("a stopped pool was restarted")
            return
        }
    }

    @Test("what is said of hosts that nobody knows changes nothing")
    func strangers() {
        var rig = Rig()
        rig.run()
        for host in [0, 2, 99] {
            #expect(rig(started(host)).isEmpty)
            #expect(rig.crash(host).isEmpty)
            #expect(rig(.startFailed(host: host, message: "")).isEmpty)
            #expect(rig(.gone(host: host)).isEmpty)
            #expect(rig(.activated(host: host, pause: 0, replayed: 0)).isEmpty)
        }
        #expect(rig(.quiesced).isEmpty && rig(.timerFired).isEmpty)
        #expect(rig.state == .running)
    }
}
