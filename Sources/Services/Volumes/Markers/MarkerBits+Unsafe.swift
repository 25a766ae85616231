import Atomics
import Core

// SAFETY: words are atomics, every index is bounded by `size`, and who uses this keeps the `MarkerBitmap` that it is of.
/// Which units of a volume were changed since a marker was set: a bit each, in memory that reactors share. Any thread.
///
/// Bits are only ever set. What lies beyond `size`, the volume's size when it was marked, counts as changed and has none.
@safe
struct MarkerBits: @unchecked Sendable {
    typealias Word = UnsafeAtomic<UInt64>

    private let words: UnsafeMutablePointer<Word.Storage>
    /// What the bits cover, in bytes; at least one.
    let size: UInt64
    /// Bytes of a unit: 1 << shift.
    let shift: UInt8

    /// A view of memory that is all zero, or was used by a view of the same size and shift.
    ///
    /// - Safety: `memory` points at `wordCount(size:shift:)` words, aligned, for as long as the view is used.
    @unsafe
    init(memory: UnsafeMutableRawPointer, size: UInt64, shift: UInt8) {
        precondition(size > 0 && shift < 64, "bits cover something")
        let count = MarkerBits.wordCount(size: size, shift: shift)
        unsafe words = unsafe memory.bindMemory(to: Word.Storage.self, capacity: count)
        self.size = size
        self.shift = shift
    }

    /// The unit for a volume of this size: as fine as `Limits.markerBitsMax` bits allow.
    static func shift(for size: UInt64) -> UInt8 {
        var shift = Limits.markerShiftMin
        while (size - 1) >> UInt64(shift) >= UInt64(Limits.markerBitsMax) { shift += 1 }
        return shift
    }

    static func wordCount(size: UInt64, shift: UInt8) -> Int { Int((size - 1) >> (UInt64(shift) + 6)) + 1 }

    var wordCount: Int { MarkerBits.wordCount(size: size, shift: shift) }

    private var lastBit: UInt64 { (size - 1) >> UInt64(shift) }

    @inline(__always)
    private func word(_ index: UInt64) -> Word { unsafe Word(at: words + Int(index)) }

    // MARK: Setting

    /// Notes that bytes are about to be changed.
    @inline(__always)
    func mark(_ offset: UInt64, _ length: UInt64) {
        guard offset < size, length > 0 else { return }
        let first = offset >> UInt64(shift)
        let last = (offset + (min(length, size - offset) - 1)) >> UInt64(shift)
        let lastWord = last >> 6
        var index = first >> 6
        var mask = UInt64.max << (first & 63)
        while index < lastWord {
            set(index, mask)
            mask = .max
            index += 1
        }
        set(index, mask & (UInt64.max >> (63 - last & 63)))
    }

    /// Most of the time the bits are set, and reactors share the word without taking it from each other.
    @inline(__always)
    private func set(_ index: UInt64, _ mask: UInt64) {
        let word = word(index)
        if word.load(ordering: .relaxed) & mask != mask {
            _ = word.loadThenBitwiseOr(with: mask, ordering: .releasing)
        }
    }

    // MARK: Asking

    /// How far what is at `offset` goes on, up to `end`, and whether that was changed; `offset` is below `end`.
    func run(from offset: UInt64, to end: UInt64) -> (end: UInt64, isChanged: Bool) {
        guard offset < size else { return (end, true) }
        var bit = offset >> UInt64(shift)
        let last = (min(end, size) - 1) >> UInt64(shift)
        let isChanged = isSet(bit)
        bit += 1
        let same = isChanged ? UInt64.max : 0
        while bit <= last {
            if bit & 63 == 0, bit + 63 <= last, word(bit >> 6).load(ordering: .acquiring) == same {
                bit += 64
            } else if isSet(bit) == isChanged {
                bit += 1
            } else {
                return (bit << UInt64(shift), isChanged)
            }
        }
        return (isChanged ? end : min(end, size), isChanged)
    }

    private func isSet(_ bit: UInt64) -> Bool {
        (word(bit >> 6).load(ordering: .acquiring) >> (bit & 63)) & 1 != 0
    }

    /// How many bytes below `size` lie in units that were changed.
    var changedBytes: UInt64 {
        var count: UInt64 = 0
        for index in 0..<UInt64(wordCount) {
            count += UInt64(word(index).load(ordering: .acquiring).nonzeroBitCount)
        }
        let beyond = isSet(lastBit) ? (lastBit + 1) << UInt64(shift) - size : 0
        return count << UInt64(shift) - beyond
    }

    /// A number that differs when any one word does.
    var checksum: UInt64 {
        var sum = MarkerHeader.checksumStart
        for index in 0..<UInt64(wordCount) {
            sum = MarkerHeader.checksum(sum, word(index).load(ordering: .acquiring))
        }
        return sum
    }
}
