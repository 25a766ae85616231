import Core
import DriverKit
import TestSupport
import Testing

@testable import Drivers

@Suite("Every driver of volumes", .serialized, .blocking)
struct ConformanceTests {
    private static let size: UInt64 = 8 << 20
    private static let id = Identifier.test(1)

    private func withVolume(
        _ configuration: DriverConfiguration, size: UInt64 = ConformanceTests.size,
        _ body: (DriverRig, VolumeGeometry) throws -> Void
    ) throws {
        try configuration.withRig { rig in
            try rig.driver.createVolume(Self.id, size: size)
            let geometry = try rig.open(Self.id, index: 0)
            #expect(geometry.size == size)
            try body(rig, geometry)
        }
    }

    @Test(
        "a new volume reads as zeroes, from its first block to its last",
        arguments: DriverConfiguration.allCases)
    func newVolume(configuration: DriverConfiguration) throws {
        try withVolume(configuration) { rig, geometry throws in
            let block = Int(geometry.blockSize)
            for offset in [0, Self.size / 2, Self.size - UInt64(block)] {
                #expect(try rig.read(block, at: offset) == [UInt8](repeating: 0, count: block))
            }
        }
    }

    @Test(
        "random operations leave what a model says", arguments: DriverConfiguration.allCases,
        [1, 2, 3] as [UInt64])
    func model(configuration: DriverConfiguration, seed: UInt64) throws {
        try withVolume(configuration) { rig, geometry throws in
            var random = SeededGenerator(seed: seed)
            var model = ModelDisk(size: Int(Self.size))
            let block = Int(geometry.blockSize)
            let blocks = Int(Self.size) / block
            for step in 0..<400 {
                let longest = [1, 8, 64, 512, 2048].randomElement(using: &random) ?? 1
                let count = Int.random(in: 1...longest, using: &random) * block
                let at = Int.random(in: 0..<blocks, using: &random) * block
                let range = at..<min(at + min(count, 1 << 20), model.size)
                switch Int.random(in: 0..<10, using: &random) {
                case 0..<4:
                    let bytes = random.bytes(range.count)
                    let flags: DriverFlags = step % 16 == 0 ? .fua : []
                    #expect(try rig.write(bytes, at: UInt64(at), flags: flags) == .ok)
                    model.write(bytes, at: at)
                case 4..<7:
                    let expected = model.read(range)
                    let read = try rig.read(range.count, at: UInt64(at))
                    #expect(areEqual(read, expected), "seed \(seed), step \(step), \(range)")
                case 7:
                    let flags: DriverFlags =
                        [[], .noUnmap, .fua, [.noUnmap, .fua]].randomElement(using: &random) ?? []
                    #expect(
                        try rig.range(.writeZeroes, at: UInt64(at), UInt64(range.count), flags: flags) == .ok)
                    model.write([UInt8](repeating: 0, count: range.count), at: at)
                case 8:
                    #expect(try rig.range(.discard, at: UInt64(at), UInt64(range.count)) == .ok)
                    model.write([UInt8](repeating: 0, count: range.count), at: at)
                default:
                    #expect(try rig.range(.flush) == .ok)
                }
            }
            try rig.close(0)
            try rig.open(Self.id, index: 3)
            for start in stride(from: 0, to: model.size, by: 1 << 20) {
                let read = try rig.read(1 << 20, at: UInt64(start), volume: 3)
                #expect(areEqual(read, model.read(start..<start + (1 << 20))), "seed \(seed), at \(start)")
            }
        }
    }

    @Test("hundreds of requests in flight do not mix", arguments: DriverConfiguration.allCases)
    func concurrency(configuration: DriverConfiguration) throws {
        try withVolume(configuration) { rig, _ throws in
            var random = SeededGenerator(seed: 11)
            let count = 1500
            let places = Array(0..<count).shuffled(using: &random)
            var buffers: [ArenaBuffer] = []
            var writes: [DriverRequest] = []
            for place in places {
                let buffer = try #require(rig.allocator.allocate(4096))
                rig.fill(buffer, [UInt8](repeating: UInt8(truncatingIfNeeded: place &* 7), count: 4096))
                buffers.append(buffer)
                writes.append(
                    DriverRequest(
                        opcode: .write, volume: 0, tag: 0, offset: UInt64(place) * 4096, length: 4096,
                        buffer: buffer.offset))
            }
            #expect(try rig.perform(writes).allSatisfy { $0.status == 0 && $0.value == 4096 })
            for buffer in buffers { rig.fill(buffer, [UInt8](repeating: 0xEE, count: 4096)) }
            let reads = writes.map { write in
                DriverRequest(
                    opcode: .read, volume: 0, tag: 0, offset: write.offset, length: 4096, buffer: write.buffer
                )
            }
            #expect(try rig.perform(reads).allSatisfy { $0.status == 0 && $0.value == 4096 })
            for (place, buffer) in zip(places, buffers) {
                let expected = UInt8(truncatingIfNeeded: place &* 7)
                #expect(areAll(rig.bytes(buffer, 4096), expected))
            }
        }
    }

    @Test("two reactors see each other's writes", arguments: DriverConfiguration.allCases)
    func twoReactors(configuration: DriverConfiguration) throws {
        try withVolume(configuration) { rig, _ throws in
            let other = try DriverRig(rig.driver)
            try other.changed(0)
            for round in 0..<20 {
                let bytes = [UInt8](repeating: UInt8(round + 1), count: 8192)
                let (writer, reader) = round % 2 == 0 ? (rig, other) : (other, rig)
                #expect(
                    try writer.write(bytes, at: UInt64(round) * 299_008) == .ok)
                #expect(try reader.read(8192, at: UInt64(round) * 299_008) == bytes)
            }
            try other.stop()
        }
    }

    @Test(
        "what is not within the volume, or malformed, is refused with its own status and changes nothing",
        arguments: DriverConfiguration.allCases)
    func refusals(configuration: DriverConfiguration) throws {
        try withVolume(configuration) { rig, geometry throws in
            let block = UInt64(geometry.blockSize)
            let end = Self.size
            func request(
                _ opcode: DriverOpcode, volume: UInt32 = 0, _ offset: UInt64, _ length: UInt64,
                buffer: UInt64 = 0
            ) -> DriverRequest {
                DriverRequest(
                    opcode: opcode, volume: volume, tag: 0, offset: offset, length: length, buffer: buffer)
            }
            var unknown = request(.read, 0, block)
            unknown.rawOpcode = 99
            let arenaEnd = UInt64(rig.arena.bytes)
            let cases: [(DriverRequest, Status)] = [
                (request(.write, end - block, block), .ok),
                (request(.write, end, block), .outOfRange),
                (request(.read, end - block, 2 * block), .outOfRange),
                (request(.read, UInt64.max - block + 1, block), .outOfRange),
                (request(.discard, UInt64.max - block + 1, 2 * block), .outOfRange),
                (request(.writeZeroes, 0, UInt64.max), .outOfRange),
                (request(.discard, 0, end), .ok),
                (request(.read, 0, 0), .badLength),
                (request(.discard, 0, 0), .badLength),
                (request(.write, 1, block), .unaligned),
                (request(.read, 0, block + 1), .unaligned),
                (request(.writeZeroes, block / 2, block), .unaligned),
                (request(.read, 0, UInt64(geometry.maximumTransfer) + block), .tooLarge),
                (request(.read, volume: 1, 0, block), .badHandle),
                (request(.flush, volume: .max, 0, 0), .badHandle),
                (request(.read, 0, block, buffer: arenaEnd), .badRequest),
                (request(.read, 0, 2 * 4096, buffer: arenaEnd - 4096), .badRequest),
                (request(.write, 0, block, buffer: UInt64.max - 511), .badRequest),
                (request(.write, 0, block, buffer: 7), .badRequest),
                (unknown, .unknownOpcode),
            ]
            let completions = try rig.perform(cases.map(\.0))
            for (completion, (request, expected)) in zip(completions, cases) {
                #expect(completion.status == expected.rawValue, "\(request)")
                #expect(completion.value == (expected == .ok ? request.length : 0))
            }
            #expect(areAll(try rig.read(1 << 16, at: 0), 0))
        }
    }

    @Test(
        "growing keeps the data and adds zeroes; shrinking is refused",
        arguments: DriverConfiguration.allCases)
    func resize(configuration: DriverConfiguration) throws {
        try withVolume(configuration) { rig, _ throws in
            let bytes = SeededBytes.make(1 << 16, seed: 4)
            let edge = Self.size - UInt64(bytes.count)
            #expect(try rig.write(bytes, at: edge) == .ok)
            #expect(throws: DriverError.self) { try rig.driver.resizeVolume(Self.id, to: Self.size - 4096) }
            let larger = Self.size + 5 * 4096
            try rig.driver.resizeVolume(Self.id, to: larger)
            try rig.changed(0)
            #expect(try rig.driver.volumes() == [Self.id: larger])
            #expect(try rig.read(bytes.count, at: edge) == bytes)
            #expect(areAll(try rig.read(5 * 4096, at: Self.size), 0))
            #expect(try rig.write(bytes, at: larger - UInt64(bytes.count)) == .ok)
            #expect(try rig.read(bytes.count, at: larger - UInt64(bytes.count)) == bytes)
            let huge: UInt64 = 4 << 30
            try rig.driver.resizeVolume(Self.id, to: huge)
            try rig.changed(0)
            #expect(try rig.write(bytes, at: huge - UInt64(bytes.count)) == .ok)
            #expect(try rig.read(bytes.count, at: huge - UInt64(bytes.count)) == bytes)
            #expect(try rig.read(bytes.count, at: larger - UInt64(bytes.count)) == bytes)
            try rig.driver.resizeVolume(Self.id, to: huge)
            #expect(throws: DriverError.self) { try rig.driver.resizeVolume(.test(99), to: huge) }
        }
    }

    @Test(
        "creating and deleting may be repeated; a new volume has nothing of the old",
        arguments: DriverConfiguration.allCases)
    func lifeCycle(configuration: DriverConfiguration) throws {
        try withVolume(configuration) { rig, _ throws in
            try rig.driver.createVolume(Self.id, size: Self.size)
            #expect(throws: DriverError.self) { try rig.driver.createVolume(Self.id, size: Self.size * 2) }
            #expect(throws: DriverError.self) { try rig.driver.createVolume(.test(2), size: 0) }
            #expect(throws: DriverError.self) { try rig.driver.createVolume(.test(2), size: 1000) }
            #expect(try rig.write([UInt8](repeating: 1, count: 4096), at: 0) == .ok)
            try rig.driver.createVolume(.test(2), size: 4096)
            #expect(try rig.driver.volumes() == [Self.id: Self.size, .test(2): 4096])
            try rig.close(0)
            #expect(try rig.range(.flush) == .badHandle)
            try rig.driver.deleteVolume(Self.id)
            try rig.driver.deleteVolume(Self.id)
            #expect(try rig.driver.volumes() == [.test(2): 4096])
            #expect(throws: DriverError.self) { _ = try rig.driver.openVolume(Self.id, index: 0) }
            try rig.driver.createVolume(Self.id, size: Self.size)
            try rig.open(Self.id, index: 0)
            #expect(areAll(try rig.read(4096, at: 0), 0))
        }
    }

    @Test("a volume is thin, and discard gives its space back", arguments: DriverConfiguration.allCases)
    func space(configuration: DriverConfiguration) throws {
        try withVolume(configuration, size: 1 << 40) { rig, _ throws in
            let empty = try rig.driver.capacity()
            #expect(empty.used < 4 << 20)
            for place in 0..<16 as Range<UInt64> {
                #expect(try rig.write([UInt8](repeating: 7, count: 1 << 20), at: place << 20) == .ok)
            }
            #expect(try rig.range(.flush) == .ok)
            let full = try rig.driver.capacity()
            #expect(full.used >= empty.used + (16 << 20))
            #expect(full.used <= full.total)
            #expect(try rig.range(.discard, at: 0, 1 << 40) == .ok)
            #expect(try rig.driver.capacity().used < 4 << 20)
            #expect(areAll(try rig.read(1 << 20, at: 3 << 20), 0))
        }
    }

    @Test(
        "zeroes without unmap keep their space",
        arguments: [DriverConfiguration.fileDirect, .fileBuffered, .memory])
    func zeroesKeepSpace(configuration: DriverConfiguration) throws {
        try withVolume(configuration) { rig, _ throws in
            #expect(try rig.range(.writeZeroes, at: 0, Self.size, flags: .noUnmap) == .ok)
            #expect(try rig.driver.capacity().used >= Self.size)
            #expect(try rig.range(.writeZeroes, at: 0, Self.size) == .ok)
            #expect(try rig.driver.capacity().used < 2 << 20)
        }
    }

    @Test("closing a volume lets running requests end", arguments: DriverConfiguration.allCases)
    func closeWhileRunning(configuration: DriverConfiguration) throws {
        try withVolume(configuration) { rig, _ throws in
            for round in 0..<10 as Range<UInt32> {
                try rig.open(Self.id, index: round)
                let buffer = try #require(rig.allocator.allocate(1 << 20))
                rig.fill(buffer, [UInt8](repeating: 3, count: 1 << 20))
                let requests = (0..<8 as Range<UInt64>).map { place in
                    DriverRequest(
                        opcode: .write, volume: round, tag: 0, offset: place << 20, length: 1 << 20,
                        buffer: buffer.offset)
                }
                let closer = Closer(rig: rig, index: round)
                closer.start()
                let statuses = Set(try rig.perform(requests).map(\.status))
                closer.join()
                #expect(statuses.isSubset(of: [Status.ok.rawValue, Status.badHandle.rawValue]))
                rig.allocator.free(buffer)
            }
        }
    }
}

/// What a volume should hold.
private struct ModelDisk {
    private var bytes: [UInt8]
    var size: Int { bytes.count }

    init(size: Int) { bytes = [UInt8](repeating: 0, count: size) }

    mutating func write(_ more: [UInt8], at offset: Int) {
        unsafe bytes.withUnsafeMutableBytes { room in
            unsafe UnsafeMutableRawBufferPointer(rebasing: room[offset..<offset + more.count]).copyBytes(
                from: more)
        }
    }

    func read(_ range: Range<Int>) -> [UInt8] {
        unsafe bytes.withUnsafeBytes { unsafe [UInt8](UnsafeRawBufferPointer(rebasing: $0[range])) }
    }
}

enum SeededBytes {
    static func make(_ count: Int, seed: UInt64) -> [UInt8] {
        var random = SeededGenerator(seed: seed)
        return random.bytes(count)
    }
}
