import Core

/// How many events a server may send on a connection: some at once, and one a second after that. More than that has no
/// reason, and each costs its client something. Events of kinds that the client does not know do not count.
///
/// A value without a clock.
struct EventBudget {
    /// Events at once.
    static let burst = 64
    /// Nanoseconds for each one more.
    static let intervalNanoseconds: UInt64 = 1_000_000_000

    private var left = EventBudget.burst
    private var since: UInt64?

    /// Takes one event at `now`, in monotonic nanoseconds; false when there is none left.
    mutating func take(now: UInt64) -> Bool {
        let start = since ?? now
        let earned = now.subtractingSaturated(start) / EventBudget.intervalNanoseconds
        left = min(left + Int(clamping: min(earned, UInt64(EventBudget.burst))), EventBudget.burst)
        since = start.addingSaturated(earned.multipliedSaturated(by: EventBudget.intervalNanoseconds))
        guard left > 0 else { return false }
        left -= 1
        return true
    }
}
