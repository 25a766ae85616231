import Core
import DriverKit
import HTTPTypes
import Reactor
import Services
import Synchronization
import Testing

@testable import ControlPlane

@Suite struct DriverRoutesTests {
    private static let inlinePool = #"{"name":"ram","driver":"memory","isolation":"inline"}"#
    private let key: HTTPFields = [.idempotencyKey: "once"]

    @Test func aDriverAndItsHostAreShownInFull() async throws {
        try await withControlPlane { rig async throws in
            let host = try #require(rig.host("default"))
            host.state.withLock { state in
                state.report.processID = 4711
                state.report.user = 61_184
                state.report.since = 1_795_838_400
                state.report.starts = 4
                state.report.ends = [.crash: 2, .upgrade: 1]
                state.report.lastEnd = .init(
                    cause: .crash, message: "killed by signal 11", at: 1_795_838_399)
                state.report.lastPauseNanoseconds = 21_406_123
                state.report.replayed = 32
                state.report.sandboxGaps = ["no Landlock"]
            }
            let answer = try await rig.ask(.get, "/v1/drivers/default")
            #expect(answer.status == 200)
            let expected = #"""
                {"driver":"file","ends":{"crash":2,"hang":0,"restart":0,"upgrade":1,"violation":0},\#
                "isolation":"isolated","lastEnd":{"at":"2026-11-28T03:59:59Z","cause":"crash",\#
                "message":"killed by signal 11"},"lastPauseMilliseconds":21.406,"pid":4711,"pool":"default",\#
                "replayed":32,"sandboxGaps":["no Landlock"],"since":"2026-11-28T04:00:00Z","starts":4,\#
                "state":"running","user":61184}

                """#
            #expect(answer.text == expected)
        }
    }

    @Test func inlineDriversAreListedBesideTheOthers() async throws {
        try await withControlPlane { rig async throws in
            #expect(try await rig.ask(.post, "/v1/pools", Self.inlinePool).status == 201)
            let list = try await rig.ask(.get, "/v1/drivers")
            guard case .array(let items) = list.json["items"] else {
                Issue.record("no items: \(list.text)")
                return
            }
            #expect(items.map { $0["pool"] } == [.string("default"), .string("ram")])
            #expect(items.map { $0["isolation"] } == [.string("isolated"), .string("inline")])
            #expect(items.map { $0["state"] } == [.string("running"), .string("running")])
            #expect(items[1]["pid"] == .null)
            let page = try await rig.ask(.get, "/v1/drivers?limit=1")
            #expect(page.json["nextCursor"] != nil)
            #expect(try await rig.ask(.get, "/v1/drivers/nothing").code == "NOT_FOUND")
        }
    }

    @Test(arguments: [
        (DriverHostReport.State.starting, "starting"), (.recovering, "recovering"),
        (.upgrading, "upgrading"), (.quarantined, "quarantined"), (.stopped, "failed"),
    ])
    func aPoolShowsWhatItsHostIsDoing(state: DriverHostReport.State, word: String) async throws {
        try await withControlPlane { rig async throws in
            let host = try #require(rig.host("default"))
            host.state.withLock { inner in
                inner.report.state = state
                inner.report.lastEnd = .init(cause: .crash, message: "killed by signal 9", at: 1)
            }
            let pool = try await rig.ask(.get, "/v1/pools/default").json
            #expect(pool["state"] == .string(word))
            if case .string(let message)? = pool["message"] {
                #expect(message.hasPrefix("killed by signal 9"))
                #expect(message.contains("sluice pool restart") == (state == .quarantined))
            } else {
                Issue.record("nothing is said")
            }
            #expect(pool["capacity"] == nil, "a driver that does not serve is not asked")
            host.state.withLock { $0.report.state = .running }
            let well = try await rig.ask(.get, "/v1/pools/default").json
            #expect(well["state"] == .string("ready"))
            #expect(well["message"] == nil)
            #expect(well["capacity"] != nil)
        }
    }

    @Test func restartEndsAQuarantine() async throws {
        try await withControlPlane { rig async throws in
            let host = try #require(rig.host("default"))
            host.state.withLock { $0.report.state = .quarantined }
            let answer = try await rig.ask(.post, "/v1/pools/default/restart")
            #expect(answer.status == 200)
            #expect(answer.json["state"] == .string("ready"))
            #expect(host.state.withLock { $0.restarts } == 1)
        }
    }

    @Test func aRepeatedRestartIsAnsweredAndNotDone() async throws {
        try await withControlPlane { rig async throws in
            let first = try await rig.ask(.post, "/v1/pools/default/restart", "{}", headers: key)
            let second = try await rig.ask(.post, "/v1/pools/default/restart", "{}", headers: key)
            #expect(first.status == 200)
            #expect(second.text == first.text)
            #expect(rig.host("default")?.state.withLock { $0.restarts } == 1)
        }
    }

    @Test func aRestartThatFailsSaysWhy() async throws {
        try await withControlPlane { rig async throws in
            let host = try #require(rig.host("default"))
            host.state.withLock { $0.failure = StatusError(.quarantined, "the host ended 5 times") }
            let refused = try await rig.ask(.post, "/v1/pools/default/restart", headers: key)
            #expect((refused.status, refused.code) == (503, "DEVICE_FAILED"))
            #expect(refused.json["detail"] == .string("the host ended 5 times"))
            host.state.withLock { $0.failure = nil }
            #expect(try await rig.ask(.post, "/v1/pools/default/restart", headers: key).status == 200)
        }
    }

    @Test func aRestartWhoseDriverSaysNothingHasNotSucceeded() async throws {
        try await withControlPlane { rig async throws in
            let host = try #require(rig.host("default"))
            let silence = ThreadSemaphore()
            host.state.withLock { $0.silence = silence }
            let pool = try rig.plane.pool("default").record
            let problem = await #expect(throws: Problem.self) {
                try await rig.plane.expectAnswer(of: pool, seconds: 1)
            }
            #expect(problem?.code == .deviceFailed)
            #expect(problem?.detail.contains("has answered nothing for 1 s") == true)
            host.state.withLock { $0.silence = nil }
            silence.signal()
            try await rig.plane.expectAnswer(of: pool)
        }
    }

    @Test func upgradeAnswersThePause() async throws {
        try await withControlPlane { rig async throws in
            let answer = try await rig.ask(.post, "/v1/drivers/default/upgrade", headers: key)
            #expect(answer.text == "{\"pauseMilliseconds\":18.250,\"pool\":\"default\"}\n")
            let again = try await rig.ask(.post, "/v1/drivers/default/upgrade", headers: key)
            #expect(again.text == answer.text)
            #expect(rig.host("default")?.state.withLock { $0.upgrades } == 1)
        }
    }

    @Test func anInlineDriverHasNoHostToRestartOrUpgrade() async throws {
        try await withControlPlane { rig async throws in
            _ = try await rig.ask(.post, "/v1/pools", Self.inlinePool)
            for target in ["/v1/pools/ram/restart", "/v1/drivers/ram/upgrade"] {
                let refused = try await rig.ask(.post, target)
                #expect((refused.status, refused.code) == (422, "NOT_SUPPORTED"))
                #expect(refused.text.contains("pool ram runs inline"))
            }
        }
    }

    @Test func onlyAdministratorsChangeAndObserversLook() async throws {
        try await withControlPlane { rig async throws in
            for target in ["/v1/drivers", "/v1/drivers/default", "/v1/events"] {
                #expect(try await rig.ask(.get, target, role: .observer).status == 200)
                #expect(try await rig.ask(.get, target, role: nil).status == 401)
            }
            for target in ["/v1/pools/default/restart", "/v1/drivers/default/upgrade"] {
                #expect(try await rig.ask(.post, target, role: .observer).code == "FORBIDDEN")
            }
            #expect(rig.host("default")?.state.withLock { $0.restarts + $0.upgrades } == 0)
        }
    }

    @Test func metricsTellOfTheHosts() async throws {
        try await withControlPlane { rig async throws in
            _ = try await rig.ask(.post, "/v1/pools", Self.inlinePool)
            rig.host("default")?.state.withLock { state in
                state.report.state = .recovering
                state.report.starts = 3
                state.report.ends = [.hang: 2]
                state.report.replayed = 17
                state.report.lastPauseNanoseconds = 42_000_001
            }
            let text = try await rig.ask(.get, "/metrics").text
            for line in [
                #"sluice_driver_state{pool="default",state="recovering"} 1"#,
                #"sluice_driver_state{pool="default",state="running"} 0"#,
                #"sluice_driver_starts_total{pool="default"} 3"#,
                #"sluice_driver_ends_total{pool="default",cause="hang"} 2"#,
                #"sluice_driver_ends_total{pool="default",cause="crash"} 0"#,
                #"sluice_driver_replayed_requests_total{pool="default"} 17"#,
                #"sluice_driver_last_pause_seconds{pool="default"} 0.042000001"#,
                #"sluice_pool_up{pool="default"} 0"#, #"sluice_pool_up{pool="ram"} 1"#,
            ] { #expect(text.contains(line + "\n"), "\(line)") }
            #expect(!text.contains(#"sluice_driver_state{pool="ram""#))
        }
    }

    @Test func theEndOfTheServerEndsEveryHost() async throws {
        let rig = try await ControlRig(try await ControlRig.Machine())
        let made = try await rig.ask(.post, "/v1/pools", #"{"name":"second","driver":"memory"}"#)
        #expect(made.status == 201)
        try await rig.stop()
        for pool in ["default", "second"] {
            #expect(rig.host(pool)?.state.withLock { $0.isShutDown } == true, "\(pool)")
        }
        await #expect(throws: StatusError.self) {
            try await rig.services.perform(
                .addPool(PoolDescriptor(name: "late", driver: "memory", settings: [:], folder: "")))
        }
        #expect(rig.host("late")?.state.withLock { $0.isShutDown } == true)
    }
}

@Suite struct PoolSettingsTests {
    @Test func settingsReachTheRunningDriverAndTheRecord() async throws {
        let machine = try await ControlRig.Machine()
        let rig = try await ControlRig(machine)
        let first = try await rig.ask(.patch, "/v1/pools/default", #"{"settings":{"delay":"5ms"}}"#)
        #expect(first.status == 200)
        #expect(first.json["settings"] == .strings(["delay": "5ms"]))
        #expect(rig.host("default")?.state.withLock { $0.settings } == ["delay": "5ms"])
        try await rig.stop()
        let next = try await ControlRig(machine)
        let pool = try await next.ask(.get, "/v1/pools/default")
        #expect(pool.json["settings"] == .strings(["delay": "5ms"]))
        let cleared = try await next.ask(.patch, "/v1/pools/default", #"{"settings":{"delay":null}}"#)
        #expect(cleared.json["settings"] == .object([:]))
        #expect(next.host("default")?.state.withLock { $0.settings } == [:])
        try await next.stop()
    }

    @Test(arguments: [("direct", 422, "NOT_SUPPORTED"), ("nonsense", 422, "INVALID_FIELD")])
    func whatTheDriverRefusesChangesNothing(setting: String, status: Int, code: String) async throws {
        try await withControlPlane { rig async throws in
            let before = try await rig.ask(.get, "/v1/pools/default")
            let refused = try await rig.ask(
                .patch, "/v1/pools/default", #"{"settings":{"\#(setting)":"1"},"labels":{"a":"b"}}"#)
            #expect((refused.status, refused.code) == (status, code))
            let after = try await rig.ask(.get, "/v1/pools/default")
            #expect(Self.lasting(after.json) == Self.lasting(before.json))
            #expect(after.headers[.eTag] == before.headers[.eTag])
            #expect(rig.host("default")?.state.withLock { $0.settings } == [:], "the driver has it as before")
        }
    }

    /// All of a pool but for how much is free on the disk, which is everybody's.
    private static func lasting(_ pool: JSONValue) -> JSONValue {
        guard case .object(var members) = pool, members.removeValue(forKey: "capacity") != nil else {
            Issue.record("no pool: \(pool)")
            return .null
        }
        members["space"] = nil
        return .object(members)
    }

    @Test func anInlineDriverSaysThatItTakesNoSettingsWhileItRuns() async throws {
        try await withControlPlane { rig async throws in
            _ = try await rig.ask(
                .post, "/v1/pools", #"{"name":"ram","driver":"memory","isolation":"inline"}"#)
            let refused = try await rig.ask(.patch, "/v1/pools/ram", #"{"settings":{"size":"1GiB"}}"#)
            #expect(refused.code == "NOT_SUPPORTED")
            let labels = try await rig.ask(.patch, "/v1/pools/ram", #"{"labels":{"a":"b"}}"#)
            #expect(labels.status == 200, "labels need no driver")
        }
    }

    @Test func isolationIsTheDefaultAndIsKept() async throws {
        let machine = try await ControlRig.Machine()
        let rig = try await ControlRig(machine)
        #expect(try await rig.ask(.get, "/v1/pools/default").json["isolation"] == .string("isolated"))
        let made = try await rig.ask(
            .post, "/v1/pools", #"{"name":"ram","driver":"memory","isolation":"inline"}"#)
        #expect(made.json["isolation"] == .string("inline"))
        #expect(rig.host("ram") == nil)
        let wrong = try await rig.ask(
            .post, "/v1/pools", #"{"name":"x","driver":"memory","isolation":"none"}"#)
        #expect(wrong.json["field"] == .string("isolation"))
        try await rig.stop()
        let next = try await ControlRig(machine)
        #expect(try await next.ask(.get, "/v1/drivers/ram").json["isolation"] == .string("inline"))
        try await next.stop()
    }

    @Test func anotherIsolationCountsFromTheNextStartOn() async throws {
        let machine = try await ControlRig.Machine()
        let rig = try await ControlRig(machine)
        let changed = try await rig.ask(.patch, "/v1/pools/default", #"{"isolation":"inline"}"#)
        #expect(changed.json["isolation"] == .string("inline"))
        #expect(changed.json["message"] == .string("runs isolated until the server is started anew"))
        #expect(try await rig.ask(.get, "/v1/drivers/default").json["isolation"] == .string("isolated"))
        let removed = try await rig.ask(.patch, "/v1/pools/default", #"{"isolation":null}"#)
        #expect(removed.code == "INVALID_FIELD")
        try await rig.stop()
        let next = try await ControlRig(machine)
        #expect(try await next.ask(.get, "/v1/drivers/default").json["isolation"] == .string("inline"))
        #expect(try await next.ask(.get, "/v1/pools/default").json["message"] == nil)
        try await next.stop()
    }

    @Test func aPoolThatDidNotStartIsStartedByARestart() async throws {
        let machine = try await ControlRig.Machine()
        machine.isBroken.withLock { $0 = true }
        let rig = try await ControlRig(machine)
        let failed = try await rig.ask(.get, "/v1/pools/default")
        #expect(failed.json["state"] == .string("failed"))
        #expect(try await rig.ask(.get, "/v1/drivers/default").json["state"] == .string("failed"))
        #expect(try await rig.ask(.post, "/v1/pools/default/restart").code == "DEVICE_FAILED")
        #expect(try await rig.ask(.post, "/v1/drivers/default/upgrade").code == "DEVICE_FAILED")
        let prepared = try await rig.ask(.patch, "/v1/pools/default", #"{"settings":{"delay":"1ms"}}"#)
        #expect(prepared.status == 200, "settings of a pool that does not run are for its next start")
        machine.isBroken.withLock { $0 = false }
        let restarted = try await rig.ask(.post, "/v1/pools/default/restart")
        #expect(restarted.status == 200)
        #expect(restarted.json["state"] == .string("ready"))
        let volume = try await rig.ask(.post, "/v1/volumes", #"{"name":"v","size":"1MiB"}"#)
        #expect(volume.status == 201)
        try await rig.stop()
    }
}
