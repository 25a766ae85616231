import Core

/// Now, by both clocks. The time of day is what people read and what others have signed; how long something lasts is
/// measured by the other, which no administrator and no time server sets.
struct Moment: Sendable, Hashable {
    /// Unix seconds.
    let wall: UInt64
    /// Nanoseconds of the monotonic clock.
    let life: UInt64

    /// When something ends whose end is `expiry` in Unix seconds, in nanoseconds of the monotonic clock.
    func deadline(expiry: UInt64) -> UInt64 {
        Lifetime.deadline(expiry: expiry, wall: wall, monotonic: life)
    }
}

extension IOServices {
    /// Now.
    var now: Moment { Moment(wall: configuration.wallClock.now(), life: configuration.lifeClock.now()) }
}
