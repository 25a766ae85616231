import CURing
import Core
import Glibc

// SAFETY: ring and state are allocated by init, freed by deinit, and touched by the reactor's thread only.
/// One thread, one io_uring: starts operations and hands their completions to targets.
///
/// Confined to the thread that calls `run()`; only `remote` and `executor` may be used from others. Before
/// `run()`, the thread that created it may register targets and prepare fewer operations than
/// `Options.entries`. The kernel owns the memory of an operation until its last completion has been
/// delivered.
@safe public final class Reactor {
    /// How a reactor is set up.
    public struct Options: Sendable {
        /// The thread's name, at most 15 bytes are shown.
        public var name = "reactor"
        /// Submission entries, rounded up to a power of two; completion entries are four times as many.
        public var entries: UInt32 = 4096
        /// The size of one receive buffer in bytes.
        public var receiveBufferBytes = 65536
        /// How many receive buffers there are; a power of two, at most `Limits.receiveBuffersMax`.
        public var receiveBufferCount = 128
        /// The CPU to pin the thread to; nil leaves it to the scheduler.
        public var cpu: Int?
        /// For how long the thread looks for something to do before it sleeps, in nanoseconds; 0: not at all. It does so
        /// only while what comes next usually comes within that time: waking a processor that sleeps takes longer.
        public var pollNanoseconds: UInt64 = 0
        /// Whether the ring takes only I/O on descriptors that are open: once it runs, other operations
        /// complete with -EACCES. A seccomp filter does not see what a ring is asked to do.
        public var isRestricted = false
        /// Whether the ring takes `command(fd:…)`. Its submission entries are twice as large then.
        public var takesCommands = false

        /// The defaults.
        public init() {}
    }

    /// The way in from other threads.
    public let remote: ReactorRemote
    /// Runs actors on this reactor's thread.
    public let executor: ReactorExecutor
    /// The way the ring was set up, for logs: which of the kernel's task-running modes is in use.
    public let mode: String

    let options: Options
    let pulse: ReactorPulse
    let ring: UnsafeMutablePointer<io_uring>
    let state: UnsafeMutablePointer<ReactorState>

    /// Sets up the ring and its buffers.
    public init(_ options: Options = Options()) throws(ReactorError) {
        precondition(
            options.receiveBufferCount.nonzeroBitCount == 1, "receiveBufferCount is not a power of two")
        precondition(options.receiveBufferCount <= Limits.receiveBuffersMax, "too many receive buffers")
        precondition(
            options.receiveBufferBytes > 0 && options.entries > 0, "a reactor needs buffers and entries")
        self.options = options
        remote = try ReactorRemote()
        pulse = remote.pulse
        executor = ReactorExecutor(remote: remote)
        unsafe ring = UnsafeMutablePointer<io_uring>.allocate(capacity: 1)
        unsafe ring.initialize(to: io_uring())
        let buffers: ReceiveBuffers
        do throws(ReactorError) {
            mode = try unsafe RingSetup.open(
                ring, entries: min(options.entries, Limits.reactorEntriesMax),
                takesCommands: options.takesCommands)
        } catch {
            unsafe ring.deallocate()
            throw error
        }
        do throws(ReactorError) {
            if options.isRestricted { try unsafe RingSetup.restrict(ring) }
            buffers = try unsafe ReceiveBuffers(
                ring: ring, bytes: options.receiveBufferBytes, count: options.receiveBufferCount)
        } catch {
            unsafe io_uring_queue_exit(ring)
            unsafe ring.deallocate()
            throw error
        }
        unsafe state = UnsafeMutablePointer<ReactorState>.allocate(capacity: 1)
        unsafe state.initialize(to: ReactorState(buffers: buffers, now: SystemClock.monotonic()))
        let wakeTarget = register(WakeTarget())
        precondition(wakeTarget == Reactor.internalTarget, "the reactor's own target is the first")
    }

    deinit {
        unsafe io_uring_queue_exit(ring)
        unsafe state.pointee.buffers.unmap()
        unsafe state.pointee.targets.deallocate()
        unsafe state.pointee.multishots.deallocate()
        unsafe state.pointee.releaseBatchEnds()
        unsafe state.deinitialize(count: 1)
        unsafe state.deallocate()
        unsafe ring.deallocate()
    }

    /// Makes the ring keep what the descriptors name open until the kernel has let go of the ring: also of
    /// the I/O that it still had when the process was killed. At most once, before the reactor runs.
    ///
    /// What is polled at the other end of a pipe then tells when no more I/O of this ring can reach a device,
    /// and a lock is held until then.
    public func hold(fds: [Int32]) throws(ReactorError) {
        precondition(unsafe !state.pointee.isStarted, "a ring's descriptors are set before it runs")
        let result = unsafe sluice_ring_hold(ring, fds, UInt32(fds.count))
        if result < 0 { throw .system(call: "io_uring_register(FILES)", errno: -result) }
    }

    /// Whether the ring takes `command(fd:…)`.
    public var takesCommands: Bool { options.takesCommands }

    /// Monotonic nanoseconds, as of this wake-up.
    public var now: UInt64 { unsafe state.pointee.now }

    /// Where whoever works on this thread says what it is at.
    public var marker: ReactorPulse.Marker { pulse.marker }

    /// The number of this wake-up.
    public var turn: UInt64 { unsafe state.pointee.turns }

    /// Whether there is something for this thread that the present wake-up does not know of.
    public var hasMore: Bool { unsafe sluice_ring_has_work(ring) != 0 || !remote.isEmpty }

    /// Reads the clock anew and returns `now`.
    @discardableResult
    public func refreshNow() -> UInt64 {
        unsafe state.pointee.now = SystemClock.monotonic()
        return unsafe state.pointee.now
    }

