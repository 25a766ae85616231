import Core
import Foundation
import Logging
import Simulation
import Testing

@testable import Services

/// The bits of markers against a plain set, and their files whatever becomes of them.
@Suite struct MarkerTests {
    private static let volume = Identifier(high: 1, low: 2)
    private static let marker = Identifier(high: 3, low: 4)
    private static let boot = Identifier(high: 5, low: 6)

    /// Runs `body` with a folder that does not exist yet.
    private func withFolder(_ body: (String) throws -> Void) throws {
        let path = FileManager.default.temporaryDirectory.appending(path: "markers-\(UUID().uuidString)").path
        defer { try? FileManager.default.removeItem(atPath: path) }
        try body(path)
    }

    private func folder(_ path: String, boot: Identifier = MarkerTests.boot) -> MarkerFolder {
        var logger = Logger(label: "test")
        logger.logLevel = .critical
        return MarkerFolder(path: path, boot: boot, logger: logger)
    }

    private func file(_ path: String) -> String {
        "\(path)/\(Self.volume.hex)-\(Self.marker.hex).marker"
    }

    private func restore(
        _ path: String, boot: Identifier = MarkerTests.boot, size: UInt64 = 1 << 30, isLost: Bool = false
    ) throws -> MarkerBitmap? {
        try folder(path, boot: boot).restore(Self.marker, of: Self.volume, size: size, isLost: isLost)
    }

    // MARK: Bits

