/// Ends that others name as a time of day, and that we wait for by a clock that nobody sets.
public enum Lifetime {
    /// When something ends by a monotonic clock, in its nanoseconds, whose end is `expiry` in Unix seconds. The caller
    /// measures this once; no later step of the time of day makes the life longer or shorter. What has ended by the time
    /// of day ends at once; what would never end ends with the clock.
    public static func deadline(expiry: UInt64, wall: UInt64, monotonic: UInt64) -> UInt64 {
        guard expiry > wall else { return monotonic }
        return monotonic.adding(seconds: expiry - wall)
    }
}

extension UInt64 {
    /// These nanoseconds and so many seconds; the largest number where that is more.
    public func adding(seconds: UInt64) -> UInt64 {
        addingSaturated(Nanoseconds.seconds(seconds))
    }
}
