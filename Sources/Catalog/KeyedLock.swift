import Synchronization

/// Mutual exclusion between tasks, by key; waiting suspends and blocks no thread. First come, first served.
public final class KeyedLock: Sendable {
    private typealias Waiter = CheckedContinuation<Void, Never>
    /// The held keys, each with those who wait for it.
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

    private func acquire(_ key: String) async {
        await withCheckedContinuation { (waiter: Waiter) in
            let isFree = held.withLock { held in
                if held[key] == nil {
                    held[key] = []
                    return true
                }
                held[key]?.append(waiter)
                return false
            }
            if isFree { waiter.resume() }
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
        next?.resume()
    }
}
