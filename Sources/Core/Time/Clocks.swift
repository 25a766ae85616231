/// Time that only goes forward, for deadlines and intervals.
public protocol MonotonicClock: Sendable {
    /// Nanoseconds since an arbitrary point.
    func now() -> UInt64
}

/// The time of day, for what is written into records and tokens.
public protocol WallClock: Sendable {
    /// Seconds since 1970-01-01T00:00:00Z.
    func now() -> UInt64
}
