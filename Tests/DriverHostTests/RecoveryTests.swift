import Core
import DriverKit
import Glibc
import Reactor
import TestSupport
import Testing

@testable import DriverHost

@Suite("IsolatedDriver: what a lost host leaves to the next", .serialized, .blocking)
struct RecoveryTests {
    private func rig(
        policy: HostPolicy = HostPolicy(), settings: [String: String] = [:]
    ) throws -> IsolatedRig {
        try IsolatedRig(
            executable: IsolatedRig.hostProgram, driver: "file", settings: settings, policy: policy)
    }

    private func id(_ number: UInt32) -> Identifier { Identifier(high: 7, low: UInt64(number)) }

    @Test("a pool with more open volumes than fit the control socket comes back")
    func manyVolumes() throws {
        let rig = try rig()
        let requests = try RequestRig(rig.driver)
        defer { requests.stop() }
        for number in 0..<UInt32(800) {
            try rig.driver.createVolume(id(number), size: 1 << 20)
            _ = try rig.driver.openVolume(id(number), index: number)
        }
        try rig.killHost()
        for number: UInt32 in [0, 399, 799] { #expect(requests.status(.read, volume: number) == .ok) }
        #expect(rig.driver.report.ends[.crash] == 1)
    }

    @Test("a volume is open for the next host as soon as a host has opened it")
    func openIsNotedWithTheAnswer() throws {
        let rig = try rig()
        let requests = try RequestRig(rig.driver)
        defer { requests.stop() }
        try rig.driver.createVolume(id(1), size: 1 << 20)
        // The call alone: the host is lost before its caller has done anything with the answer.
        let call = VolumeCall.open(id(1), index: 5)
        _ = try rig.driver.keeper.call(
            KindCall(bytes: call.bytes, effect: .opens(5, subject: "it"), fits: { call.fits($0) }))
        try rig.killHost()
        #expect(requests.status(.read, volume: 5) == .ok)
        rig.driver.closeVolume(5)
        try rig.killHost()
        #expect(requests.status(.read, volume: 5) == .badHandle)
    }

    @Test("a volume that cannot be opened is not opened for the next host")
    func failedOpenIsForgotten() throws {
        let rig = try rig()
        #expect(throws: StatusError.self) { try rig.driver.openVolume(id(9), index: 3) }
        #expect(!rig.driver.keeper.isOpen(3))
    }

    @Test("requests of a quarantined pool wait until it is restarted, those of users who are cut off do not")
    func quarantineWaits() throws {
        var policy = HostPolicy()
        policy.lossesMax = 1
        let rig = try rig(policy: policy)
        let requests = try RequestRig(rig.driver)
        defer { requests.stop() }
        try rig.driver.createVolume(id(1), size: 1 << 20)
        _ = try rig.driver.openVolume(id(1), index: 0)
        let host = try #require(rig.driver.report.processID)
        #expect(kill(host, SIGSTOP) == 0)
        requests.begin(.read, tag: 1)
        requests.begin(.write, tag: 2)
        #expect(kill(host, SIGKILL) == 0)
        _ = try #require(rig.events.next(.quarantined))
        let error = #expect(throws: StatusError.self) { try rig.driver.capacity() }
        #expect(error?.status == .quarantined)
        requests.withdraw([2], status: .fenced)
        #expect(requests.result() == .fenced)
        requests.begin(.flush, tag: 3)
        try rig.driver.restart()
        #expect(requests.result() == .ok && requests.result() == .ok)
    }

    @Test("a pool that is quarantined fails its requests as soon as that is set, and lets them wait again")
    func quarantineIsSet() throws {
        var policy = HostPolicy()
        policy.lossesMax = 1
        let rig = try rig(policy: policy)
        let requests = try RequestRig(rig.driver)
        defer { requests.stop() }
        try rig.driver.createVolume(id(1), size: 1 << 20)
        _ = try rig.driver.openVolume(id(1), index: 0)
        #expect(kill(try #require(rig.driver.report.processID), SIGKILL) == 0)
        _ = try #require(rig.events.next(.quarantined))
        requests.begin(.read, tag: 1)
        #expect(throws: StatusError.self) { try rig.driver.configure(settings: ["quarantine": "never"]) }
        try rig.driver.configure(settings: ["quarantine": "fail"])
        #expect(requests.result() == .quarantined && rig.driver.failsInQuarantine)
        _ = try #require(rig.events.next(.quarantined))
        try rig.driver.configure(settings: [:])
        _ = try #require(rig.events.next(.quarantined))
        requests.begin(.read, tag: 2)
        try rig.driver.restart()
        #expect(requests.result() == .ok)
    }

    @Test("where it is set so requests of a quarantined pool fail, until it is restarted")
    func quarantine() throws {
        var policy = HostPolicy()
        policy.lossesMax = 1
        let rig = try rig(policy: policy, settings: ["quarantine": "fail"])
        let requests = try RequestRig(rig.driver)
        defer { requests.stop() }
        try rig.driver.createVolume(id(1), size: 1 << 20)
        _ = try rig.driver.openVolume(id(1), index: 0)
        #expect(kill(try #require(rig.driver.report.processID), SIGKILL) == 0)
        let error = #expect(throws: StatusError.self) { try rig.driver.capacity() }
        #expect(error?.status == .quarantined)
        #expect(requests.status(.read) == .quarantined)
        #expect(rig.driver.keeper.shared.withLock { $0.waiting.count + $0.calls.count } == 0)
        try rig.driver.restart()
        #expect(rig.driver.report.state == .running)
        #expect(requests.status(.read) == .ok)
    }

    @Test("a program that cannot be run any more is tried again, until the pool is quarantined")
    func programIsGone() throws {
        var policy = HostPolicy()
        policy.lossesMax = 4
        policy.firstDelay = 1_000_000
        let program = "/dev/shm/sluice-program-\(getpid())-\(UInt64.random(in: 0 ... .max))"
        _ = try ChildProcess(
            executable: "/bin/cp", arguments: [IsolatedRig.hostProgram, program], environment: []
        ).wait()
        let rig = try IsolatedRig(executable: program, driver: "file", settings: [:], policy: policy)
        #expect(unsafe unlink(program) == 0)
        let began = SystemClock.monotonic()
        #expect(kill(try #require(rig.driver.report.processID), SIGKILL) == 0)
        let words = try #require(rig.events.next(.quarantined)?.message)
        #expect(words.contains("4 processes were lost") && words.contains("cannot be started"), "\(words)")
        // The delays between the starts are what the policy says, some milliseconds: no other timer is waited for.
        #expect(SystemClock.monotonic() - began < 5_000_000_000)
    }
}
