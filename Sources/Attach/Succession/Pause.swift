import Glibc
import Reactor

/// Pauses between two looks at what says nothing when it changes. Not for a reactor's thread.
enum Pause {
    /// Blocks for the whole time, whatever signals come.
    static func microseconds(_ count: UInt32) {
        let until = SystemClock.monotonic() + UInt64(count) * 1000
        var due = timespec(tv_sec: Int(until / 1_000_000_000), tv_nsec: Int(until % 1_000_000_000))
        while unsafe clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &due, nil) == EINTR {}
    }
}
