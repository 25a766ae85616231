import Core
import DriverKit
import Glibc
import Reactor
import TestSupport
import Testing

@testable import Drivers

@Suite("The fault driver", .serialized, .blocking)
struct FaultDriverTests {
    private static let id = Identifier.test(1)
    private static let size: UInt64 = 4 << 20

    private func withVolume(
        _ rules: String, seed: UInt64 = 1, inner: String = "memory", more: [String: String] = [:],
        _ body: (DriverRig, FaultDriver) throws -> Void
    ) throws {
        let folder = try TestFolder()
        var settings = ["driver": inner, "rules": rules, "seed": "\(seed)"]
        settings.merge(more) { $1 }
        let driver = try FaultDriver(DriverEnvironment(settings: settings, folder: folder.path))
        let rig = try DriverRig(driver)
        defer {
            do { try rig.stop() } catch { Issue.record(error) }
        }
        try driver.createVolume(Self.id, size: Self.size)
        try rig.open(Self.id, index: 0)
        try body(rig, driver)
    }

    private func filled(_ byte: UInt8, _ count: Int = 4096) -> [UInt8] {
        [UInt8](repeating: byte, count: count)
    }

    @Test(
        "settings that are not valid are refused, with what would be right",
        arguments: [
            ([:], "file or memory"), (["driver": "fault"], "file or memory"),
            (["driver": "memory", "seed": "x"], "whole number"),
            (["driver": "memory", "size": "1GiB"], "inner."),
            (["driver": "memory", "inner.direct": "true"], "direct"),
            (["driver": "memory", "record": "../x.log"], "ends with .log"),
            (["driver": "memory", "record": ".log"], "ends with .log"),
            (["driver": "memory", "record": "volume"], "ends with .log"),
            (["driver": "memory", "rules": "write: nothing"], "rule 1"),
            (["driver": "memory", "rules": "any: crash"], "isolated"),
            (["driver": "memory", "rules": "write: torn crash"], "isolated"),
            (["driver": "memory", "rules": "powercut crash"], "isolated"),
        ] as [([String: String], String)])
    func settings(settings: [String: String], words: String) throws {
        let folder = try TestFolder()
        let error = try #require(throws: StatusError.self) {
            _ = try FaultDriver(DriverEnvironment(settings: settings, folder: folder.path))
        }
        #expect(error.message.contains(words), "\(error.message)")
    }

    @Test("it needs what the wrapped driver needs")
    func needs() throws {
        let needs = try FaultDriver.needs(settings: ["driver": "file", "inner.path": "/dev/loop9"])
        #expect(needs.paths == ["/dev/loop9"])
    }

    @Test("a device is made ready slowly, or not, where the rules say so; rules for any request do not")
    func preparation() throws {
        let folder = try TestFolder()
        let rules = "any: error; prepare count=2: delay 1ms; prepare nth=3: error busy"
        let driver = try FaultDriver(
            DriverEnvironment(settings: ["driver": "memory", "rules": rules], folder: folder.path))
        let (id, size) = (Identifier.test(1), UInt64(40 << 20))
        try driver.createVolume(id, size: size)
        #expect(try driver.prepareVolume(id, to: size) == 24 << 20)
        #expect(try driver.prepareVolume(id, to: size) == 8 << 20)
        let error = try #require(throws: StatusError.self) { try driver.prepareVolume(id, to: size) }
        #expect(error.status == .busy)
        #expect(try driver.prepareVolume(id, to: size) == 0)
    }

    @Test("an error is the status that the rule says, and nothing is done")
    func error() throws {
        try withVolume("write nth=2: error medium; flush: error busy; write nth=3: nospace") {
            rig, _ throws in
            #expect(try rig.write(filled(1), at: 0) == .ok)
            #expect(try rig.write(filled(2), at: 0) == .mediumError)
            #expect(try rig.write(filled(3), at: 0) == .noSpace)
            #expect(areAll(try rig.read(4096, at: 0), 1))
            #expect(try rig.range(.flush) == .busy)
            #expect(try rig.write(filled(4), at: 0) == .ok)
            #expect(rig.driver.notes[0].contains("error 2, nospace 1"))
        }
    }

    @Test("a delay is at least as long as the rule says, and holds nobody else up")
    func delay() throws {
        try withVolume("write nth=1: delay 200ms") { rig, _ throws in
            let start = SystemClock.monotonic()
            let batch = rig.begin([
                DriverRequest(opcode: .write, index: 0, tag: 0, offset: 0, length: 4096, buffer: 0),
                DriverRequest(opcode: .read, index: 0, tag: 0, offset: 0, length: 4096, buffer: 4096),
            ])
            #expect(try rig.statuses(batch) == [1: .ok])
            #expect(try batch.wait().allSatisfy { $0.status == 0 })
            #expect(SystemClock.monotonic() - start >= 200_000_000)
        }
    }

    @Test("what hangs is not answered until other rules hold; then it is done")
    func hang() throws {
        try withVolume("write nth=1: hang") { rig, driver throws in
            rig.fill(ArenaBuffer(offset: 0, bytes: 4096), filled(7))
            let batch = rig.begin([
                DriverRequest(opcode: .write, index: 0, tag: 0, offset: 0, length: 4096, buffer: 0),
                DriverRequest(opcode: .read, index: 0, tag: 0, offset: 8192, length: 4096, buffer: 4096),
            ])
            #expect(try rig.statuses(batch) == [1: .ok])
            try driver.configure(settings: ["driver": "memory", "rules": ""])
            #expect(try batch.wait().allSatisfy { $0.status == 0 })
            #expect(areAll(try rig.read(4096, at: 0), 7))
        }
    }

    @Test("hung requests fill the queue and go no further; the others wait in the ring and are done later")
    func backPressure() throws {
        try withVolume("write: hang") { rig, driver throws in
            let write = DriverRequest(opcode: .write, index: 0, tag: 0, offset: 0, length: 4096, buffer: 0)
            let batch = rig.begin([DriverRequest](repeating: write, count: 3000))
            #expect(try rig.statuses(batch) == [:])
            try driver.configure(settings: ["driver": "memory"])
            #expect(try batch.wait().allSatisfy { $0.status == 0 })
        }
    }

    @Test(
        "of a torn write the first blocks are there and the others are as before",
        arguments: 1...16 as ClosedRange<UInt64>)
    func torn(seed: UInt64) throws {
        try withVolume("write nth=2: torn", seed: seed) { rig, _ throws in
            #expect(try rig.write(filled(1, 65536), at: 0) == .ok)
            #expect(try rig.write(filled(2, 65536), at: 0) == .ioError)
            let read = try rig.read(65536, at: 0)
            let kept = read.prefix { $0 == 2 }.count
            #expect(kept % 512 == 0 && kept < 65536)
            #expect(areAll([UInt8](read[kept...]), 1))
        }
    }

    @Test("torn writes differ in where they tear")
    func tornDifferently() throws {
        var lengths: Set<Int> = []
        try withVolume("write every=2: torn") { rig, _ throws in
            for _ in 0..<8 {
                #expect(try rig.write(filled(1, 65536), at: 0) == .ok)
                #expect(try rig.write(filled(2, 65536), at: 0) == .ioError)
                lengths.insert(try rig.read(65536, at: 0).prefix { $0 == 2 }.count)
            }
        }
        #expect(lengths.count > 4)
    }

    private func flippedBits(_ bytes: [UInt8], _ expected: [UInt8]) -> Int {
        zip(bytes, expected).reduce(0) { $0 + ($1.0 ^ $1.1).nonzeroBitCount }
    }

    @Test("a bit flip on the way back leaves the device as it is")
    func readFlip() throws {
        try withVolume("read nth=1: bitflip") { rig, _ throws in
            let bytes = SeededBytes.make(65536, seed: 3)
            #expect(try rig.write(bytes, at: 0) == .ok)
            #expect(flippedBits(try rig.read(65536, at: 0), bytes) == 1)
            #expect(areEqual(try rig.read(65536, at: 0), bytes))
        }
    }

    @Test("a bit flip on the way to the device stays there, and the writer's memory is as it was")
    func writeFlip() throws {
        try withVolume("write nth=1: bitflip") { rig, _ throws in
            let bytes = SeededBytes.make(65536, seed: 3)
            let buffer = try #require(rig.allocator.allocate(65536))
            rig.fill(buffer, bytes)
            let write = DriverRequest(
                opcode: .write, index: 0, tag: 0, offset: 0, length: 65536, buffer: buffer.offset)
            #expect(try rig.status(write) == .ok)
            #expect(areEqual(rig.bytes(buffer, 65536), bytes))
            #expect(flippedBits(try rig.read(65536, at: 0), bytes) == 1)
            #expect(try rig.status(write) == .ok)
            #expect(areEqual(try rig.read(65536, at: 0), bytes))
        }
    }

    @Test("a crash ends the process")
    func crash() async {
        await #expect(processExitsWith: .signal(SIGABRT)) {
            try FaultDriverTests.endProcess(rules: "write nth=3: crash")
        }
        await #expect(processExitsWith: .signal(SIGABRT)) {
            try FaultDriverTests.endProcess(rules: "write nth=2: torn crash")
        }
        await #expect(processExitsWith: .signal(SIGABRT)) {
            try FaultDriverTests.endProcess(rules: "flush nth=1: powercut crash")
        }
    }

    @Test("a crash comes before the request is done or after that, as the seed says")
    func crashBeforeOrAfter() async throws {
        var found: Set<UInt8> = []
        for seed in 1...6 as ClosedRange<UInt64> {
            let folder = try TestFolder()
            await #expect(processExitsWith: .signal(SIGABRT)) {
                [path = folder.path as String, seed = seed as UInt64] in
                let settings = ["driver": "file", "seed": "\(seed)", "rules": "write nth=1: crash"]
                let rig = try DriverRig(
                    FaultDriver(
                        DriverEnvironment(settings: settings, folder: path, isolation: .isolated)))
                try rig.driver.createVolume(.test(1), size: 1 << 20)
                try rig.open(.test(1), index: 0)
                _ = try rig.write([UInt8](repeating: 1, count: 4096), at: 0)
                exit(3)
            }
            let rig = try DriverRig(FileDriver(DriverEnvironment(settings: [:], folder: folder.path)))
            try rig.open(.test(1), index: 0)
            found.insert(try rig.read(4096, at: 0)[0])
            try rig.stop()
        }
        #expect(found == [0, 1])
    }

    /// Writes and flushes until a rule ends this process.
    private static func endProcess(rules: String) throws {
        let driver = try FaultDriver(
            DriverEnvironment(
                settings: ["driver": "memory", "rules": rules], folder: "/tmp", isolation: .isolated))
        let rig = try DriverRig(driver)
        try driver.createVolume(id, size: size)
        try rig.open(id, index: 0)
        for place in 0..<8 as Range<UInt64> {
            guard try rig.write([UInt8](repeating: 1, count: 4096), at: place * 4096) == .ok else { exit(3) }
        }
        guard try rig.range(.flush) == .ok else { exit(4) }
        exit(5)
    }

    @Test("rules and seed change while the pool runs; what cannot change is refused and changes nothing")
    func configure() throws {
        try withVolume("write: error") { rig, driver throws in
            #expect(try rig.write(filled(1), at: 0) == .ioError)
            for (settings, status) in [
                (["driver": "file"], Status.notSupported),
                (["driver": "memory", "record": "x.log"], .notSupported),
                (["driver": "memory", "rules": "write: eror"], .badRequest),
                (["driver": "memory", "rules": "any: crash"], .notSupported),
                (["driver": "memory", "inner.size": "1GiB"], .notSupported),
            ] {
                let error = try #require(throws: StatusError.self) {
                    try driver.configure(settings: settings)
                }
                #expect(error.status == status)
                #expect(try rig.write(filled(1), at: 0) == .ioError)
            }
            try driver.configure(settings: ["driver": "memory", "rules": "write every=2: error", "seed": "1"])
            #expect(try rig.write(filled(1), at: 0) == .ok)
            // The same again is no change: the rule goes on counting.
            try driver.configure(settings: ["driver": "memory", "rules": "write every=2: error", "seed": "1"])
            #expect(try rig.write(filled(1), at: 0) == .ioError)
            #expect(try rig.write(filled(1), at: 0) == .ok)
            try driver.configure(settings: ["driver": "memory", "rules": "write every=2: error", "seed": "2"])
            #expect(try rig.write(filled(1), at: 0) == .ok)
        }
    }

    @Test("the same seed and the same requests give the same faults, and another seed others")
    func determinism() throws {
        func run(_ seed: UInt64) throws -> ([Status?], [UInt8]) {
            var statuses: [Status?] = []
            var content: [UInt8] = []
            let rules = "write chance=1/5: error; write chance=1/5: torn; write chance=1/5: bitflip"
            try withVolume(rules, seed: seed) { rig, _ throws in
                for place in 0..<100 as Range<UInt64> {
                    statuses.append(try rig.write(filled(UInt8(place), 8192), at: place % 16 * 8192))
                }
                content = try rig.read(16 * 8192, at: 0)
            }
            return (statuses, content)
        }
        let first = try run(5)
        let again = try run(5)
        #expect(first.0 == again.0 && areEqual(first.1, again.1))
        let other = try run(6)
        #expect(first.0 != other.0)
    }
}
