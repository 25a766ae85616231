import Synchronization

/// One value from one thread to others that wait for it. The first value that is given counts. Any thread.
public final class OneShot<Value: Sendable>: Sendable {
    private let value = Mutex<Value?>(nil)
    private let ready = ThreadSemaphore()

    /// One that has no value yet.
    public init() {}

    /// Gives the value; false when there is one already. Never waits.
    @discardableResult
    public func give(_ value: Value) -> Bool {
        let isFirst = self.value.withLock { known in
            guard known == nil else { return false }
            known = value
            return true
        }
        if isFirst { ready.signal() }
        return isFirst
    }

    /// The value; waits for it. Blocks.
    public func take() -> Value {
        ready.wait()
        return taken()
    }

    /// The value; nil when it does not come within so many milliseconds. Blocks.
    public func take(milliseconds: Int64) -> Value? {
        guard ready.wait(milliseconds: milliseconds) else { return nil }
        return taken()
    }

    private func taken() -> Value {
        // For whoever else waits.
        ready.signal()
        guard let value = value.withLock({ $0 }) else { preconditionFailure("signalled without a value") }
        return value
    }
}
