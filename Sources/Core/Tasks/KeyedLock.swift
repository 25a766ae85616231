import Synchronization

/// Whether what a task does goes before what others do: it takes authority away, so that nobody may have it wait.
public enum Urgency {
    /// Set for the time of such a task.
    @TaskLocal public static var isUrgent = false
}

/// Mutual exclusion between tasks, by key; waiting suspends and blocks no thread. First come, first served, but for urgent
/// tasks, which come before all that are not.
public final class KeyedLock: Sendable {
    private struct Waiter {
        let isUrgent: Bool
        let continuation: CheckedContinuation<Void, Never>
    }

    /// The held keys, each with those who wait for it: the urgent ones first.
    private let held = Mutex<[String: [Waiter]]>([:])

    /// A lock that nobody holds.
    public init() {}

    /// Runs `body` while holding `key`. Not reentrant.
    public func withLock<Value, Failure: Error>(
        _ key: String, isolation: isolated (any Actor)? = #isolation,
        _ body: () async throws(Failure) -> Value
    ) async throws(Failure) -> Value {
        await acquire(key)
        defer { release(key) }
        return try await body()
    }

    /// Runs `body` while holding all `keys`; taken in order, so that two callers cannot wait for each other.
    public func withLocks<Value, Failure: Error>(
        _ keys: Set<String>, isolation: isolated (any Actor)? = #isolation,
        _ body: () async throws(Failure) -> Value
    ) async throws(Failure) -> Value {
        let ordered = keys.sorted()
        for key in ordered { await acquire(key) }
        defer { for key in ordered { release(key) } }
        return try await body()
    }

    /// How many tasks wait for a key, for tests.
    public func waiting(_ key: String) -> Int { held.withLock { $0[key]?.count ?? 0 } }

    private func acquire(_ key: String) async {
        let isUrgent = Urgency.isUrgent
        await withCheckedContinuation { (continuation: CheckedContinuation<Void, Never>) in
            let isFree = held.withLock { held in
                guard let waiters = held[key] else {
                    held[key] = []
                    return true
                }
                let place = isUrgent ? waiters.firstIndex { !$0.isUrgent } : nil
                held[key]?.insert(
                    Waiter(isUrgent: isUrgent, continuation: continuation), at: place ?? waiters.count)
                return false
            }
            if isFree { continuation.resume() }
        }
    }

    private func release(_ key: String) {
        let next = held.withLock { held -> Waiter? in
            guard var waiters = held[key], !waiters.isEmpty else {
                held[key] = nil
                return nil
            }
            let next = waiters.removeFirst()
            held[key] = waiters
            return next
        }
        next?.continuation.resume()
    }
}
