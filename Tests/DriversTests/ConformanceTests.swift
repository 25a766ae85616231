import Core
import DriverKit
import Simulation
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
            while try rig.driver.prepareVolume(Self.id, to: size) > 0 {}
            let geometry = try rig.open(Self.id, index: 0)
            #expect(geometry.size == size)
            try body(rig, geometry)
        }
    }

    @Test(
        "a new volume reads as zeroes, from its first block to its last",
        arguments: DriverConfiguration.all)
    func newVolume(configuration: DriverConfiguration) throws {
        try withVolume(configuration) { rig, geometry throws in
            let block = Int(geometry.blockSize)
            for offset in [0, Self.size / 2, Self.size - UInt64(block)] {
                #expect(try rig.read(block, at: offset) == [UInt8](repeating: 0, count: block))
            }
        }
    }

    @Test(
        "random operations leave what a model says", arguments: DriverConfiguration.all,
        [1, 2, 3] as [UInt64])
    func model(configuration: DriverConfiguration, seed: UInt64) throws {
        try withVolume(configuration) { rig, geometry throws in
            var random = SplitMix(seed: seed)
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
                    let expected: Status = configuration.canDiscard ? .ok : .notSupported
                    #expect(try rig.range(.discard, at: UInt64(at), UInt64(range.count)) == expected)
                    if expected == .ok { model.write([UInt8](repeating: 0, count: range.count), at: at) }
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

    @Test("hundreds of requests in flight do not mix", arguments: DriverConfiguration.all)
    func concurrency(configuration: DriverConfiguration) throws {
        try withVolume(configuration) { rig, _ throws in
            var random = SplitMix(seed: 11)
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
                        opcode: .write, index: 0, tag: 0, offset: UInt64(place) * 4096, length: 4096,
                        buffer: buffer.offset))
            }
            #expect(try rig.perform(writes).allSatisfy { $0.status == 0 && $0.value == 4096 })
            for buffer in buffers { rig.fill(buffer, [UInt8](repeating: 0xEE, count: 4096)) }
            let reads = writes.map { write in
                DriverRequest(
                    opcode: .read, index: 0, tag: 0, offset: write.offset, length: 4096, buffer: write.buffer
                )
            }
            #expect(try rig.perform(reads).allSatisfy { $0.status == 0 && $0.value == 4096 })
            for (place, buffer) in zip(places, buffers) {
                let expected = UInt8(truncatingIfNeeded: place &* 7)
                #expect(areAll(rig.bytes(buffer, 4096), expected))
            }
        }
    }

    @Test("two reactors see each other's writes", arguments: DriverConfiguration.all)
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
        arguments: DriverConfiguration.all)
    func refusals(configuration: DriverConfiguration) throws {
        try withVolume(configuration) { rig, geometry throws in
            let block = UInt64(geometry.blockSize)
            let end = Self.size
            func request(
                _ opcode: DriverOpcode, volume: UInt32 = 0, _ offset: UInt64, _ length: UInt64,
                buffer: UInt64 = 0
            ) -> DriverRequest {
                DriverRequest(
                    opcode: opcode, index: volume, tag: 0, offset: offset, length: length, buffer: buffer)
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
                (request(.discard, 0, end), configuration.canDiscard ? .ok : .notSupported),
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
        arguments: DriverConfiguration.all)
    func resize(configuration: DriverConfiguration) throws {
        try withVolume(configuration) { rig, _ throws in
            let bytes = SeededBytes.make(1 << 16, seed: 4)
            let edge = Self.size - UInt64(bytes.count)
            #expect(try rig.write(bytes, at: edge) == .ok)
            #expect(throws: StatusError.self) { try rig.driver.resizeVolume(Self.id, to: Self.size - 4096) }
            #expect(throws: StatusError.self) { try rig.driver.resizeVolume(Self.id, to: Self.size + 512) }
            #expect(try rig.range(.read, at: Self.size, 4096) == .outOfRange)
            let larger = Self.size + 5 * 4096
            try rig.driver.resizeVolume(Self.id, to: larger)
            try rig.changed(0)
            #expect(try rig.driver.volumes() == [Self.id: larger])
            #expect(try rig.read(bytes.count, at: edge) == bytes)
            #expect(areAll(try rig.read(5 * 4096, at: Self.size), 0))
            #expect(try rig.write(bytes, at: larger - UInt64(bytes.count)) == .ok)
            #expect(try rig.read(bytes.count, at: larger - UInt64(bytes.count)) == bytes)
            try rig.driver.resizeVolume(Self.id, to: larger)
            #expect(throws: StatusError.self) { try rig.driver.resizeVolume(.test(99), to: larger) }
        }
    }

    @Test("a thin volume grows far beyond what the pool holds", arguments: DriverConfiguration.thin)
    func resizeFar(configuration: DriverConfiguration) throws {
        try withVolume(configuration) { rig, _ throws in
            let bytes = SeededBytes.make(1 << 16, seed: 5)
            #expect(try rig.write(bytes, at: Self.size - UInt64(bytes.count)) == .ok)
            let huge: UInt64 = 4 << 30
            try rig.driver.resizeVolume(Self.id, to: huge)
            try rig.changed(0)
            #expect(try rig.write(bytes, at: huge - UInt64(bytes.count)) == .ok)
            #expect(try rig.read(bytes.count, at: huge - UInt64(bytes.count)) == bytes)
            #expect(try rig.read(bytes.count, at: Self.size - UInt64(bytes.count)) == bytes)
            #expect(areAll(try rig.read(1 << 20, at: 1 << 30), 0))
        }
    }

    @Test("a volume that grows while requests run loses none of them", arguments: DriverConfiguration.all)
    func resizeWhileRunning(configuration: DriverConfiguration) throws {
        try withVolume(configuration) { rig, _ throws in
            let buffer = try #require(rig.allocator.allocate(1 << 20))
            rig.fill(buffer, [UInt8](repeating: 9, count: 1 << 20))
            for round in 1...8 as ClosedRange<UInt64> {
                let batch = rig.begin(
                    (0..<64 as Range<UInt64>).map { place in
                        DriverRequest(
                            opcode: .write, index: 0, tag: 0, offset: (place % 8) << 20, length: 1 << 20,
                            buffer: buffer.offset)
                    })
                try rig.driver.resizeVolume(Self.id, to: Self.size + round * 4096)
                try rig.changed(0)
                #expect(try batch.wait().allSatisfy { $0.status == 0 })
                #expect(areAll(try rig.read(4096, at: Self.size + (round - 1) * 4096), 0))
            }
            rig.allocator.free(buffer)
        }
    }

    @Test(
        "every size from a block to the longest transfer goes, at every block of a page and across buffers",
        arguments: DriverConfiguration.all)
    func sizes(configuration: DriverConfiguration) throws {
        try withVolume(configuration) { rig, geometry throws in
            let block = Int(geometry.blockSize)
            let longest = Int(geometry.maximumTransfer)
            var seed: UInt64 = 100
            for count in [block, 3 * block, 4096, 4096 + block, 65536 - block, longest - block, longest] {
                for start in [0, block, 4096 - block, 4096, (2 << 20) - block] {
                    seed += 1
                    let bytes = SeededBytes.make(count, seed: seed)
                    #expect(try rig.write(bytes, at: UInt64(start)) == .ok)
                    #expect(areEqual(try rig.read(count, at: UInt64(start)), bytes), "\(count) at \(start)")
                }
            }
        }
    }

    @Test(
        "what is answered with OK reads as zero, whatever the device lacks; what cannot be done says so and changes nothing",
        arguments: DriverConfiguration.all)
    func zeroing(configuration: DriverConfiguration) throws {
        let size: UInt64 = 4 << 20
        try withVolume(configuration, size: size) { rig, geometry throws in
            let block = UInt64(geometry.blockSize)
            let odd = (1 << 20) - block
            var wishes: [(DriverOpcode, DriverFlags, UInt64)] = []
            for length in [block, odd, size] {
                wishes += [(.writeZeroes, [], length), (.discard, [], length)]
            }
            for flags: DriverFlags in [.noUnmap, .fua, [.noUnmap, .fua]] {
                wishes.append((.writeZeroes, flags, odd))
            }
            for (opcode, flags, length) in wishes {
                for start in stride(from: 0, to: size, by: 1 << 20) {
                    #expect(try rig.write([UInt8](repeating: 0xAA, count: 1 << 20), at: start) == .ok)
                }
                #expect(try rig.range(.flush) == .ok)
                let at = length == size ? 0 : (1 << 20) + block
                let isDone = opcode == .writeZeroes || configuration.canDiscard
                let status = try rig.range(opcode, at: at, length, flags: flags)
                #expect(status == (isDone ? .ok : .notSupported), "\(opcode) \(flags) \(length)")
                var model = ModelDisk(size: Int(size), filledWith: 0xAA)
                if isDone { model.write([UInt8](repeating: 0, count: Int(length)), at: Int(at)) }
                for start in stride(from: 0, to: Int(size), by: 1 << 20) {
                    let read = try rig.read(1 << 20, at: UInt64(start))
                    let expected = model.read(start..<start + (1 << 20))
                    #expect(areEqual(read, expected), "\(opcode) \(flags) \(length), at \(start)")
                }
            }
        }
    }

    @Test("what surrounds a write, zeroes or discard stays", arguments: DriverConfiguration.all)
    func neighbours(configuration: DriverConfiguration) throws {
        try withVolume(configuration) { rig, geometry throws in
            let block = UInt64(geometry.blockSize)
            let whole = 4 * block
            let opcodes: [DriverOpcode] =
                [.write, .writeZeroes] + (configuration.canDiscard ? [.discard] : [])
            for (round, opcode) in opcodes.enumerated() {
                let start = UInt64(round) << 20
                #expect(try rig.write([UInt8](repeating: 0x55, count: Int(whole)), at: start) == .ok)
                if opcode == .write {
                    let bytes = [UInt8](repeating: 0, count: Int(block))
                    #expect(try rig.write(bytes, at: start + block) == .ok)
                } else {
                    #expect(try rig.range(opcode, at: start + block, block) == .ok)
                }
                let read = try rig.read(Int(whole), at: start)
                #expect(areAll([UInt8](read[..<Int(block)]), 0x55))
                #expect(areAll([UInt8](read[Int(block)..<Int(2 * block)]), 0))
                #expect(areAll([UInt8](read[Int(2 * block)...]), 0x55))
            }
        }
    }

    @Test(
        "reads and writes of holes next to data see neither too much nor too little",
        arguments: DriverConfiguration.thin)
    func sparse(configuration: DriverConfiguration) throws {
        try withVolume(configuration, size: 64 << 20) { rig, _ throws in
            for place in stride(from: 0, to: 64 as UInt64, by: 7) {
                #expect(
                    try rig.write([UInt8](repeating: UInt8(place + 1), count: 4096), at: place << 20) == .ok)
            }
            for place in stride(from: 0, to: 63 as UInt64, by: 7) {
                let read = try rig.read(1 << 20, at: place << 20)
                #expect(areAll([UInt8](read[..<4096]), UInt8(place + 1)))
                #expect(areAll([UInt8](read[4096...]), 0))
                #expect(areAll(try rig.read(1 << 20, at: (place + 3) << 20), 0))
            }
            #expect(try rig.driver.capacity().used < 32 << 20)
        }
    }

    @Test(
        "writes, zeroes and flushes together leave every write before the last flush",
        arguments: DriverConfiguration.all)
    func flush(configuration: DriverConfiguration) throws {
        try withVolume(configuration) { rig, _ throws in
            let buffer = try #require(rig.allocator.allocate(4096))
            rig.fill(buffer, [UInt8](repeating: 6, count: 4096))
            var requests: [DriverRequest] = []
            for place in 0..<300 as Range<UInt64> {
                requests.append(
                    DriverRequest(
                        opcode: .write, flags: place % 5 == 0 ? .fua : [], index: 0, tag: 0,
                        offset: place * 4096, length: 4096, buffer: buffer.offset))
                if place % 3 == 0 { requests.append(DriverRequest(opcode: .flush, index: 0, tag: 0)) }
            }
            #expect(try rig.perform(requests).allSatisfy { $0.status == 0 })
            #expect(try rig.range(.flush) == .ok)
            try rig.close(0)
            try rig.open(Self.id, index: 1)
            #expect(areAll(try rig.read(1 << 20, at: 0, volume: 1), 6))
            rig.allocator.free(buffer)
        }
    }

    @Test(
        "a full device answers NO_SPACE, keeps what it has, and serves again when space is given back",
        .enabled(if: TestFileSystem.isAllowed, "needs root and mount(2)"), arguments: DriverConfiguration.thin
    )
    func full(configuration: DriverConfiguration) throws {
        try configuration.withSmallPool { rig in
            try rig.driver.createVolume(Self.id, size: 1 << 30)
            try rig.open(Self.id, index: 0)
            var written: UInt64 = 0
            var last: Status?
            while written < 64 {
                last = try rig.write(
                    [UInt8](repeating: UInt8(written + 1), count: 1 << 20), at: written << 20)
                if last != .ok { break }
                written += 1
            }
            #expect(last == .noSpace)
            #expect(written > 8 && written < 32)
            for place in 0..<written {
                #expect(areAll(try rig.read(1 << 20, at: place << 20), UInt8(place + 1)))
            }
            // What has its space is written without more.
            #expect(try rig.write([UInt8](repeating: 0xBB, count: 1 << 20), at: 1 << 20) == .ok)
            #expect(try rig.range(.discard, at: 2 << 20, 4 << 20) == .ok)
            #expect(areAll(try rig.read(1 << 20, at: 3 << 20), 0))
            #expect(try rig.write([UInt8](repeating: 0xAA, count: 1 << 20), at: 100 << 20) == .ok)
            #expect(areAll(try rig.read(1 << 20, at: 100 << 20), 0xAA))
            #expect(areAll(try rig.read(1 << 20, at: 1 << 20), 0xBB))
            #expect(areAll(try rig.read(1 << 20, at: 0), 1))
        }
    }

    @Test(
        "creating and deleting may be repeated; a new volume has nothing of the old",
        arguments: DriverConfiguration.thin)
    func lifeCycle(configuration: DriverConfiguration) throws {
        try withVolume(configuration) { rig, _ throws in
            try rig.driver.createVolume(Self.id, size: Self.size)
            #expect(throws: StatusError.self) { try rig.driver.createVolume(Self.id, size: Self.size * 2) }
            #expect(throws: StatusError.self) { try rig.driver.createVolume(.test(2), size: 0) }
            #expect(throws: StatusError.self) { try rig.driver.createVolume(.test(2), size: 1000) }
            #expect(try rig.write([UInt8](repeating: 1, count: 4096), at: 0) == .ok)
            try rig.driver.createVolume(.test(2), size: 4096)
            #expect(try rig.driver.volumes() == [Self.id: Self.size, .test(2): 4096])
            try rig.close(0)
            #expect(try rig.range(.flush) == .badHandle)
            try rig.driver.deleteVolume(Self.id)
            try rig.driver.deleteVolume(Self.id)
            #expect(try rig.driver.volumes() == [.test(2): 4096])
            #expect(throws: StatusError.self) { _ = try rig.driver.openVolume(Self.id, index: 0) }
            try rig.driver.createVolume(Self.id, size: Self.size)
            try rig.open(Self.id, index: 0)
            #expect(areAll(try rig.read(4096, at: 0), 0))
        }
    }

    @Test("a volume is thin, and discard gives its space back", arguments: DriverConfiguration.thin)
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
        arguments: DriverConfiguration.thin.filter { $0.place == .disk })
    func zeroesKeepSpace(configuration: DriverConfiguration) throws {
        try withVolume(configuration) { rig, _ throws in
            #expect(try rig.range(.writeZeroes, at: 0, Self.size, flags: .noUnmap) == .ok)
            #expect(try rig.driver.capacity().used >= Self.size)
            #expect(try rig.range(.writeZeroes, at: 0, Self.size) == .ok)
            #expect(try rig.driver.capacity().used < 2 << 20)
        }
    }

    @Test("closing a volume lets running requests end", arguments: DriverConfiguration.all)
    func closeWhileRunning(configuration: DriverConfiguration) throws {
        try withVolume(configuration) { rig, _ throws in
            for round in 0..<10 as Range<UInt32> {
                try rig.open(Self.id, index: round)
                let buffer = try #require(rig.allocator.allocate(1 << 20))
                rig.fill(buffer, [UInt8](repeating: 3, count: 1 << 20))
                let requests = (0..<8 as Range<UInt64>).map { place in
                    DriverRequest(
                        opcode: .write, index: round, tag: 0, offset: place << 20, length: 1 << 20,
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

    init(size: Int, filledWith byte: UInt8 = 0) { bytes = [UInt8](repeating: byte, count: size) }

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
        var random = SplitMix(seed: seed)
        return random.bytes(count)
    }
}
