import Core
import DriverKit
import Foundation
import Reactor
import Simulation
import TestSupport
import Testing

@testable import Drivers

@Suite("The fault driver's log of what reaches the device", .serialized, .blocking)
struct RequestLogTests {
    private static let id = Identifier.test(1)

    /// A record, read by its documented layout.
    private struct Record {
        let kind: UInt8
        let opcode: UInt8
        let flags: UInt8
        let sequence: UInt64
        let volume: Identifier?
        let offset: UInt64
        let length: UInt64
        let status: UInt16
        let payload: [UInt8]
    }

    private func records(_ path: String) throws -> [Record] {
        let bytes = [UInt8](try Data(contentsOf: URL(filePath: path)))
        var records: [Record] = []
        var at = 0
        func number(_ offset: Int, _ count: Int) -> UInt64 {
            (0..<count).reversed().reduce(0) { $0 << 8 | UInt64(bytes[at + offset + $1]) }
        }
        while at < bytes.count {
            try #require(Array(bytes[at..<at + 4]) == Array("SLRQ".utf8))
            let payload = Int(number(48, 4))
            try #require(at + 64 + payload <= bytes.count)
            records.append(
                Record(
                    kind: bytes[at + 4], opcode: bytes[at + 5], flags: bytes[at + 6], sequence: number(8, 8),
                    volume: Identifier(bytes: bytes[at + 16..<at + 32]), offset: number(32, 8),
                    length: number(40, 8), status: UInt16(number(52, 2)),
                    payload: Array(bytes[at + 64..<at + 64 + payload])))
            at += 64 + payload
        }
        return records
    }

    private func open(_ folder: TestFolder, rules: String = "") throws -> DriverRig {
        try DriverRig(
            FaultDriver(
                DriverEnvironment(
                    settings: ["driver": "file", "record": "requests.log", "rules": rules],
                    folder: folder.path)))
    }

    @Test("beginning and end of what changes the device are there, in order and with the data")
    func order() throws {
        let folder = try TestFolder()
        let rig = try open(folder, rules: "write nth=3: error; write nth=4: torn")
        try rig.driver.createVolume(Self.id, size: 1 << 20)
        try rig.open(Self.id, index: 0)
        let bytes = SeededBytes.make(8192, seed: 1)
        #expect(try rig.write(bytes, at: 4096) == .ok)
        #expect(try rig.write(bytes, at: 0, flags: .fua) == .ok)
        #expect(try rig.range(.flush) == .ok)
        #expect(try rig.write(bytes, at: 65536) == .ioError)
        #expect(try rig.write(SeededBytes.make(1 << 16, seed: 2), at: 131_072) == .ioError)
        _ = try rig.read(4096, at: 0)
        #expect(try rig.range(.discard, at: 4096, 4096) == .ok)
        #expect(try rig.range(.writeZeroes, at: 8192, 4096, flags: .noUnmap) == .ok)
        try rig.stop()
        let records = try records(folder.path + "/requests.log")
        #expect(records[0].kind == 3)
        #expect(records.dropFirst().map(\.kind) == [1, 2, 1, 2, 1, 2, 1, 2, 1, 2, 1, 2])
        let begins = records.filter { $0.kind == 1 }
        #expect(begins.map(\.opcode) == [2, 2, 5, 2, 4, 3])
        #expect(begins.map(\.flags) == [0, 1, 0, 0, 0, 2])
        #expect(begins.allSatisfy { $0.volume == Self.id })
        #expect(begins[0].payload == bytes && begins[0].offset == 4096 && begins[0].length == 8192)
        // Of the torn write, what reached the device; the refused one is not there.
        #expect(begins[3].length < 1 << 16 && begins[3].length == UInt64(begins[3].payload.count))
        #expect(begins[4].payload.isEmpty && begins[4].length == 4096)
        let ends = records.filter { $0.kind == 2 }
        #expect(ends.map(\.sequence) == begins.map(\.sequence))
        #expect(ends.allSatisfy { $0.status == 0 })
    }

