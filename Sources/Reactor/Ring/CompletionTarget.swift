/// What a completion says besides its result.
@frozen
public struct CompletionFlags: Sendable, Equatable {
    /// The bits as the kernel gave them (`io_uring_enter(2)`, `cqe->flags`).
    public let rawValue: UInt32

    /// Flags from raw bits.
    @inlinable
    public init(rawValue: UInt32) { self.rawValue = rawValue }

    /// No flag.
    public static let none = CompletionFlags(rawValue: 0)

    /// The operation goes on: this multishot operation will complete again with the same token.
    @inlinable
    public var more: Bool { rawValue & 2 != 0 }

    /// The completion holds a receive buffer, which must be given back with `Reactor.recycle(_:)`.
    @inlinable
    public var hasBuffer: Bool { rawValue & 1 != 0 }

    /// Which receive buffer; meaningful only when `hasBuffer`.
    @inlinable
    public var bufferID: UInt16 { UInt16(truncatingIfNeeded: rawValue >> 16) }

    @inlinable
    func withMore() -> CompletionFlags { CompletionFlags(rawValue: rawValue | 2) }
}

/// Receives the completions of operations that were started for it. Called on the reactor's thread only.
///
/// The reactor keeps a registered target alive until it is unregistered and its last operation has completed.
public protocol CompletionTarget: AnyObject {
    /// One operation completed, or a timer fired. `result` is a count or descriptor, or -errno.
    ///
    /// Must not block. May start, cancel and unregister at will.
    func completed(token: UInt32, result: Int32, flags: CompletionFlags)

    /// The reactor's way in, without reference counting. Not for use or replacement by others.
    static func deliver(to object: UnsafeRawPointer, token: UInt32, result: Int32, flags: CompletionFlags)
}

extension CompletionTarget {
    /// Calls `completed(token:result:flags:)` on the object that the reactor keeps alive.
    @inlinable
    public static func deliver(
        to object: UnsafeRawPointer, token: UInt32, result: Int32, flags: CompletionFlags
    ) {
        unsafe Unmanaged<Self>.fromOpaque(object)._withUnsafeGuaranteedRef {
            $0.completed(token: token, result: result, flags: flags)
        }
    }
}

/// Is called once after the completions of a wake-up: the place to send what they produced in one piece.
public protocol BatchTarget: AnyObject {
    /// All completions of this wake-up were dispatched.
    func batchEnded()

    /// The reactor's way in, without reference counting. Not for use or replacement by others.
    static func deliverBatchEnd(to object: UnsafeRawPointer)
}

extension BatchTarget {
    /// Calls `batchEnded()` on the object that the reactor keeps alive.
    @inlinable
    public static func deliverBatchEnd(to object: UnsafeRawPointer) {
        unsafe Unmanaged<Self>.fromOpaque(object)._withUnsafeGuaranteedRef { $0.batchEnded() }
    }
}

/// Looks at shared memory that another process writes: in every turn of the loop, and before the reactor sleeps.
///
/// The other side rings a doorbell (an eventfd that the target polls) only while the announcement to sleep
/// stands.
public protocol PolledTarget: AnyObject {
    /// Takes what is there. On the reactor's thread, once a turn; must be cheap and must not block.
    func poll()

    /// Announces to the other side that the reactor is about to sleep; false: something is there, do not.
    func prepareToSleep() -> Bool

    /// The reactor is awake: the other side need not ring.
    func awake()

    /// For how long it is worth looking again before the reactor sleeps, in nanoseconds; 0: not at all. Sleeping
    /// and being woken costs more than a short wait.
    var worthWaitingNanoseconds: UInt64 { get }

    /// Whether `poll` would find something.
    var hasSomething: Bool { get }
}

extension PolledTarget {
    /// Sleep at once.
    public var worthWaitingNanoseconds: UInt64 { 0 }
}

/// Names a registered target of one reactor.
@frozen
public struct TargetID: Hashable, Sendable {
    @usableFromInline let index: UInt32
    @usableFromInline let generation: UInt32

    @inlinable
    init(index: UInt32, generation: UInt32) {
        self.index = index
        self.generation = generation
    }
}

/// Names a timer of one reactor; stays harmless after the timer has fired.
@frozen
public struct TimerID: Hashable, Sendable {
    @usableFromInline let index: UInt32
    @usableFromInline let generation: UInt32

    @inlinable
    init(index: UInt32, generation: UInt32) {
        self.index = index
        self.generation = generation
    }
}
