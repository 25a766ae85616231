import Testing

@testable import TLS

/// Records in one piece, however what arrives is cut, with room before it or without.
@Suite struct TLSInputTests {
    private static let bodyBytesMax = (16 << 10) + 256

    // SAFETY: allocated by init, freed by deinit, and lent only while the region lives.
    /// Memory as an owner lends it: untouchable bytes, headroom, what has arrived, untouchable bytes.
    @safe private final class Region {
        static let guardBytes = 32
        let memory: UnsafeMutableRawBufferPointer
        let headroom: Int

        init(_ bytes: ArraySlice<UInt8>, headroom: Int) {
            self.headroom = headroom
            unsafe memory = .allocate(
                byteCount: 2 * Self.guardBytes + headroom + bytes.count, alignment: 64)
            for index in unsafe memory.indices { unsafe memory[index] = 0xA5 }
            for (index, byte) in bytes.enumerated() { unsafe memory[start + index] = byte }
        }

        deinit { unsafe memory.deallocate() }

        var start: Int { Self.guardBytes + headroom }

        var lent: UnsafeRawBufferPointer {
            unsafe UnsafeRawBufferPointer(rebasing: memory[start..<memory.count - Self.guardBytes])
        }

        var isIntactAround: Bool {
            unsafe (memory.prefix(Self.guardBytes) + memory.suffix(Self.guardBytes)).allSatisfy { $0 == 0xA5 }
        }
    }

    private func record(_ body: Int, _ number: Int) -> [UInt8] {
        [23, 3, 3, UInt8(body >> 8), UInt8(body & 255)]
            + (0..<body).map { UInt8(truncatingIfNeeded: $0 &* 31 &+ number) }
    }

    /// Lends `stream` in pieces that end at `cuts`, and takes every record as soon as it is whole.
    private func records(of stream: [UInt8], cuts: [Int], headroom: Int) -> [[UInt8]] {
        let input = TLSInput(pool: TLSBufferPool())
        var found: [[UInt8]] = []
        var start = 0
        for end in cuts + [stream.count] where end > start {
            let region = Region(stream[start..<end], headroom: headroom)
            unsafe input.lend(region.lent, headroom: headroom)
            while case .complete(let first, let body) = input.nextRecord(bodyBytesMax: Self.bodyBytesMax) {
                found.append(unsafe Array(UnsafeBufferPointer(start: first, count: 5 + body)))
                input.use(5 + body)
            }
            input.endLoan()
            #expect(region.isIntactAround)
            start = end
        }
        #expect(input.count == 0)
        return found
    }

    @Test(arguments: [0, 1, 4, 5, 6, 100, 8_000, 16_400, 20_480])
    func recordsAreWholeWhereverAPieceEnds(headroom: Int) {
        let all = [
            record(1, 0), record(300, 1), record(16_401, 2), record(17, 3), record(16_640, 4),
            record(16_401, 5),
        ]
        let stream = all.flatMap { $0 }
        var edges: Set<Int> = []
        var end = 0
        for one in all {
            for distance in [-8_201, -6, -5, -4, -1, 0, 1, 4, 5, 6, 7, 100, 8_200, 8_203] {
                edges.insert(end + distance)
            }
            end += one.count
        }
        for cut in edges where cut > 0 && cut < stream.count {
            #expect(records(of: stream, cuts: [cut], headroom: headroom) == all, "cut at \(cut)")
        }
        // Every piece of one length, so that records begin at ever other places of theirs.
        for length in [1_000, 4_096, 16_405, 16_406, 16_407, 20_000] {
            let cuts = Array(stride(from: length, to: stream.count, by: length))
            #expect(records(of: stream, cuts: cuts, headroom: headroom) == all, "pieces of \(length)")
        }
    }

    @Test func aShortBeginningIsPutBeforeWhatArrivesAndALongOneIsNot() {
        let stream = record(16_401, 0)
        for (cut, isMoved) in [(6, true), (8_000, true), (8_203, false), (16_000, false)] {
            let input = TLSInput(pool: TLSBufferPool())
            let (first, second) = (
                Region(stream[..<cut], headroom: 20_480), Region(stream[cut...], headroom: 20_480)
            )
            unsafe input.lend(first.lent, headroom: first.headroom)
            unsafe input.lend(second.lent, headroom: second.headroom)
            guard case .complete(let place, _) = input.nextRecord(bodyBytesMax: Self.bodyBytesMax) else {
                Issue.record("no record")
                continue
            }
            let start = unsafe UnsafeRawPointer(place)
            let isWithin =
                unsafe start >= UnsafeRawPointer(second.memory.baseAddress!)
                && start < UnsafeRawPointer(second.memory.baseAddress! + second.memory.count)
            #expect(isWithin == isMoved, "cut at \(cut)")
        }
    }
}
