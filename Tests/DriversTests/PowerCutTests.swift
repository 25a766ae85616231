import Core
import DriverKit
import Reactor
import Simulation
import TestSupport
import Testing

@testable import Drivers

@Suite("The fault driver's power cut", .serialized, .blocking)
struct PowerCutTests {
    private static let id = Identifier.test(1)
    private static let blocks = 64
    private static let block = 4096

    private func withVolume(
        inner: String, seed: UInt64, _ body: (DriverRig, FaultDriver, () throws -> Void) throws -> Void
    ) throws {
        let folder = try TestFolder()
        var settings = ["driver": inner, "seed": "\(seed)", "rules": "powercut nth=1000000"]
        let driver = try FaultDriver(DriverEnvironment(settings: settings, folder: folder.path))
        let rig = try DriverRig(driver)
        defer {
            do { try rig.stop() } catch { Issue.record(error) }
        }
        try driver.createVolume(Self.id, size: UInt64(Self.blocks * Self.block))
        try rig.open(Self.id, index: 0)
        try body(rig, driver) {
            settings["rules"] = "powercut"
            try driver.configure(settings: settings)
            #expect(try rig.range(.read, at: 0, 4096) == .ioError)
            settings["rules"] = ""
            try driver.configure(settings: settings)
        }
    }

    private func filled(_ byte: UInt8, _ count: Int) -> [UInt8] { [UInt8](repeating: byte, count: count) }

    @Test("everything fails until the volume is opened anew", arguments: ["memory", "file"])
    func off(inner: String) throws {
        try withVolume(inner: inner, seed: 1) { rig, driver, cut throws in
            try driver.createVolume(.test(2), size: 1 << 20)
            try rig.open(.test(2), index: 1)
            #expect(try rig.write(filled(1, 4096), at: 0) == .ok)
            try cut()
            for opcode in [DriverOpcode.read, .write, .writeZeroes, .discard, .flush] {
                #expect(try rig.range(opcode, at: 0, 4096) == .ioError)
                #expect(try rig.range(opcode, at: 0, 4096, volume: 1) == .ioError)
            }
            try rig.open(Self.id, index: 0)
            #expect(try rig.range(.flush) == .ok)
            #expect(try rig.range(.flush, volume: 1) == .ioError)
            try rig.open(.test(2), index: 1)
            #expect(try rig.range(.flush, volume: 1) == .ok)
        }
    }

    @Test(
        "some of what was not flushed is lost, and nothing that was", arguments: ["memory", "file"],
        1...6 as ClosedRange<UInt64>)
    func lost(inner: String, seed: UInt64) throws {
        try withVolume(inner: inner, seed: seed) { rig, driver, cut throws in
            // By block: what it may be after a cut; the last is what it is now.
            var allowed = [[UInt8]](repeating: [0], count: Self.blocks)
            var random = SplitMix(seed: seed)
            var losses = 0
            for cutNumber in 1...4 {
                for step in 0..<60 {
                    let first = Int.random(in: 0..<Self.blocks, using: &random)
                    let count = min(Int.random(in: 1...4, using: &random), Self.blocks - first)
                    let at = UInt64(first * Self.block)
                    let value = UInt8(truncatingIfNeeded: cutNumber * 60 + step)
                    switch Int.random(in: 0..<20, using: &random) {
                    case 0:
                        #expect(try rig.range(.flush) == .ok)
                        for index in allowed.indices { allowed[index] = allowed[index].suffix(1) }
                    case 1:
                        #expect(try rig.write(filled(value, count * Self.block), at: at, flags: .fua) == .ok)
                        for index in first..<first + count { allowed[index] = [value] }
                    case 2:
                        let opcode: DriverOpcode = step % 2 == 0 ? .writeZeroes : .discard
                        #expect(try rig.range(opcode, at: at, UInt64(count * Self.block)) == .ok)
                        for index in first..<first + count { allowed[index].append(0) }
                    default:
                        #expect(try rig.write(filled(value, count * Self.block), at: at) == .ok)
                        for index in first..<first + count { allowed[index].append(value) }
                    }
                }
                try cut()
                try rig.open(Self.id, index: 0)
                for index in allowed.indices {
                    let read = try rig.read(Self.block, at: UInt64(index * Self.block))
                    #expect(areAll(read, read[0]))
                    #expect(allowed[index].contains(read[0]), "block \(index) of seed \(seed)")
                    if read[0] != allowed[index].last { losses += 1 }
                    allowed[index] = [read[0]]
                }
                try driver.configure(
                    settings: ["driver": inner, "seed": "\(seed)", "rules": "powercut nth=1000000"])
            }
            #expect(losses > 20)
        }
    }

