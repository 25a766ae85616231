import Core
import DequeModule
import Glibc
import Reactor
import Synchronization

/// One thread that runs a pool's blocking work, in the order in which it was posted.
///
/// The order is what makes create, open, resize and delete of one volume safe against each other.
final class PoolWorker: Sendable {
    typealias Work = @Sendable () -> Void
    /// Runs work some time later, in the order in which it is given; for simulations.
    typealias Executor = @Sendable (@escaping Work) -> Void

    private struct State {
        var queue = Deque<Work>()
        var isStopping = false
    }

    private let state = Mutex(State())
    /// Counts the queue's entries, and one more for the stop.
    private let available = ThreadSemaphore()
    /// Runs the work in place of a thread.
    private let executor: Executor?

    /// Starts the thread, unless `executor` takes its place; it ends after `stop`, when what was posted before has
    /// run.
    ///
    /// - Throws: `busy` when there is no thread to be had.
    init(executor: Executor? = nil) throws(StatusError) {
        self.executor = executor
        guard executor == nil else { return }
        do throws(ReactorError) {
            try DetachedThread.start(name: "pool") { [self] in loop() }
        } catch { throw StatusError(.busy, "no thread for a pool's work: \(error)") }
    }

    /// Queues `work`; false when the queue is full or the worker is stopping.
    ///
    /// - Parameter isOfClient: whether a client asks for it, and not an administrator: clients may fill half of the queue.
    func post(isOfClient: Bool = false, _ work: @escaping Work) -> Bool {
        let most = isOfClient ? Limits.poolWorkMax / 2 : Limits.poolWorkMax
        let isQueued = state.withLock { state in
            guard !state.isStopping, state.queue.count < most else { return false }
            if executor == nil { state.queue.append(work) }
            return true
        }
        guard isQueued else { return false }
        if let executor { executor(work) } else { available.signal() }
        return true
    }

    /// Runs `body` on the thread and returns what it returned.
    func run<Value: Sendable>(
        _ body: @escaping @Sendable () throws(StatusError) -> Value
    ) async throws(StatusError) -> Value {
        let result: Result<Value, StatusError> = await withCheckedContinuation { continuation in
            let isQueued = post {
                let outcome: Result<Value, StatusError>
                do throws(StatusError) { outcome = .success(try body()) } catch { outcome = .failure(error) }
                continuation.resume(returning: outcome)
            }
            if !isQueued {
                continuation.resume(
                    returning: .failure(StatusError(.busy, "too much work waits for the pool's driver")))
            }
        }
        return try result.get()
    }

    /// Accepts no more work; what was posted still runs.
    func stop() {
        state.withLock { $0.isStopping = true }
        available.signal()
    }

    private func loop() {
        while true {
            available.wait()
            let (work, isDone) = state.withLock { state in
                let work = state.queue.popFirst()
                return (work, work == nil && state.isStopping)
            }
            work?()
            if isDone { return }
        }
    }
}