    /// Gives the target an identity for operations; keeps it alive until `unregister(_:)` and its last
    /// completion.
    public func register(_ target: any CompletionTarget) -> TargetID {
        unsafe state.pointee.targets.insert(target)
    }

    /// Ends the registration: no new operations; multishot operations are cancelled, timers never fire.
    /// Completions that are still due are delivered, then the target is released.
    public func unregister(_ id: TargetID) {
        var index = unsafe state.pointee.targets.slot(id).pointee.firstMultishot
        while index >= 0 {
            let next = unsafe state.pointee.multishots.records[Int(index)].next
            cancelMultishot(Int(index))
            index = next
        }
        unsafe state.pointee.targets.close(id)
    }

    /// Calls `batchEnded()` once for this call, after this wake-up's completions and before the next
    /// submission. A call made while batch ends run is served in the same wake-up, a few times over. Keep a flag
    /// to ask only once a wake-up.
    public func atBatchEnd(_ target: any BatchTarget) {
        let object = unsafe UnsafeRawPointer(Unmanaged<AnyObject>.passRetained(target).toOpaque())
        unsafe state.pointee.batchEnds.append(BatchEnd(object: object, type: type(of: target)))
    }

    /// Polls the target in every turn until `removePolled(_:)`.
    public func addPolled(_ target: any PolledTarget) {
        unsafe state.pointee.polled.append(target)
    }

    /// Ends the polling of the target.
    public func removePolled(_ target: any PolledTarget) {
        unsafe state.pointee.polled.removeAll { $0 === target }
    }

    /// Fires `completed(token:result:flags:)` with result 0 once, `nanoseconds` after `now`.
    public func setTimer(after nanoseconds: UInt64, target: TargetID, token: UInt32) -> TimerID {
        _ = unsafe state.pointee.targets.slot(target)
        let (deadline, overflow) = unsafe state.pointee.now.addingReportingOverflow(nanoseconds)
        return unsafe state.pointee.timers.insert(
            deadline: overflow ? .max : deadline, target: target, token: token)
    }

    /// Stops a timer; does nothing when it has fired.
    public func cancelTimer(_ id: TimerID) {
        unsafe state.pointee.timers.cancel(id)
    }

    /// The bytes that a multishot receive brought. Valid until `recycle(_:)`; at most `count` of them. The
    /// `Limits.receiveHeadroomBytes` before them are the caller's to write to until then.
    public func receiveBuffer(_ flags: CompletionFlags, count: Int) -> UnsafeRawBufferPointer {
        unsafe precondition(
            count >= 0 && count <= state.pointee.buffers.bufferBytes, "more bytes than a receive buffer has")
        return unsafe UnsafeRawBufferPointer(
            start: state.pointee.buffers.address(flags.bufferID), count: count)
    }

    /// Gives a receive buffer back; once for each completion whose flags say `hasBuffer`.
    public func recycle(_ flags: CompletionFlags) {
        precondition(flags.hasBuffer, "the completion has no buffer")
        unsafe state.pointee.buffers.give(flags.bufferID)
    }

    static let internalTarget = TargetID(index: 0, generation: 1)
}

/// Takes the completions that concern nobody else: wake-ups and results of cancelling.
private final class WakeTarget: CompletionTarget {
    func completed(token: UInt32, result: Int32, flags: CompletionFlags) {}
}

// SAFETY: `object` is retained from the call that made this value until it was served.
/// A batch end that was asked for; the object is retained by hand.
@safe struct BatchEnd {
    var object: UnsafeRawPointer
    var type: any BatchTarget.Type
}

/// A completion that waits outside the ring: taken out to make room, or made by the reactor itself.
struct SpilledCompletion {
    var userData: UInt64
    var result: Int32
    var flags: UInt32
}

// SAFETY: the raw addresses in it are retained objects or allocations that `releaseBatchEnds()` frees.
/// What a reactor holds, at one address: no access checks, no reference counts.
@safe struct ReactorState {
    var targets = TargetTable(capacity: 64)
    var multishots = MultishotTable(capacity: 64)
    var timers = TimerHeap(capacity: 64)
    var buffers: ReceiveBuffers
    var now: UInt64
    /// Wake-ups so far.
    var turns: UInt64 = 0
    /// How long it usually takes from having nothing to do to having something, in nanoseconds.
    var usualIdle: UInt64 = 0
    /// Operations whose last completion was not dispatched yet.
    var operations = 0
    var registeredDescriptor: Int32 = -1
    var isStarted = false
    var isStopping = false
    var spill: ContiguousArray<SpilledCompletion> = []
    /// Multishot receives that wait for a buffer, oldest first, as user data.
    var starved: ContiguousArray<UInt64> = []
    var batchEnds: ContiguousArray<BatchEnd> = []
    var batchEndsServed = 0
    /// Socket addresses that the kernel reads at the next submission.
    var addresses: [UnsafeMutableRawPointer] = unsafe []
    var works: [ReactorRemote.Work] = []
    var polled: [any PolledTarget] = []
    var fixedPlaces = FixedPlaces()

    init(buffers: ReceiveBuffers, now: UInt64) {
        self.buffers = buffers
        self.now = now
        spill.reserveCapacity(64)
        starved.reserveCapacity(64)
        batchEnds.reserveCapacity(256)
        works.reserveCapacity(64)
    }

    mutating func releaseBatchEnds() {
        for end in batchEnds[batchEndsServed...] {
            unsafe Unmanaged<AnyObject>.fromOpaque(end.object).release()
        }
        batchEnds.removeAll()
        batchEndsServed = 0
        unsafe addresses.forEach { unsafe $0.deallocate() }
        unsafe addresses.removeAll()
    }
}