    @Test(
        "writes of many at a time, over one another, lose nothing that a flush covered",
        arguments: ["memory", "file"], 1...4 as ClosedRange<UInt64>)
    func concurrent(inner: String, seed: UInt64) throws {
        try withVolume(inner: inner, seed: seed) { rig, _, cut throws in
            var random = SplitMix(seed: seed)
            let buffers = try (0..<200).map { _ in try #require(rig.allocator.allocate(Self.block)) }
            var allowed = [Set<UInt8>](repeating: [0], count: Self.blocks)
            for round in 0..<4 {
                var requests: [DriverRequest] = []
                var written = [Set<UInt8>](repeating: [], count: Self.blocks)
                for (number, buffer) in buffers.enumerated() {
                    let place = Int.random(in: 0..<Self.blocks, using: &random)
                    rig.fill(buffer, filled(UInt8(number + 1), Self.block))
                    written[place].insert(UInt8(number + 1))
                    requests.append(
                        DriverRequest(
                            opcode: .write, index: 0, tag: 0, offset: UInt64(place * Self.block),
                            length: UInt64(Self.block), buffer: buffer.offset))
                }
                #expect(try rig.perform(requests).allSatisfy { $0.status == 0 })
                for place in allowed.indices { allowed[place].formUnion(written[place]) }
                if round == 2 {
                    #expect(try rig.range(.flush) == .ok)
                    for place in allowed.indices {
                        allowed[place] = [try rig.read(Self.block, at: UInt64(place * Self.block))[0]]
                    }
                }
            }
            try cut()
            try rig.open(Self.id, index: 0)
            for place in allowed.indices {
                let read = try rig.read(Self.block, at: UInt64(place * Self.block))
                #expect(areAll(read, read[0]))
                #expect(allowed[place].contains(read[0]), "block \(place)")
            }
        }
    }

    @Test("more unflushed writes than there is room for are kept, the oldest first")
    func bounded() throws {
        let folder = try TestFolder()
        var settings = ["driver": "memory", "inner.size": "1GiB", "rules": "powercut nth=1000000"]
        let driver = try FaultDriver(DriverEnvironment(settings: settings, folder: folder.path))
        let rig = try DriverRig(driver)
        try driver.createVolume(Self.id, size: 256 << 20)
        try rig.open(Self.id, index: 0)
        for place in 0..<256 as Range<UInt64> {
            #expect(try rig.write(filled(1, 1 << 20), at: place << 20) == .ok)
        }
        settings["rules"] = "powercut"
        try driver.configure(settings: settings)
        #expect(try rig.range(.read, at: 0, 4096) == .ioError)
        settings["rules"] = ""
        try driver.configure(settings: settings)
        try rig.open(Self.id, index: 0)
        var losses = 0
        for place in 0..<256 as Range<UInt64> {
            let isLost = try rig.read(4096, at: place << 20)[0] == 0
            if isLost { losses += 1 }
            #expect(!isLost || place >= 192)
        }
        #expect(losses > 10 && losses < 54)
        try rig.stop()
    }

    /// Whether a cut takes something away; its draw takes the newest write, if that can be taken.
    private func cutsAnything(_ writes: UnflushedWrites) -> Bool {
        let cut = writes.cut(draw: 4, blockSize: 512)
        writes.cutEnded(cut)
        return !cut.restores.isEmpty
    }

    private func begin(_ writes: UnflushedWrites, _ offset: UInt64) -> UnflushedWrites.Ticket {
        let ticket = writes.begin(volume: Self.id, index: 0, offset: offset, length: 4096)
        if ticket.image != nil { writes.imageRead(ticket.id, succeeded: true) }
        return ticket
    }

    @Test("what was written and not flushed can be taken away; what was flushed or kept cannot")
    func unflushed() throws {
        let writes = try UnflushedWrites()
        writes.arm(true)
        let first = begin(writes, 0)
        // Under way: nobody was told that it is done.
        #expect(!cutsAnything(writes))
        writes.end(first.id, isDurable: false)
        #expect(!cutsAnything(writes), "it was under way at a cut, and stays")
        let second = begin(writes, 0)
        let mark = writes.flushBegins()
        writes.end(second.id, isDurable: false)
        writes.flushed(volume: Self.id, mark: mark)
        #expect(cutsAnything(writes), "it ended after the flush had begun")
        writes.end(begin(writes, 0).id, isDurable: false)
        writes.flushed(volume: Self.id, mark: writes.flushBegins())
        #expect(!cutsAnything(writes))
        writes.end(begin(writes, 0).id, isDurable: true)
        #expect(!cutsAnything(writes))
        writes.end(begin(writes, 0).id, isDurable: false)
        writes.settle(index: 0)
        #expect(!cutsAnything(writes))
        writes.end(begin(writes, 0).id, isDurable: false)
        writes.arm(false)
        #expect(!cutsAnything(writes))
    }

    @Test("writes that overlap in time are not taken away: what was there before is not known")
    func overlapping() throws {
        let writes = try UnflushedWrites()
        writes.arm(true)
        let first = begin(writes, 0)
        let second = begin(writes, 0)
        #expect(first.image != nil && second.image == nil)
        writes.end(first.id, isDurable: false)
        writes.flushed(volume: Self.id, mark: writes.flushBegins())
        writes.end(second.id, isDurable: false)
        #expect(!cutsAnything(writes))
        // Elsewhere, and of another volume, they do not overlap.
        let third = begin(writes, 4096)
        let fourth = begin(writes, 8192)
        let other = writes.begin(volume: .test(2), index: 1, offset: 4096, length: 4096)
        #expect(third.image != nil && fourth.image != nil && other.image != nil)
    }
}
