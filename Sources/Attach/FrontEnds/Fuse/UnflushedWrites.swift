/// What a flush that fails may lose: writes that were done and that no flush has made durable. A value without I/O.
struct UnflushedWrites: Sendable {
    /// Writes that were done; a flush makes those durable that were when it began.
    private(set) var done: UInt64
    private var flushed: UInt64 = 0
    /// Another process serves the device as well, and what it writes is not counted here.
    private var isShared: Bool

    /// None, or what another process has left.
    init(hasSome: Bool = false, isShared: Bool = false) {
        done = hasSome ? 1 : 0
        self.isShared = isShared
    }

    /// Whether this process has done writes that may not be durable.
    var hasSome: Bool { done > flushed }

    /// A request was done, which began after so many writes.
    mutating func succeeded(_ operation: BlockOperation, writesBefore: UInt64) {
        switch operation {
        // The kernel says by a hole, too, that a range is to read as zero.
        case .write, .writeZeroes, .discard: done += 1
        case .flush: flushed = max(flushed, writesBefore)
        case .read: break
        }
    }

    /// Whether written data may be lost with a request that fails.
    func isLoss(_ operation: BlockOperation) -> Bool {
        operation.writes && (operation != .flush || isShared || hasSome)
    }

    /// Another process serves the device as well from now on.
    mutating func share() { isShared = true }

    /// This process serves it alone again; the other one may have left some.
    mutating func endShare(hasSome: Bool) {
        guard isShared else { return }
        isShared = false
        if hasSome { done += 1 }
    }
}
