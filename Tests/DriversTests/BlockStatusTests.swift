import Core
import DriverKit
import Simulation
import TestSupport
import Testing

@testable import Drivers

@Suite("Every driver of volumes says what it knows of its blocks", .serialized, .blocking)
struct BlockStatusTests {
    private static let size: UInt64 = 32 << 20
    private static let id = Identifier.test(1)

    private func withVolume(
        _ configuration: DriverConfiguration, size: UInt64 = BlockStatusTests.size,
        _ body: (DriverRig, VolumeGeometry) throws -> Void
    ) throws {
        try configuration.withRig { rig in
            try rig.driver.createVolume(Self.id, size: size)
            while try rig.driver.prepareVolume(Self.id, to: size) > 0 {}
            try body(rig, try rig.open(Self.id, index: 0))
        }
    }

    @Test("a new thin volume is one hole", arguments: DriverConfiguration.thin)
    func hole(configuration: DriverConfiguration) throws {
        try withVolume(configuration, size: 1 << 40) { rig, geometry throws in
            let block = UInt64(geometry.blockSize)
            for (offset, length) in [(0, 1 << 40), (block, block), ((1 << 40) - block, block)]
                as [(UInt64, UInt64)]
            {
                #expect(
                    try rig.map(at: offset, length) == [BlockExtent(length: length, flags: .zero)])
            }
        }
    }

    @Test(
        "what is said to be zero is zero, and what was written is not said to be a hole",
        arguments: DriverConfiguration.all, [1, 2] as [UInt64])
    func truth(configuration: DriverConfiguration, seed: UInt64) throws {
        try withVolume(configuration, size: 8 << 20) { rig, geometry throws in
            var random = SplitMix(seed: seed)
            let block = Int(geometry.blockSize)
            let blocks = (8 << 20) / block
            var isData = [Bool](repeating: false, count: blocks)
            for step in 0..<120 {
                let count = Int.random(in: 1...200, using: &random)
                let first = Int.random(in: 0..<blocks - count, using: &random)
                let offset = UInt64(first * block)
                switch Int.random(in: 0..<4, using: &random) {
                case 0, 1:
                    #expect(
                        try rig.write([UInt8](repeating: UInt8(step + 1), count: count * block), at: offset)
                            == .ok)
                    for index in first..<first + count { isData[index] = true }
                case 2:
                    #expect(try rig.range(.writeZeroes, at: offset, UInt64(count * block)) == .ok)
                    for index in first..<first + count { isData[index] = false }
                default:
                    var at = first
                    for extent in try rig.map(at: offset, UInt64(count * block)) {
                        #expect(extent.length.isMultiple(of: UInt64(block)))
                        #expect(extent.flags == .zero || extent.flags == .allocated)
                        for _ in 0..<Int(extent.length) / block {
                            #expect(!isData[at] || extent.flags == .allocated, "seed \(seed), block \(at)")
                            at += 1
                        }
                    }
                }
            }
        }
    }

    @Test(
        "an answer ends where it has no more room",
        arguments: DriverConfiguration.thin.filter(\.knowsBlocks))
    func room(configuration: DriverConfiguration) throws {
        let step: UInt64 = 16384
        try withVolume(configuration, size: 400 * step) { rig, _ throws in
            for place in 0..<200 as Range<UInt64> {
                #expect(try rig.write([UInt8](repeating: 1, count: 4096), at: 2 * place * step) == .ok)
            }
            let first = try rig.map(at: 0, 400 * step)
            #expect(first.count == Limits.blockStatusBytesMax / BlockExtent.byteCount)
            let covered = first.reduce(0) { $0 + $1.length }
            #expect(covered == 256 * step)
            let rest = try rig.map(at: covered, 400 * step - covered)
            #expect(rest.count == 400 - 256)
            #expect(rest.reduce(0) { $0 + $1.length } == 400 * step - covered)
        }
    }

    @Test("it is judged like any request", arguments: DriverConfiguration.all)
    func refusals(configuration: DriverConfiguration) throws {
        try withVolume(configuration, size: 8 << 20) { rig, geometry throws in
            let block = UInt64(geometry.blockSize)
            let end = UInt64(8 << 20)
            let arenaEnd = UInt64(rig.arena.bytes)
            let cases: [(offset: UInt64, length: UInt64, buffer: UInt64, volume: UInt32, Status)] = [
                (0, block, arenaEnd - 4096, 0, .ok), (0, end, 0, 0, .ok),
                (0, 0, 0, 0, .badLength), (end, block, 0, 0, .outOfRange),
                (0, end + block, 0, 0, .outOfRange),
                (.max - block + 1, block, 0, 0, .outOfRange), (1, block, 0, 0, .unaligned),
                (0, block, arenaEnd, 0, .badRequest), (0, block, 7, 0, .badRequest),
                (0, block, .max - 4095, 0, .badRequest), (0, block, 0, 9, .badHandle),
            ]
            let requests = cases.map { entry in
                DriverRequest(
                    opcode: .blockStatus, index: entry.volume, tag: 0, offset: entry.offset,
                    length: entry.length, buffer: entry.buffer)
            }
            for (completion, entry) in zip(try rig.perform(requests), cases) {
                #expect(completion.status == entry.4.rawValue, "\(entry)")
                let isOK = entry.4 == .ok
                #expect((completion.value > 0) == isOK && (completion.mapBytes > 0) == isOK)
            }
        }
    }
}

extension DriverConfiguration {
    /// Whether the driver knows of single file system blocks what they are like.
    fileprivate var knowsBlocks: Bool { name.contains("file") }
}

extension DriverRig {
    /// What the driver says of a range; each extent must be sound.
    fileprivate func map(at offset: UInt64, _ length: UInt64) throws -> [BlockExtent] {
        let buffer = try #require(allocator.allocate(Limits.blockStatusBytesMax))
        defer { allocator.free(buffer) }
        fill(buffer, [UInt8](repeating: 0xEE, count: Limits.blockStatusBytesMax))
        let completion = try perform([
            DriverRequest(
                opcode: .blockStatus, index: 0, tag: 0, offset: offset, length: length, buffer: buffer.offset
            )
        ])[0]
        #expect(completion.status == 0)
        #expect(completion.value > 0 && completion.value <= length)
        var reader = ByteReader(bytes(buffer, Int(completion.mapBytes)))
        var extents: [BlockExtent] = []
        while let length = reader.read(UInt64.self), let flags = reader.read(UInt64.self) {
            extents.append(BlockExtent(length: length, flags: BlockFlags(rawValue: UInt32(flags))))
        }
        #expect(reader.remaining == 0 && extents.allSatisfy { $0.length > 0 })
        #expect(extents.reduce(0) { $0 + $1.length } == completion.value)
        return extents
    }
}
