import Atomics
import Core

// SAFETY: the memory holds `bytesNeeded(capacity:)` bytes as long as the owner of this value lives; the masks
// keep every entry inside; `cursor` belongs to this side alone.
/// A queue of fixed-size entries in raw memory for one producer and one consumer, which may be two processes.
///
/// Layout: the consumer's count of taken entries (UInt32) at 0, the producer's count of put entries (UInt32)
/// at 64, entries from 128. The counts wrap; their difference is the number of entries. What is read of the
/// other side's count is checked: a side that writes nonsense makes the ring broken, never makes us touch
/// memory outside.
@safe
@frozen
public struct SharedRing<Entry: BitwiseCopyable> {
    /// The positions that only this side touches.
    @frozen
    @usableFromInline
    struct Cursor {
        @usableFromInline var taken: UInt32
        @usableFromInline var put: UInt32
        /// The other side's counts as last read.
        @usableFromInline var knownTaken: UInt32
        @usableFromInline var knownPut: UInt32
        @usableFromInline var isBroken: Bool

        @inlinable
        init() {
            taken = 0
            put = 0
            knownTaken = 0
            knownPut = 0
            isBroken = false
        }
    }

    @usableFromInline let entries: UnsafeMutablePointer<Entry>
    @usableFromInline let takenCount: UnsafeAtomic<UInt32>
    @usableFromInline let putCount: UnsafeAtomic<UInt32>
    @usableFromInline let cursor: UnsafeMutablePointer<Cursor>
    @usableFromInline let mask: UInt32

    /// Bytes of memory for a ring of this many entries.
    public static func bytesNeeded(capacity: Int) -> Int {
        128 + capacity * MemoryLayout<Entry>.stride
    }

    /// A view of a ring in zeroed memory, aligned to 64 bytes.
    public init(memory: UnsafeMutableRawPointer, capacity: Int) {
        precondition(
            capacity.nonzeroBitCount == 1 && capacity <= Limits.driverRingEntriesMax, "not a ring's capacity")
        precondition(UInt(bitPattern: memory) % 64 == 0, "a ring is aligned to 64 bytes")
        typealias Count = UnsafeAtomic<UInt32>.Storage
        takenCount = unsafe UnsafeAtomic(at: memory.bindMemory(to: Count.self, capacity: 1))
        putCount = unsafe UnsafeAtomic(at: (memory + 64).bindMemory(to: Count.self, capacity: 1))
        unsafe entries = unsafe (memory + 128).bindMemory(to: Entry.self, capacity: capacity)
        unsafe cursor = UnsafeMutablePointer<Cursor>.allocate(capacity: 1)
        unsafe cursor.initialize(to: Cursor())
        mask = UInt32(capacity - 1)
    }

    /// Frees this side's own memory, not the ring's.
    func deallocate() { unsafe cursor.deallocate() }

    /// How many entries it can hold.
    @inlinable
    public var capacity: Int { Int(mask) + 1 }

    /// Whether the other side wrote an impossible count. A broken ring gives and takes nothing any more.
    @inlinable
    public var isBroken: Bool { unsafe cursor.pointee.isBroken }

    /// Puts an entry; false when the ring is full or broken.
    @inlinable
    @inline(__always)
    public func push(_ entry: Entry) -> Bool {
        let put = unsafe cursor.pointee.put
        if unsafe put &- cursor.pointee.knownTaken > mask {
            let taken = takenCount.load(ordering: .acquiring)
            guard put &- taken <= mask else {
                if put &- taken > mask &+ 1 { unsafe cursor.pointee.isBroken = true }
                return false
            }
            unsafe cursor.pointee.knownTaken = taken
        }
        unsafe entries[Int(put & mask)] = entry
        unsafe cursor.pointee.put = put &+ 1
        putCount.store(put &+ 1, ordering: .releasing)
        return true
    }

    /// Takes the oldest entry, copied out; nil when there is none or the ring is broken.
    @inlinable
    @inline(__always)
    public func pop() -> Entry? {
        let taken = unsafe cursor.pointee.taken
        if unsafe cursor.pointee.knownPut == taken {
            let put = putCount.load(ordering: .acquiring)
            if put == taken { return nil }
            guard put &- taken <= mask &+ 1 else {
                unsafe cursor.pointee.isBroken = true
                return nil
            }
            unsafe cursor.pointee.knownPut = put
        }
        let entry = unsafe entries[Int(taken & mask)]
        unsafe cursor.pointee.taken = taken &+ 1
        takenCount.store(taken &+ 1, ordering: .releasing)
        return entry
    }

    /// How many entries the consumer could take now.
    @inlinable
    public var count: Int {
        let count = unsafe putCount.load(ordering: .acquiring) &- cursor.pointee.taken
        return count <= mask &+ 1 ? Int(count) : 0
    }

    /// How many entries this side has taken since the ring was made; wraps.
    @inlinable
    public var taken: UInt32 { unsafe cursor.pointee.taken }

    /// The entry that this side took last, unless the producer has put another in its place; nil before the first.
    public var lastTaken: Entry? {
        let taken = unsafe cursor.pointee.taken
        return taken == 0 ? nil : unsafe entries[Int((taken &- 1) & mask)]
    }

    /// How many entries the producer could put now.
    @inlinable
    public var room: Int {
        let used = unsafe cursor.pointee.put &- takenCount.load(ordering: .acquiring)
        return used <= mask &+ 1 ? Int(mask &+ 1 &- used) : 0
    }
}
