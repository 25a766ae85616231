/// When to say again that something is still wrong: soon at first, then in intervals that double.
struct ReportTimes: Equatable {
    /// Nanoseconds.
    private var interval: UInt64
    private let longest: UInt64
    /// Monotonic nanoseconds.
    private(set) var next: UInt64

    /// The first repeat is due `firstSeconds` after `now`; intervals grow to `longestSeconds`.
    init(now: UInt64, firstSeconds: UInt64, longestSeconds: UInt64) {
        interval = firstSeconds * 1_000_000_000
        longest = longestSeconds * 1_000_000_000
        next = now + interval
    }

    /// Whether it is to be said again now; if so, the next time is later.
    mutating func isDue(_ now: UInt64) -> Bool {
        guard now >= next else { return false }
        interval = min(interval * 2, longest)
        next = now + interval
        return true
    }
}