    @Test("the log, done again, makes the volume as it is, also after a power cut")
    func replay() throws {
        let folder = try TestFolder()
        let rig = try open(folder, rules: "write nth=150: powercut")
        try rig.driver.createVolume(Self.id, size: 1 << 20)
        try rig.open(Self.id, index: 0)
        var random = SplitMix(seed: 3)
        for step in 0..<200 {
            let at = UInt64.random(in: 0..<256, using: &random) * 4096
            if step % 10 == 0 { _ = try rig.range(.writeZeroes, at: at, 4096) }
            let status = try rig.write(random.bytes(4096), at: at)
            #expect(status == (step == 149 ? .ioError : .ok))
            if step == 149 { try rig.open(Self.id, index: 0) }
        }
        let actual = try rig.read(1 << 20, at: 0)
        try rig.stop()
        var expected = [UInt8](repeating: 0, count: 1 << 20)
        for record in try records(folder.path + "/requests.log") where record.kind == 1 {
            let range = Int(record.offset)..<Int(record.offset + record.length)
            if record.opcode == 2 { expected.replaceSubrange(range, with: record.payload) }
            if record.opcode == 3 {
                expected.replaceSubrange(range, with: repeatElement(0, count: range.count))
            }
        }
        #expect(areEqual(actual, expected))
    }

    @Test("the next process goes on after the last whole record")
    func resumes() throws {
        let folder = try TestFolder()
        let path = folder.path + "/requests.log"
        do {
            let rig = try open(folder)
            try rig.driver.createVolume(Self.id, size: 1 << 20)
            try rig.open(Self.id, index: 0)
            #expect(try rig.write([UInt8](repeating: 1, count: 4096), at: 0) == .ok)
            try rig.stop()
        }
        let whole = try records(path).count
        // A record whose payload never came.
        let torn = try FileHandle(forWritingTo: URL(filePath: path))
        try torn.seekToEnd()
        var header = [UInt8]("SLRQ".utf8) + [UInt8](repeating: 0, count: 60)
        header[4] = 1
        header[8] = 200
        header[49] = 16
        try torn.write(contentsOf: header)
        try torn.close()
        let rig = try open(folder)
        try rig.open(Self.id, index: 0)
        #expect(try rig.write([UInt8](repeating: 2, count: 4096), at: 0) == .ok)
        try rig.stop()
        let after = try records(path)
        #expect(after.count == whole + 3)
        #expect(after[whole].kind == 3)
        let sequences = after.filter { $0.kind != 2 }.map(\.sequence)
        #expect(sequences == Array(1...UInt64(sequences.count)))
    }

    @Test(
        "a log that cannot grow fails the requests that it cannot hold",
        .enabled(if: TestFileSystem.isAllowed, "needs root and mount(2)"))
    func full() throws {
        let mounted = try TestFileSystem.tmpfs(bytes: 1 << 20)
        let driver = try FaultDriver(
            DriverEnvironment(settings: ["driver": "memory", "record": "requests.log"], folder: mounted.path))
        let rig = try DriverRig(driver)
        try driver.createVolume(Self.id, size: 4 << 20)
        try rig.open(Self.id, index: 0)
        var statuses: [Status?] = []
        for place in 0..<40 as Range<UInt64> {
            statuses.append(try rig.write([UInt8](repeating: 1, count: 65536), at: place << 16))
        }
        let good = statuses.prefix { $0 == .ok }.count
        #expect(good > 8 && good < 17)
        #expect(statuses[good...].allSatisfy { $0 == .ioError })
        #expect(try rig.range(.flush) == .ioError)
        #expect(areAll(try rig.read(4096, at: UInt64(good) << 16), 0))
        let records = try records(mounted.path + "/requests.log")
        #expect(records.count == 1 + 2 * good || records.count == 2 * good)
        try rig.stop()
        _ = mounted.path
    }
}
