/// Requests on their way to a driver.
public typealias SubmissionRing = DriverRing<DriverRequest>

/// Completions on their way back.
public typealias CompletionRing = DriverRing<DriverCompletion>

/// Entries on their way to or from a driver. One producer and one consumer; both ends may be used from one object.
public final class DriverRing<Entry: BitwiseCopyable> {
    @usableFromInline let ring: SharedRing<Entry>
    private let memory: RingMemory?

    /// A ring in memory of its own. `capacity` is a power of two, at most `Limits.driverRingEntriesMax`.
    public init(capacity: Int) {
        let memory = RingMemory(bytes: SharedRing<Entry>.bytesNeeded(capacity: capacity))
        self.memory = memory
        ring = unsafe SharedRing(memory: memory.base, capacity: capacity)
    }

    /// One side's view of a ring in memory that the caller keeps mapped longer than this object lives.
    public init(memory: UnsafeMutableRawPointer, capacity: Int) {
        self.memory = nil
        ring = unsafe SharedRing(memory: memory, capacity: capacity)
    }

    deinit { ring.deallocate() }

    /// Puts an entry; false when the ring is full.
    @inlinable
    @inline(__always)
    public func push(_ entry: Entry) -> Bool { ring.push(entry) }

    /// Takes the oldest entry.
    @inlinable
    @inline(__always)
    public func pop() -> Entry? { ring.pop() }

    /// How many entries wait.
    @inlinable
    public var count: Int { ring.count }

    /// How many entries could be put now.
    @inlinable
    public var room: Int { ring.room }

    /// How many entries this side has taken since the ring was made; wraps.
    @inlinable
    public var taken: UInt32 { ring.taken }

    /// The entry that this side took last; nil before the first. Of the thread that takes them, and of one that looks
    /// at a thread which stands: it may be half of one and half of another while that goes on.
    public var lastTaken: Entry? { ring.lastTaken }

    /// How many entries it can hold.
    @inlinable
    public var capacity: Int { ring.capacity }

    /// Whether the other side wrote an impossible count.
    @inlinable
    public var isBroken: Bool { ring.isBroken }
}

// SAFETY: allocated by init, freed by deinit, used only by the ring that owns this object.
/// Zeroed memory of a ring that stays within the process.
@safe
final class RingMemory {
    let base: UnsafeMutableRawPointer

    init(bytes: Int) {
        unsafe base = UnsafeMutableRawPointer.allocate(byteCount: bytes, alignment: 64)
        unsafe base.initializeMemory(as: UInt8.self, repeating: 0, count: bytes)
    }

    deinit { unsafe base.deallocate() }
}
