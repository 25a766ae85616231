/// The time of day for forgetting what has ended, such as what was revoked: a clock that is ahead for a while must not
/// make anybody forget what counts again once it is right.
///
/// It follows the time of day, backward at once, and forward by more than a few seconds only when that has lasted for an
/// hour. It never is ahead of the time of day. One user at a time.
public struct CautiousClock: Sendable {
    /// How long a step forward must have lasted, in seconds.
    public static let patienceSeconds: UInt64 = 3600
    /// What is no step, in seconds: between two looks clocks drift.
    static let driftSeconds: Int64 = 2

    /// By how much the time of day is believed to be ahead of the monotonic clock, in seconds.
    private var offset: Int64?
    /// A step forward that is not believed yet, and since when it is there by the monotonic clock.
    private var step: (offset: Int64, since: UInt64)?

    /// A clock that believes the time of day at its first look.
    public init() {}

    /// Unix seconds, given the time of day in Unix seconds and the monotonic clock in nanoseconds.
    public mutating func now(wall: UInt64, monotonic: UInt64) -> UInt64 {
        let elapsed = Int64(monotonic / 1_000_000_000)
        let current = Int64(clamping: wall) - elapsed
        let believed = offset ?? current
        guard current > believed + CautiousClock.driftSeconds else {
            offset = current
            step = nil
            return wall
        }
        offset = believed
        if let step, current >= step.offset - CautiousClock.driftSeconds {
            if monotonic >= step.since.adding(seconds: CautiousClock.patienceSeconds) {
                offset = step.offset
                self.step = current > step.offset + CautiousClock.driftSeconds ? (current, monotonic) : nil
            }
        } else {
            step = (current, monotonic)
        }
        return UInt64(max(0, min((offset ?? 0) + elapsed, Int64(clamping: wall))))
    }
}
