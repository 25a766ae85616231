import Core
import DriverKit
import Foundation
import Glibc
import HostileDriver
import Reactor
import TestSupport
import Testing

@testable import DriverHost

@Suite("IsolatedDriver: hosts that harm the server", .serialized, .blocking)
struct HarmfulHostTests {
    @Test(
        "a host that breaks the rules is ended, and the next one answers",
        arguments: [Harm.holdLifeline, .keepPipe, .keepMany, .keepForEver, .keepMemory, .keepOpenMemory])
    func rules(harm: Harm) throws {
        // However slow the machine, the host says more than it may.
        var policy = HostPolicy()
        policy.unaskedPacketInterval = 1_000_000_000
        let rig = try IsolatedRig(settings: ["harm": harm.rawValue], policy: policy)
        #expect(try rig.driver.capacity().total > 0)
        #expect(
            rig.events.next(.recovering)?.message == "a packet that does not belong on the control socket")
        #expect(rig.events.next(.running) != nil)
        #expect(rig.driver.keeper.store.all.count <= Limits.storedDescriptorsFree)
        #expect(rig.driver.keeper.store.all.allSatisfy { $0.entry.memoryBytes == 0 })
    }

    @Test("a host that rings for nothing is ended")
    func rings() throws {
        let rig = try IsolatedRig(settings: ["harm": Harm.ring.rawValue])
        let requests = try RequestRig(rig.driver)
        defer { requests.stop() }
        try rig.driver.createVolume(Identifier(high: 1, low: 1), size: 1 << 20)
        _ = try rig.driver.openVolume(Identifier(high: 1, low: 1), index: 0)
        #expect(requests.status(.read) == .ok)
        #expect(try rig.driver.capacity().total > 0)
        #expect(rig.events.next(.recovering)?.message == "it rings the doorbell without a completion")
        #expect(requests.status(.read) == .ok)
    }

    @Test("what a host says of a failure is a failure, on one line")
    func words() throws {
        let rig = try IsolatedRig(settings: ["harm": Harm.speakInLines.rawValue])
        #expect(throws: StatusError(.driverFailed, "one line another [2J")) { try rig.driver.capacity() }
        #expect(try rig.driver.capacity().total > 0)
    }

    @Test(
        "what hosts have kept of memory is no more than the volumes explain, which growing and deleting change"
    )
    func explainedMemory() throws {
        let rig = try IsolatedRig(
            executable: IsolatedRig.hostProgram, driver: "memory", settings: ["size": "64MiB"])
        let (first, second) = (Identifier(high: 1, low: 1), Identifier(high: 1, low: 2))
        func allowed() -> UInt64 { rig.driver.keeper.shared.withLock { $0.allowance.memoryBytes } }
        func kept() -> UInt64 { rig.driver.keeper.store.all.reduce(0) { $0 + $1.entry.memoryBytes } }
        #expect(allowed() == 0 && kept() == 0)
        try rig.driver.createVolume(first, size: 1 << 40)
        try rig.driver.createVolume(second, size: 4096)
        for step in 1...20 as ClosedRange<UInt64> {
            try rig.driver.resizeVolume(second, to: step * (3 << 20))
        }
        #expect(kept() > 1 << 40 && kept() <= allowed())
        try rig.driver.deleteVolume(first)
        #expect(kept() > 0 && kept() <= allowed() && allowed() < 1 << 30)
        try rig.killHost()
        #expect(try rig.driver.volumes() == [second: 60 << 20])
        try rig.driver.deleteVolume(second)
        #expect(kept() == 0 && allowed() == 0)
    }

    // MARK: The first start

    @Test("a pool whose host hangs at its start is refused in time")
    func hangsAtStart() throws {
        var policy = HostPolicy()
        policy.startDeadline = 200_000_000
        let error = #expect(throws: StatusError.self) {
            try IsolatedRig(settings: ["harm": Harm.hangAtStart.rawValue], policy: policy)
        }
        #expect(error?.message == "the driver host was lost: it did not start within 200 ms")
    }

    @Test(
        "a pool that cannot start says why",
        arguments: [
            ("/nowhere/sluice-driver", "harmful", Harm.ring, "cannot be started"),
            ("/bin/true", "harmful", Harm.ring, "exited with 0"),
            (HostileProgram.path, "harmful", Harm.endAtStart, "exited with 3"),
            (HostileProgram.path, "harmful", Harm.refuseToStart, "this device is full"),
            (HostileProgram.path, "nothing", Harm.ring, "there is no driver 'nothing'"),
        ])
    func cannotStart(executable: String, driver: String, harm: Harm, words: String) throws {
        let error = #expect(throws: StatusError.self) {
            try IsolatedRig(executable: executable, driver: driver, settings: ["harm": harm.rawValue])
        }
        #expect(error?.message.contains(words) == true, "\(error?.message ?? "")")
    }

    @Test("pools that come and go leave no descriptor and no thread")
    func comesAndGoes() throws {
        // Other suites run at the same time: what counts is what only pools have, a descriptor of each host's process.
        func hosts() throws -> Int {
            try FileManager.default.contentsOfDirectory(atPath: "/proc/self/fd").count { name in
                let target = try? FileManager.default.destinationOfSymbolicLink(
                    atPath: "/proc/self/fd/" + name)
                return target?.contains("pidfd") == true
            }
        }
        func threads() throws -> Int {
            try FileManager.default.contentsOfDirectory(atPath: "/proc/self/task").count
        }
        func round() throws {
            let rig = try IsolatedRig(
                executable: IsolatedRig.hostProgram, driver: "memory", settings: ["size": "8MiB"])
            let requests = try RequestRig(rig.driver)
            try rig.driver.createVolume(Identifier(high: 1, low: 1), size: 1 << 20)
            _ = try rig.driver.openVolume(Identifier(high: 1, low: 1), index: 0)
            #expect(requests.status(.read) == .ok)
            requests.stop()
        }
        try round()
        let before = (hosts: try hosts(), threads: try threads())
        for _ in 0..<60 { try round() }
        #expect(try hosts() < before.hosts + 50)
        #expect(try threads() < before.threads + 50)
    }
}
