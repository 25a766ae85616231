import Catalog
import Core
import DriverKit
import HTTPTypes
import Services
import TestSupport
import Testing

@testable import ControlPlane

/// A POST with an `Idempotency-Key` whose server is lost between what it does and its answer.
@Suite(.timeLimit(.minutes(1)), .serialized, .blocking)
struct RepeatTests {
    private let key: HTTPFields = [.idempotencyKey: "again"]
    private static let volume = #"{"name": "disk", "size": 1048576}"#

    /// A machine whose server does `target` with a key, and is killed after so many commits of it.
    private func killed(
        _ target: String, after commits: Int, _ prepare: (ControlRig) async throws -> Void = { _ in }
    ) async throws -> ControlRig.Machine {
        let machine = try await ControlRig.Machine()
        let rig = try await ControlRig(machine)
        try await prepare(rig)
        machine.commits.endAfter(commits)
        #expect(try await rig.ask(.post, target, headers: key).code == "CATALOG_FAILED")
        try await rig.stop()
        return machine
    }

    private func makeVolume(_ rig: ControlRig) async throws {
        #expect(try await rig.ask(.post, "/v1/volumes", Self.volume).status == 201)
    }

    @Test func aRepeatedFenceDoesNotCutOffWhoHasOpenedTheVolumeSince() async throws {
        let target = "/v1/volumes/disk/fence"
        let machine = try await killed(target, after: 1, makeVolume)
        let rig = try await ControlRig(machine)
        let again = try await rig.ask(.post, target, headers: key)
        #expect(again.status == 200 && again.json["epoch"] == .integer(2), "\(again.text)")
        let third = try await rig.ask(.post, target, headers: key)
        #expect(third.text == again.text, "answered from now on")
        // Somebody else's fence in between is not taken back or repeated either.
        #expect(try await rig.ask(.post, target).json["epoch"] == .integer(3))
        #expect(try await rig.ask(.post, target, headers: key).text == again.text)
        try await rig.stop()
    }

    @Test func aFenceThatIsRepeatedAfterAnotherOneDoesNothing() async throws {
        let target = "/v1/volumes/disk/fence"
        let machine = try await killed(target, after: 1, makeVolume)
        let rig = try await ControlRig(machine)
        #expect(try await rig.ask(.post, target).json["epoch"] == .integer(3))
        let again = try await rig.ask(.post, target, headers: key)
        #expect(again.json["epoch"] == .integer(2) && again.json["sessions"] == .array([]), "\(again.text)")
        #expect(try await rig.ask(.post, target).json["epoch"] == .integer(4))
        try await rig.stop()
    }

    @Test func aFenceThatIsRepeatedForANewVolumeOfTheNameIsRefused() async throws {
        let target = "/v1/volumes/disk/fence"
        let machine = try await killed(target, after: 1, makeVolume)
        let rig = try await ControlRig(machine)
        #expect(try await rig.ask(.delete, "/v1/volumes/disk").status == 200)
        try await makeVolume(rig)
        #expect(try await rig.ask(.post, target, headers: key).code == "CONFLICT")
        #expect(try await rig.ask(.post, target).json["epoch"] == .integer(2))
        try await rig.stop()
    }

    @Test func aFenceThatCouldNotBePutInForceIsPutInForceByARepeat() async throws {
        let (rig, services) = try await ControlRig.spied(try await ControlRig.Machine())
        try await makeVolume(rig)
        services.refuse("fenceVolume", StatusError(.busy, "not now"))
        #expect(try await rig.ask(.post, "/v1/volumes/disk/fence", headers: key).code == "BUSY")
        services.allow()
        let again = try await rig.ask(.post, "/v1/volumes/disk/fence", headers: key)
        #expect(again.status == 200 && again.json["epoch"] == .integer(2))
        #expect(services.count(of: "fenceVolume") == 2)
        let other = try await rig.ask(.post, "/v1/volumes/disk/fence", #"{"reason":"x"}"#, headers: key)
        #expect(other.code == "IDEMPOTENCY_MISMATCH")
        try await rig.stop()
    }

    @Test func aRestartThatTheServersOwnStartHasDoneIsNotDoneAgain() async throws {
        let machine = try await killed("/v1/pools/default/restart", after: 1)
        let rig = try await ControlRig(machine)
        let again = try await rig.ask(.post, "/v1/pools/default/restart", headers: key)
        #expect(again.status == 200 && again.json["state"] == .string("ready"), "\(again.text)")
        let host = try #require(rig.host("default"))
        #expect(host.state.withLock { $0.restarts } == 0)
        // Another request is another restart.
        #expect(try await rig.ask(.post, "/v1/pools/default/restart").status == 200)
        #expect(host.state.withLock { $0.restarts } == 1)
        try await rig.stop()
    }

    @Test func anUpgradeThatTheServersOwnStartHasDoneIsNotDoneAgain() async throws {
        let machine = try await killed("/v1/drivers/default/upgrade", after: 1)
        let rig = try await ControlRig(machine)
        let again = try await rig.ask(.post, "/v1/drivers/default/upgrade", headers: key)
        #expect(again.text == #"{"pauseMilliseconds":0.000,"pool":"default"}"# + "\n")
        let host = try #require(rig.host("default"))
        #expect(host.state.withLock { $0.upgrades } == 0)
        try await rig.stop()
    }

    @Test func aRestartThatFailedIsTriedAgainByARepeat() async throws {
        try await withControlPlane { rig async throws in
            let host = try #require(rig.host("default"))
            host.state.withLock { $0.failure = StatusError(.driverFailed, "no host starts") }
            #expect(
                try await rig.ask(.post, "/v1/pools/default/restart", headers: key).code == "DEVICE_FAILED")
            host.state.withLock { $0.failure = nil }
            #expect(try await rig.ask(.post, "/v1/pools/default/restart", headers: key).status == 200)
            #expect(host.state.withLock { $0.restarts } == 1)
            #expect(try await rig.ask(.post, "/v1/pools/default/restart", headers: key).status == 200)
            #expect(host.state.withLock { $0.restarts } == 1)
        }
    }

