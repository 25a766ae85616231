import Foundation
import Glibc
import Testing

/// Runs jobs that may block, each on a thread that nobody else waits for: an idle one, or a new one.
///
/// The concurrency runtime has one thread a core. A test that blocks there on a socket keeps it from the server under
/// test, and as many such tests as there are cores stop everything for good.
public final class BlockingThreads: TaskExecutor, @unchecked Sendable {
    // SAFETY: `jobs` and `idle` are touched under `condition` only.
    static let shared = BlockingThreads()
    /// For what computes for minutes, and would make tests that wait for each other late.
    static let background = BlockingThreads(niceness: 19)

    private let niceness: Int32
    private let condition = NSCondition()
    private var jobs: [UnownedJob] = []
    private var idle = 0

    private init(niceness: Int32 = 0) { self.niceness = niceness }

    /// Takes a job from any thread.
    public func enqueue(_ job: consuming ExecutorJob) {
        let job = UnownedJob(job)
        condition.lock()
        defer { condition.unlock() }
        jobs.append(job)
        if jobs.count <= idle {
            condition.signal()
        } else {
            Thread.detachNewThread { self.serve() }
        }
    }

    private func serve() {
        // Of this thread alone (setpriority(2), "C library/kernel differences").
        if niceness > 0 { _ = setpriority(__priority_which_t(PRIO_PROCESS.rawValue), 0, niceness) }
        while true {
            let job = next()
            unsafe job.runSynchronously(on: asUnownedTaskExecutor())
        }
    }

    private func next() -> UnownedJob {
        condition.lock()
        defer { condition.unlock() }
        idle += 1
        while jobs.isEmpty { condition.wait() }
        idle -= 1
        return jobs.removeFirst()
    }
}

/// The tests of a suite block: they run on `BlockingThreads`.
public struct BlockingTrait: SuiteTrait, TestTrait, TestScoping {
    fileprivate let threads: BlockingThreads

    /// Holds for every test of the suite.
    public var isRecursive: Bool { true }

    /// Runs the test case away from the runtime's own threads.
    public func provideScope(
        for test: Test, testCase: Test.Case?, performing function: @Sendable () async throws -> Void
    ) async throws {
        guard testCase != nil else { return try await function() }
        try await withTaskExecutorPreference(threads) { try await function() }
    }
}

extension Trait where Self == BlockingTrait {
    /// For tests that wait for sockets, processes or threads without `await`.
    public static var blocking: Self { Self(threads: .shared) }
    /// For tests that compute for long without `await`: others go first.
    public static var background: Self { Self(threads: .background) }
}
