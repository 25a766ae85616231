/// How patient a supervisor is. All durations in nanoseconds.
public struct HostPolicy: Sendable, Hashable {
    /// How long a host may take from its spawning until it could serve.
    public var startDeadline: UInt64 = 10_000_000_000
    /// The delay before the host after the second loss in a row; it doubles with every further one.
    public var firstDelay: UInt64 = 100_000_000
    /// The longest such delay.
    public var longestDelay: UInt64 = 10_000_000_000
    /// A host that served as long as this ends the row: after its loss the next starts at once.
    public var stableAfter: UInt64 = 250_000_000
    /// This many losses within `lossWindow` quarantine the pool.
    public var lossesMax = 8
    /// Whether requests fail in quarantine; otherwise they wait for an administrator's restart.
    public var failsInQuarantine = false
    /// See `lossesMax`.
    public var lossWindow: UInt64 = 60_000_000_000
    /// How long a host may take to open its volumes and queues.
    public var openDeadline: UInt64 = 60_000_000_000
    /// How long an upgrade waits for the old host to finish what it has, before it takes over anyway.
    public var quiesceDeadline: UInt64 = 500_000_000
    /// Beside a burst, a host may send one packet that answers nothing in each such time.
    public var unaskedPacketInterval: UInt64 = 200_000

    /// The defaults.
    public init() {}

    /// The delay before the next start after this many losses in a row, the last one included.
    func delay(lossesInARow: Int) -> UInt64 {
        if lossesInARow < 2 { return 0 }
        var delay = firstDelay
        for _ in 2..<min(lossesInARow, 64) where delay < longestDelay { delay *= 2 }
        return min(delay, longestDelay)
    }
}
