import Atomics
import CURing
import Glibc

/// Whether a reactor turns, and what its thread is at. The reactor's thread writes it; a watchdog on another thread reads
/// it, at any time, and never waits for it.
@safe
public final class ReactorPulse: @unchecked Sendable {
    // SAFETY: the words never move, live as long as this object, and are atomics.

    /// What a thread is at, as its owner puts it: a kind of work, and three words that say more. The four are written one
    /// after the other, so that a reader of a thread that moves may see parts of two; of one that stands, it does not.
    public struct Activity: Sendable, Hashable {
        /// Which kind of work; 0 for none that was noted in this turn.
        public var kind: UInt64
        /// What `kind` says that they are.
        public var words: (UInt64, UInt64, UInt64)

        /// An activity.
        public init(kind: UInt64, words: (UInt64, UInt64, UInt64) = (0, 0, 0)) {
            self.kind = kind
            self.words = words
        }

        /// Whether all four are the same.
        public static func == (left: Activity, right: Activity) -> Bool {
            left.kind == right.kind && left.words == right.words
        }

        /// All four.
        public func hash(into hasher: inout Hasher) {
            hasher.combine(kind)
            hasher.combine(words.0)
            hasher.combine(words.1)
            hasher.combine(words.2)
        }
    }

    /// What the thread does.
    enum Phase: UInt64 {
        /// It was not started, or it has ended.
        case absent
        case turning
        /// It waits for something to do.
        case asleep
    }

    /// Where the owner of a reactor says what it is at: a value without a reference count, good for as long as the
    /// reactor lives.
    @safe
    @frozen
    public struct Marker: @unchecked Sendable {
        // SAFETY: made by a pulse, which the reactor keeps; the words are atomics.
        @usableFromInline let words: UnsafeMutablePointer<UnsafeAtomic<UInt64>.Storage>

        @usableFromInline
        init(words: UnsafeMutablePointer<UnsafeAtomic<UInt64>.Storage>) { unsafe self.words = unsafe words }

        /// Says what the thread is at, until the next call or the end of the turn. A few stores.
        @inlinable
        @inline(__always)
        public func note(kind: UInt64, _ first: UInt64 = 0, _ second: UInt64 = 0, _ third: UInt64 = 0) {
            unsafe UnsafeAtomic(at: words).store(kind, ordering: .relaxed)
            unsafe UnsafeAtomic(at: words + 1).store(first, ordering: .relaxed)
            unsafe UnsafeAtomic(at: words + 2).store(second, ordering: .relaxed)
            unsafe UnsafeAtomic(at: words + 3).store(third, ordering: .relaxed)
        }
    }

    private typealias Word = UnsafeAtomic<UInt64>
    /// The activity's four, then turns, phase, thread.
    private let words: UnsafeMutablePointer<UnsafeAtomic<UInt64>.Storage>
    private static let count = 8
    /// The same, to say what the thread is at.
    public let marker: Marker

    init() {
        unsafe words = .allocate(capacity: ReactorPulse.count)
        for index in 0..<ReactorPulse.count {
            unsafe (words + index).initialize(to: UnsafeAtomic<UInt64>.Storage(0))
        }
        marker = unsafe Marker(words: words)
    }

    deinit {
        for index in 0..<ReactorPulse.count { _ = unsafe (words + index).pointee.dispose() }
        unsafe words.deallocate()
    }

    @inline(__always)
    private func word(_ index: Int) -> Word { unsafe Word(at: words + index) }

    // MARK: The reactor's side

    /// The thread begins, or has ended.
    func thread(isThere: Bool) {
        if isThere { ThreadStack.allow() }
        word(6).store(isThere ? UInt64(sluice_thread_id()) : 0, ordering: .relaxed)
        word(5).store(isThere ? Phase.turning.rawValue : Phase.absent.rawValue, ordering: .releasing)
    }

    @inline(__always)
    func turn(_ number: UInt64) {
        word(0).store(0, ordering: .relaxed)
        word(4).store(number, ordering: .relaxed)
    }

    @inline(__always)
    func sleeps(_ isAsleep: Bool) {
        word(5).store(isAsleep ? Phase.asleep.rawValue : Phase.turning.rawValue, ordering: .relaxed)
    }

    // MARK: The watchdog's side

    /// The number of the present turn.
    var turns: UInt64 { word(4).load(ordering: .relaxed) }

    var phase: Phase { Phase(rawValue: word(5).load(ordering: .acquiring)) ?? .absent }

    /// The kernel's number of the thread; 0 for none.
    var thread: Int32 { Int32(truncatingIfNeeded: word(6).load(ordering: .relaxed)) }

    /// What the thread is at.
    public var activity: Activity {
        Activity(
            kind: word(0).load(ordering: .relaxed),
            words: (
                word(1).load(ordering: .relaxed), word(2).load(ordering: .relaxed),
                word(3).load(ordering: .relaxed)
            ))
    }
}
