import Core

/// How much a driver may have at once of sessions that share it: as much as those can bear who ask for one thing at a
/// time.
///
/// A request that is its session's only one in the driver shows how long the driver's queue is: the time by which
/// it takes longer than the quickest such request of late is its wait behind others. Where that is more than the
/// work itself, the window shrinks, else it grows (as LEDBAT has it, RFC 6817). A device that does many things at
/// once keeps a large window, a driver that does one after the other a small one. Now and then the window is at its
/// smallest for a moment, since the quickest time shows only while the driver has little else (as BBR does). No
/// clock, no I/O.
struct DelayWindow {
    private static let whole = 1 << 10
    private static let least = whole >> 4
    /// The window, as a part of the largest, in `whole`ths.
    private var size = whole
    /// The least delay of this period and of the one before, in nanoseconds.
    private var leastNow = UInt64.max
    private var leastBefore = UInt64.max
    private var periodEnd: UInt64 = 0
    /// How many requests more are to find the window at its smallest.
    private var probes = 0
    /// Until when it counts: nobody who is gone keeps it small.
    private var end: UInt64 = 0

    /// What the window is now, where the largest is `most` of something.
    @inline(__always)
    func part(of most: Int, now: UInt64) -> Int {
        if now >= end { return most }
        return most * (probes > 0 ? DelayWindow.least : size) / DelayWindow.whole
    }

    /// The least that a lone request took lately, in nanoseconds.
    @inline(__always)
    var leastDelay: UInt64 { min(leastNow, leastBefore) }

    /// Notes how long a small request, its session's only one, was in the driver, in nanoseconds; `isShared` when
    /// others have something there too.
    mutating func note(delay: UInt64, isShared: Bool, now: UInt64) {
        if now >= periodEnd {
            leastBefore = leastNow
            leastNow = .max
            periodEnd = now &+ Limits.delayPeriodNanoseconds
            probes = Limits.delayProbes
        }
        leastNow = min(leastNow, delay)
        guard isShared else { return }
        end = now &+ Limits.delayValidNanoseconds
        if probes > 0 {
            probes -= 1
            return
        }
        let least = leastDelay
        if delay > least + max(least, Limits.delayNanosecondsMin) {
            size = max(size - size >> 2, DelayWindow.least)
        } else {
            size = min(size + 2, DelayWindow.whole)
        }
    }
}
