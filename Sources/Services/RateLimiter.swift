import Core

/// Spaces out units so that their rate stays below a ceiling (the generic cell rate algorithm).
///
/// It keeps one number: when the next unit would be due at the allowed rate. A unit is let through while that
/// moment is not in the future; its cost then moves the moment forward. A pause earns at most `burst`.
struct TokenBucket {
    /// Nanoseconds that one unit takes at the allowed rate.
    private let nanosecondsPerUnit: Double
    /// How much idle time is credited, in nanoseconds.
    private let burst: UInt64
    private var due: UInt64

    /// A bucket for `unitsPerSecond` (0 counts as 1), full at `now`.
    init(unitsPerSecond: UInt64, burst: UInt64 = Limits.rateBurstNanoseconds, now: UInt64) {
        nanosecondsPerUnit = 1e9 / Double(max(unitsPerSecond, 1))
        self.burst = burst
        due = now > burst ? now - burst : 0
    }

    /// Nanoseconds until a unit may pass; 0 for at once.
    func wait(now: UInt64) -> UInt64 {
        due > now ? due - now : 0
    }

    /// Takes `units`; allowed when `wait` is 0. A large cost is paid afterwards, by those that follow.
    mutating func take(_ units: UInt64, now: UInt64) {
        let earliest = now > burst ? now - burst : 0
        // A frame's cost is bounded and the slowest rate is one a second, so this fits 64 bits by far.
        due = max(due, earliest) &+ UInt64(min(Double(units) * nanosecondsPerUnit, 9e18))
    }
}

/// The ceilings of one handle: operations and payload bytes a second.
struct RateLimiter {
    private var operations: TokenBucket?
    private var bytes: TokenBucket?

    /// A limiter; nil when there is nothing to limit.
    init?(_ limits: IOLimits, now: UInt64) {
        if limits.iops == nil, limits.bytesPerSecond == nil { return nil }
        operations = limits.iops.map { TokenBucket(unitsPerSecond: $0, now: now) }
        bytes = limits.bytesPerSecond.map { TokenBucket(unitsPerSecond: $0, now: now) }
    }

    /// Nanoseconds until the next request may run; 0 for at once.
    func wait(now: UInt64) -> UInt64 {
        max(operations?.wait(now: now) ?? 0, bytes?.wait(now: now) ?? 0)
    }

    /// Takes one operation of `count` payload bytes.
    mutating func take(count: UInt32, now: UInt64) {
        operations?.take(1, now: now)
        bytes?.take(UInt64(count), now: now)
    }
}
