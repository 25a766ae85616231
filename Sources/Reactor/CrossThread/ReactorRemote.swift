import CURing
import Glibc
import Synchronization

/// The way into a reactor from other threads.
public final class ReactorRemote: Sendable {
    enum Work: Sendable {
        case call(@Sendable () -> Void)
        case callWithReactor(@Sendable (Reactor) -> Void)
        case job(UnownedJob)
    }

    private struct Queue {
        var works: [Work] = []
        /// The reactor's loop has ended; only jobs are taken, and whoever brings one runs it.
        var isFinished = false
        var isDrained = false
    }

    /// What wakes the sleeping reactor. Never read: the reactor polls it for edges.
    let wakeDescriptor: Int32
    /// Whether the reactor turns, for who watches it.
    public let pulse = ReactorPulse()
    private let queue = Mutex(Queue())
    private let hasWork = Atomic<Bool>(false)
    private let isAsleep = Atomic<Bool>(false)
    private let stopRequested = Atomic<Bool>(false)
    private let thread = Atomic<UInt>(0)

    init() throws(ReactorError) {
        wakeDescriptor = try checked("eventfd", eventfd(0, Int32(EFD_CLOEXEC | EFD_NONBLOCK)))
    }

    deinit {
        _ = Glibc.close(wakeDescriptor)
    }

    /// Runs the work on the reactor's thread, after what was posted before. From any thread; never blocks
    /// long.
    ///
    /// - Returns: false when the reactor has ended and the work will not run.
    @discardableResult
    public func post(_ work: @Sendable @escaping () -> Void) -> Bool { add(.call(work)) }

    /// As `post(_:)`, and hands the reactor to the work.
    @discardableResult
    public func postWithReactor(_ work: @Sendable @escaping (Reactor) -> Void) -> Bool {
        add(.callWithReactor(work))
    }

    /// Runs the work on the reactor's thread and returns what it returned; nil when the reactor has ended. Blocks; from
    /// any thread but the reactor's own.
    public func call<Value: Sendable>(_ work: @Sendable @escaping (Reactor) -> Value) -> Value? {
        precondition(!isCurrentThread, "the reactor would wait for itself")
        let answer = OneShot<Value>()
        guard postWithReactor({ reactor in answer.give(work(reactor)) }) else { return nil }
        return answer.take()
    }

    /// Asks the reactor to end: `run()` cancels all operations, delivers their completions and returns.
    public func stop() {
        stopRequested.store(true, ordering: .sequentiallyConsistent)
        wake()
    }

    /// Whether the caller is on the reactor's thread.
    public var isCurrentThread: Bool {
        thread.load(ordering: .relaxed) == UInt(pthread_self())
    }

    func enqueue(_ job: UnownedJob, executor: ReactorExecutor) {
        let runHere = queue.withLock { queue in
            queue.works.append(.job(job))
            if !queue.isFinished || queue.isDrained { return false }
            queue.isDrained = true
            return true
        }
        if runHere {
            drainAfterEnd(executor)
        } else {
            hasWork.store(true, ordering: .sequentiallyConsistent)
            wake()
        }
    }

    private func add(_ work: Work) -> Bool {
        let added = queue.withLock { queue in
            if queue.isFinished { return false }
            queue.works.append(work)
            return true
        }
        guard added else { return false }
        hasWork.store(true, ordering: .sequentiallyConsistent)
        wake()
        return true
    }

    /// Costs a system call only when the reactor sleeps.
    private func wake() {
        if isAsleep.exchange(false, ordering: .sequentiallyConsistent) {
            _ = eventfd_write(wakeDescriptor, 1)
        }
    }

    // MARK: The reactor's side

    func adoptThread() { thread.store(UInt(pthread_self()), ordering: .relaxed) }

    var isStopRequested: Bool { stopRequested.load(ordering: .relaxed) }

    var isEmpty: Bool { !hasWork.load(ordering: .relaxed) }

    /// Announces that the reactor is about to sleep. False: something came in, do not.
    func prepareToSleep() -> Bool {
        isAsleep.store(true, ordering: .sequentiallyConsistent)
        if hasWork.load(ordering: .sequentiallyConsistent)
            || stopRequested.load(ordering: .sequentiallyConsistent)
        {
            isAsleep.store(false, ordering: .relaxed)
            return false
        }
        return true
    }

    func awake() { isAsleep.store(false, ordering: .relaxed) }

    /// Swaps what has come in for the empty array `works`.
    func take(_ works: inout [Work]) {
        hasWork.store(false, ordering: .sequentiallyConsistent)
        queue.withLock { swap(&$0.works, &works) }
    }

    /// No work is taken any more; returns what came last.
    func finish() -> [Work] {
        queue.withLock { queue in
            queue.isFinished = true
            let last = queue.works
            queue.works = []
            return last
        }
    }

    /// Jobs of tasks that outlive the reactor run one after another on the threads that bring them.
    private func drainAfterEnd(_ executor: ReactorExecutor) {
        adoptThread()
        while true {
            let works = queue.withLock { queue in
                let works = queue.works
                queue.works = []
                if works.isEmpty { queue.isDrained = false }
                return works
            }
            if works.isEmpty { return }
            for case .job(let job) in works {
                unsafe job.runSynchronously(on: executor.asUnownedSerialExecutor())
            }
        }
    }
}
