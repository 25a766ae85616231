/// A budget that is spent by events and grows back with time.
///
/// A value without a clock: the caller passes the time, so the same code runs under a simulated clock.
public struct TokenBucket: Sendable, Equatable {
    /// Most tokens that can be saved up.
    public let capacity: UInt64
    /// Tokens that come back each second.
    public let tokensPerSecond: UInt64

    private var tokens: UInt64
    private var refilledAt: UInt64

    /// A full bucket.
    ///
    /// - Parameter now: monotonic time in nanoseconds.
    public init(capacity: Int, tokensPerSecond: Int, now: UInt64) {
        self.capacity = UInt64(max(0, capacity))
        self.tokensPerSecond = UInt64(max(0, tokensPerSecond))
        self.tokens = self.capacity
        self.refilledAt = now
    }

    /// Takes one token; false when there is none.
    ///
    /// - Parameter now: monotonic time in nanoseconds; a time before an earlier one counts as that earlier
    ///   one.
    public mutating func take(now: UInt64) -> Bool {
        if tokens == 0 { refill(now: now) }
        guard tokens > 0 else { return false }
        tokens -= 1
        return true
    }

    /// Puts tokens back, up to the capacity.
    public mutating func credit(_ count: Int) {
        tokens = min(capacity, tokens &+ UInt64(max(0, count)))
    }

    private mutating func refill(now: UInt64) {
        guard tokensPerSecond > 0, now > refilledAt else { return }
        let nanosecondsPerToken = max(1, 1_000_000_000 / tokensPerSecond)
        let grown = (now - refilledAt) / nanosecondsPerToken
        guard grown > 0 else { return }
        tokens = min(capacity, tokens + min(grown, capacity))
        refilledAt = tokens == capacity ? now : refilledAt + grown * nanosecondsPerToken
    }
}
