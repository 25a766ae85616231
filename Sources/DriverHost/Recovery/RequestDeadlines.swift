import Core

/// How long a host may take for a request before it counts as hung, by class, in nanoseconds.
public struct RequestDeadlines: Sendable, Hashable {
    /// Reads and writes.
    public var transfer: UInt64
    /// Flushes.
    public var flush: UInt64
    /// Zeroes and discards, which may cover any range.
    public var space: UInt64
    /// More time for these, for each MiB that they cover: a device may have to write it.
    public var spaceMebibyte: UInt64 = 100_000_000
    /// Requests of somebody who was cut off, from then on.
    public var withdrawn: UInt64

    /// Deadlines, by default those of a healthy device with a lot to do.
    public init(
        transfer: UInt64 = 30_000_000_000, flush: UInt64 = 120_000_000_000, space: UInt64 = 300_000_000_000,
        withdrawn: UInt64 = Limits.withdrawnNanoseconds
    ) {
        self.transfer = transfer
        self.flush = flush
        self.space = space
        self.withdrawn = withdrawn
    }
}
