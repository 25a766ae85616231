import CURing
import Core
import Glibc

/// The machine's clocks.
public struct SystemClock: MonotonicClock, Sendable {
    /// The monotonic clock.
    public init() {}

    /// Nanoseconds of CLOCK_MONOTONIC.
    public func now() -> UInt64 { SystemClock.monotonic() }

    /// Nanoseconds of CLOCK_MONOTONIC.
    @inlinable
    public static func monotonic() -> UInt64 {
        var time = timespec()
        unsafe clock_gettime(CLOCK_MONOTONIC, &time)
        return UInt64(time.tv_sec) &* 1_000_000_000 &+ UInt64(time.tv_nsec)
    }
}

/// The clock for lives: it goes only forward, nobody sets it, and it counts while the machine is suspended.
public struct LifeClock: MonotonicClock, Sendable {
    /// The clock for lives.
    public init() {}

    /// Nanoseconds of CLOCK_BOOTTIME.
    public func now() -> UInt64 {
        var time = timespec()
        unsafe clock_gettime(CLOCK_BOOTTIME, &time)
        return UInt64(time.tv_sec) &* 1_000_000_000 &+ UInt64(time.tv_nsec)
    }
}

/// The machine's time of day.
public struct SystemWallClock: WallClock, Sendable {
    /// The time of day.
    public init() {}

    /// Seconds of CLOCK_REALTIME.
    public func now() -> UInt64 {
        var time = timespec()
        unsafe clock_gettime(CLOCK_REALTIME, &time)
        return UInt64(max(0, time.tv_sec))
    }
}

/// The kernel's random numbers, `getrandom(2)`.
public struct SystemRandom: RandomSource, Sendable {
    /// The kernel's random numbers.
    public init() {}

    /// Unpredictable bytes; blocks only before the kernel's pool is first filled.
    public func bytes(_ count: Int) -> [UInt8] {
        unsafe [UInt8](unsafeUninitializedCapacity: count) { buffer, filled in
            while filled < count {
                let got = unsafe getrandom(buffer.baseAddress.map { unsafe $0 + filled }, count - filled, 0)
                if got > 0 { filled += got } else { precondition(errno == EINTR, "getrandom failed") }
            }
        }
    }
}