    /// A machine whose pool did not start with the server, for a reason that is gone.
    private func mendedPool(
        isolation: String = "isolated"
    ) async throws -> (ControlRig.Machine, ControlRig, RefusingServices) {
        let machine = try await ControlRig.Machine()
        let before = try await ControlRig(machine)
        let changed = try await before.ask(
            .patch, "/v1/pools/default", "{\"isolation\":\"\(isolation)\"}")
        #expect(changed.status == 200)
        try await before.stop()
        machine.isBroken.withLock { $0 = true }
        let (rig, services) = try await ControlRig.spied(machine)
        machine.isBroken.withLock { $0 = false }
        return (machine, rig, services)
    }

    @Test(arguments: ["isolated", "inline"])
    func aPoolThatARestartHasStartedIsNotRestartedByARepeat(_ isolation: String) async throws {
        let (machine, rig, services) = try await mendedPool(isolation: isolation)
        let target = "/v1/pools/default/restart"
        // The server notes the beginning, and loses the answer.
        machine.commits.endAfter(1)
        #expect(try await rig.ask(.post, target, headers: key).code == "CATALOG_FAILED")
        machine.commits.refuse { _ in false }
        for _ in 0..<2 {
            let again = try await rig.ask(.post, target, headers: key)
            #expect(again.status == 200 && again.json["state"] == .string("ready"), "\(again.text)")
        }
        #expect(services.count(of: "restartDriver") == 0)
        try await rig.stop()
    }

    @Test func aPoolThatDidNotStartAgainIsTriedAgainByARepeat() async throws {
        let (machine, rig, _) = try await mendedPool()
        machine.commits.endAfter(1)
        #expect(try await rig.ask(.post, "/v1/pools/default/restart", headers: key).code == "CATALOG_FAILED")
        try await rig.stop()
        machine.isBroken.withLock { $0 = true }
        let next = try await ControlRig(machine)
        #expect(try await next.ask(.post, "/v1/pools/default/restart", headers: key).code == "DEVICE_FAILED")
        machine.isBroken.withLock { $0 = false }
        let again = try await next.ask(.post, "/v1/pools/default/restart", headers: key)
        #expect(again.status == 200 && again.json["state"] == .string("ready"), "\(again.text)")
        try await next.stop()
    }

    @Test(arguments: [false, true])
    func twoThatAskAtOnceForAPoolThatDoesNotRunStartItOnce(isQuarantined: Bool) async throws {
        let machine = try await ControlRig.Machine()
        machine.isBroken.withLock { $0 = !isQuarantined }
        let (rig, services) = try await ControlRig.spied(machine)
        machine.isBroken.withLock { $0 = false }
        if isQuarantined { rig.host("default")?.state.withLock { $0.report.state = .quarantined } }
        // Both have seen that it does not run when the first begins.
        let asked = await rig.plane.locks.withLock("pool/default") {
            let asked = (0..<2).map { _ in
                Task { try await rig.ask(.post, "/v1/pools/default/restart").status }
            }
            while rig.plane.locks.waiting("pool/default") < 2 { await Task.yield() }
            return asked
        }
        for task in asked { #expect(try await task.value == 200) }
        #expect(services.count(of: "restartDriver") == (isQuarantined ? 1 : 0))
        // Whoever asks afterwards has it restarted.
        #expect(try await rig.ask(.post, "/v1/pools/default/restart").status == 200)
        #expect(services.count(of: "restartDriver") == (isQuarantined ? 2 : 1))
        try await rig.stop()
    }

    @Test func whatIsMadeTogetherWithItsAnswerIsMadeOnce() async throws {
        let requests = [
            ("/v1/nodes", #"{"name":"n1"}"#, commits: 1),
            ("/v1/pools", #"{"name":"ram","driver":"memory"}"#, 2),
            ("/v1/volumes", #"{"name":"b","size":1048576}"#, 2),
            ("/v1/nodes/n1/token", "{}", 1),
            ("/v1/grants", #"{"name":"g","node":"n1","resource":"volume/disk","rights":["read"]}"#, 1),
        ]
        let machine = try await ControlRig.Machine()
        let rig = try await ControlRig(machine)
        try await makeVolume(rig)
        for (target, body, commits) in requests {
            // Whichever of its commits is refused: nothing is there, and a repeat makes it.
            for refused in 1...commits {
                machine.commits.refuse { $0 == refused }
                let failed = try await rig.ask(.post, target, body, headers: key)
                #expect(failed.code == "CATALOG_FAILED", "\(target)")
            }
            machine.commits.refuse { _ in false }
            let made = try await rig.ask(.post, target, body, headers: key)
            #expect(made.status == 201, "\(target): \(made.text)")
            #expect(try await rig.ask(.post, target, body, headers: key).text == made.text, "\(target)")
        }
        try await rig.stop()
    }
}