    @Test(arguments: [UInt64](0..<60))
    func whatWasMarkedIsFoundAndNothingBesides(seed: UInt64) throws {
        try withFolder { path in
            var random = SplitMix(seed: seed)
            let granule: UInt64 = 65536
            let size = UInt64.random(in: 1...600, using: &random) * 4096 * (seed % 3 == 0 ? 1 : 37)
            let bits = try folder(path).create(Self.marker, of: Self.volume, size: size)
            var naive: Set<UInt64> = []
            let volume = size + UInt64.random(in: 0...40, using: &random) * 4096
            for _ in 0..<Int.random(in: 0...30, using: &random) {
                let offset = UInt64.random(in: 0..<volume / 512, using: &random) * 512
                let most = Bool.random(using: &random) ? volume - offset : min(volume - offset, 200_000)
                let length = UInt64.random(in: 1...most, using: &random)
                bits.mark(offset, length)
                guard offset < size else { continue }
                for unit in offset / granule...(offset + length - 1) / granule { naive.insert(unit) }
            }
            func isChanged(_ offset: UInt64) -> Bool { offset >= size || naive.contains(offset / granule) }
            // What lies beyond the marked size counts as changed, whole blocks of it in the middle of a unit too.
            var expected: UInt64 = 0
            for block in stride(from: 0, to: volume, by: 4096) where isChanged(block) { expected += 4096 }
            #expect(bits.changedBytes(size: volume) == expected)

            let start = UInt64.random(in: 0..<volume / 4096, using: &random) * 4096
            let end = UInt64.random(in: start / 4096 + 1...volume / 4096, using: &random) * 4096
            var position = start
            var last: Bool?
            while position < end {
                let (next, changed) = bits.run(from: position, to: end)
                try #require(next > position && next <= end)
                for block in stride(from: position, to: next, by: 4096) {
                    #expect(isChanged(block) == changed, "seed \(seed), at \(block)")
                }
                // Runs are as long as can be, but where the marked size ends.
                if let last, position != size { #expect(last != changed) }
                last = changed
                position = next
            }
        }
    }

    @Test func theUnitGrowsWithTheVolume() {
        #expect(MarkerBits.shift(for: 4096) == 16)
        #expect(MarkerBits.shift(for: 1 << 40) == 16)
        #expect(MarkerBits.shift(for: (1 << 40) + 4096) == 17)
        #expect(MarkerBits.shift(for: Limits.volumeBytesMax) == 39)
        for size in [4096, 1 << 40, (1 << 40) + 4096, Limits.volumeBytesMax] as [UInt64] {
            let words = MarkerBits.wordCount(size: size, shift: MarkerBits.shift(for: size))
            #expect(words <= Limits.markerBitsMax / 64)
        }
    }

    @Test func theLargestVolumeHasAllItsBits() throws {
        try withFolder { path in
            let size = Limits.volumeBytesMax
            let bits = try folder(path).create(Self.marker, of: Self.volume, size: size)
            bits.mark(size - 4096, 4096)
            bits.mark(size - 4096, .max)
            bits.mark(size, 4096)
            bits.mark(.max, .max)
            #expect(bits.changedBytes(size: size) == size - (((size - 1) >> 39) << 39))
            #expect(bits.run(from: size - 4096, to: size).isChanged)
            #expect(!bits.run(from: 0, to: size).isChanged)
            bits.mark(0, .max)
            #expect(bits.changedBytes(size: size) == size)
            #expect(bits.run(from: 0, to: size) == (size, true))
        }
    }

    @Test func manyThreadsLoseNothing() async throws {
        let path = FileManager.default.temporaryDirectory.appending(path: "markers-\(UUID().uuidString)").path
        defer { try? FileManager.default.removeItem(atPath: path) }
        let bitmap = try folder(path).create(Self.marker, of: Self.volume, size: 4096 << 16)
        await withTaskGroup { group in
            for part in 0..<4 as Range<UInt64> {
                // All parts set bits of every word.
                group.addTask {
                    for unit in stride(from: part, to: 4096, by: 4) { bitmap.mark(unit << 16, 1) }
                }
            }
        }
        #expect(bitmap.changedBytes(size: 4096 << 16) == 4096 << 16)
    }

    // MARK: Files

    @Test func aProcessThatWasKilledLeavesItsBits() throws {
        try withFolder { path in
            let lost = try folder(path).create(Self.marker, of: Self.volume, size: 1 << 30)
            lost.mark(5 << 16, 1)
            let found = try #require(try restore(path))
            #expect(found.changedBytes(size: 0) == 1 << 16)
            // The next one goes on with them.
            found.mark(9 << 16, 1)
            #expect(try restore(path)?.changedBytes(size: 0) == 2 << 16)
        }
    }

    @Test func sealedBitsOutliveTheMachine() throws {
        try withFolder { path in
            let bitmap = try folder(path).create(Self.marker, of: Self.volume, size: 1 << 30)
            bitmap.mark(5 << 16, 1)
            folder(path).seal(bitmap, marker: Self.marker)
            let next = Identifier(high: 7, low: 8)
            #expect(try restore(path, boot: next)?.changedBytes(size: 0) == 1 << 16)
            // It is in use now, and was not sealed again.
            #expect(try restore(path, boot: next)?.changedBytes(size: 0) == 1 << 16)
            #expect(try restore(path, boot: Identifier(high: 9, low: 9)) == nil)
        }
    }

    @Test func bitsThatMayBeLostAreNotBelieved() throws {
        try withFolder { path in
            _ = try folder(path).create(Self.marker, of: Self.volume, size: 1 << 30)
            #expect(try restore(path, boot: Identifier(high: 7, low: 8)) == nil)
            // Nor later, when the machine has not died since.
            #expect(try restore(path, boot: Identifier(high: 7, low: 8)) == nil)
            #expect(!FileManager.default.fileExists(atPath: file(path)))
        }
    }

    @Test func everyDamagedByteOfASealedFileShows() throws {
        try withFolder { path in
            let bitmap = try folder(path).create(Self.marker, of: Self.volume, size: 1 << 24)
            bitmap.mark(0, 3 << 20)
            folder(path).seal(bitmap, marker: Self.marker)
            let whole = try Data(contentsOf: URL(filePath: file(path)))
            #expect(whole.count == 4096 + 32)
            for place in Array(0..<96) + Array(4096..<4128) {
                var damaged = whole
                damaged[place] ^= 0x10
                try damaged.write(to: URL(filePath: file(path)))
                #expect(try restore(path) == nil, "byte \(place)")
            }
            for bytes in [Data(), whole.dropLast(), whole + [0], Data(count: 1 << 16)] {
                try bytes.write(to: URL(filePath: file(path)))
                #expect(try restore(path) == nil, "\(bytes.count) bytes")
            }
            try whole.write(to: URL(filePath: file(path)))
            #expect(try restore(path)?.changedBytes(size: 0) == 3 << 20)
        }
    }

    @Test func whatIsNoFileOfTheMarkerIsNotUsed() throws {
        try withFolder { path in
            #expect(try restore(path) == nil)
            let other = try folder(path).create(Identifier(high: 0, low: 9), of: Self.volume, size: 1 << 24)
            folder(path).seal(other, marker: Self.marker)
            try FileManager.default.moveItem(
                atPath: "\(path)/\(Self.volume.hex)-\(Identifier(high: 0, low: 9).hex).marker",
                toPath: file(path))
            #expect(try restore(path) == nil)

            let target = "\(path)/elsewhere"
            let bitmap = try folder(path).create(Self.marker, of: Self.volume, size: 1 << 24)
            folder(path).seal(bitmap, marker: Self.marker)
            try FileManager.default.moveItem(atPath: file(path), toPath: target)
            try FileManager.default.createSymbolicLink(atPath: file(path), withDestinationPath: target)
            #expect(try restore(path) == nil)
            #expect(FileManager.default.fileExists(atPath: target))

            try FileManager.default.createDirectory(atPath: file(path), withIntermediateDirectories: false)
            // What can be neither used nor taken away must not be found by the next start.
            #expect(throws: StatusError.self) { try restore(path) }
        }
    }

    @Test func aVolumeThatShrankOrWasLostIsNotTheOneThatWasMarked() throws {
        try withFolder { path in
            _ = try folder(path).create(Self.marker, of: Self.volume, size: 1 << 30)
            #expect(try restore(path, size: 2 << 30) != nil)
            #expect(try restore(path, size: 1 << 29) == nil)
            _ = try folder(path).create(Self.marker, of: Self.volume, size: 1 << 30)
            #expect(try restore(path, isLost: true) == nil)
            #expect(try restore(path) == nil)
        }
    }

    @Test func filesThatNobodyKnowsAreSwept() throws {
        try withFolder { path in
            folder(path).sweep(keeping: [:])
            let kept = Identifier(high: 0, low: 1)
            _ = try folder(path).create(kept, of: Self.volume, size: 1 << 30)
            _ = try folder(path).create(Self.marker, of: Self.volume, size: 1 << 30)
            try Data([1]).write(to: URL(filePath: "\(path)/notes.txt"))
            folder(path).sweep(keeping: [Self.volume: [kept]])
            let names = try FileManager.default.contentsOfDirectory(atPath: path).sorted()
            #expect(names == ["\(Self.volume.hex)-\(kept.hex).marker", "notes.txt"])
        }
    }
}
