import Core

/// Counters of all data channels since the server started.
public struct Statistics: Sendable, Hashable {
    /// Sessions that exist.
    public internal(set) var sessions = 0
    /// Channels that are connected.
    public internal(set) var channels = 0
    /// Handles that are open.
    public internal(set) var handles = 0
    /// Requests that are not answered yet.
    public internal(set) var inFlight = 0
    /// READ requests.
    public internal(set) var reads: UInt64 = 0
    /// WRITE requests.
    public internal(set) var writes: UInt64 = 0
    /// FLUSH requests.
    public internal(set) var flushes: UInt64 = 0
    /// DISCARD and WRITE_ZEROES requests.
    public internal(set) var discards: UInt64 = 0
    /// OPEN, CLOSE and the other control requests.
    public internal(set) var controls: UInt64 = 0
    /// Payload bytes read.
    public internal(set) var bytesRead: UInt64 = 0
    /// Payload bytes written.
    public internal(set) var bytesWritten: UInt64 = 0
    /// By pool: requests that wait because its driver is away.
    public internal(set) var waitingForDriver: [String: UInt64] = [:]
    /// Requests that waited for a limit.
    public internal(set) var delayed: UInt64 = 0
    /// Channels whose next request finds no room in the buffers of a pool, or in its node's part of them.
    public internal(set) var waitingForRoom = 0
    /// What nodes have of the buffers of pools, in bytes; those that have something.
    public internal(set) var bufferBytes: [Identifier: Int] = [:]
    /// Requests that were answered with a status other than `ok`, by status.
    public internal(set) var refusals: [Status: UInt64] = [:]

    /// No counts.
    public init() {}

    /// Adds the counts of another shard.
    mutating func add(_ other: Statistics) {
        sessions += other.sessions
        channels += other.channels
        handles += other.handles
        inFlight += other.inFlight
        reads += other.reads
        writes += other.writes
        flushes += other.flushes
        discards += other.discards
        controls += other.controls
        bytesRead += other.bytesRead
        bytesWritten += other.bytesWritten
        delayed += other.delayed
        waitingForRoom += other.waitingForRoom
        bufferBytes.merge(other.bufferBytes, uniquingKeysWith: +)
        waitingForDriver.merge(other.waitingForDriver, uniquingKeysWith: +)
        refusals.merge(other.refusals, uniquingKeysWith: +)
    }
}
