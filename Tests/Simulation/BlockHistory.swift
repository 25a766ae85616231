/// What consumers did to one block, judged as an atomic register.
///
/// Every write has a value of its own. All that is known of a value are two moments: the earliest end of an
/// operation that wrote or read it (from then on it was there) and the latest start of one (until then it was
/// still there). Two values `a` and `b` exclude each other when each is known to have been there before the
/// other was known to be still there; without such a pair there is an order of all operations that explains
/// them (Gibbons and Korach, "Testing Shared Memories", 1997).
public struct BlockHistory {
    private struct Value {
        var name: UInt64
        /// `.max`: neither acknowledged nor seen.
        var firstEnd: UInt64 = .max
        var lastStart: UInt64
        var isPending = true
        var hasFailed = false
        /// Of a failed write: when it had happened, or never would.
        var decidedAt = UInt64.max
        /// Of a failed write that nobody saw: when it was no more on the device.
        var absentSince = UInt64.max
    }

    private var values: [Value]
    /// The latest start of all values that were forgotten.
    private var forgottenStart: UInt64 = 0

    /// The history of a block that holds a value from the start.
    public init(initial: UInt64 = 0) {
        values = [Value(name: initial, firstEnd: 0, lastStart: 0, isPending: false)]
    }

    /// How many values might still be read, or so it seems.
    public var count: Int { values.count }

    /// A write was submitted.
    public mutating func writeStarted(_ name: UInt64, at start: UInt64) {
        values.append(Value(name: name, lastStart: start))
    }

    /// A write failed: it may have happened, or happen in part.
    ///
    /// - Parameter decidedAt: from then on it no longer happens; nil while it may.
    public mutating func writeFailed(_ name: UInt64, decidedAt: UInt64? = nil) {
        for index in 0..<values.count where values[index].name == name {
            values[index].isPending = false
            values[index].hasFailed = true
            if let decidedAt { values[index].decidedAt = min(values[index].decidedAt, decidedAt) }
        }
    }

    /// A write of the value was acknowledged, or a read saw it; what is wrong with that.
    public mutating func observed(_ name: UInt64, start: UInt64, end: UInt64, isWrite: Bool) -> String? {
        var position = values.count - 1
        while position >= 0, values[position].name != name { position -= 1 }
        guard position >= 0 else { return "value \(name) was overwritten long ago, or never written" }
        var value = values[position]
        if isWrite { value.isPending = false }
        value.firstEnd = min(value.firstEnd, end, value.decidedAt)
        value.lastStart = max(value.lastStart, start)
        values[position] = value
        if value.firstEnd < forgottenStart { return "value \(name) came back after it was overwritten" }
        for index in 0..<values.count where index != position {
            let other = values[index]
            if value.firstEnd < other.lastStart && other.firstEnd < value.lastStart {
                return "no order of the writes of \(name) and \(other.name) explains what was seen"
            }
        }
        return nil
    }

    /// Forgets values that nobody can read any more without being wrong.
    ///
    /// - Parameters:
    ///   - now: the moment.
    ///   - oldest: the earliest start of all operations that have not ended.
    ///   - stored: what the device has of the block, at both of its levels.
    public mutating func prune(now: UInt64, oldest: UInt64, stored: (UInt64, UInt64)) {
        var index = 0
        while index < values.count {
            let value = values[index]
            var isForgotten = false
            if value.hasFailed && value.firstEnd == .max {
                let isStored = value.name == stored.0 || value.name == stored.1
                values[index].absentSince = isStored ? .max : min(value.absentSince, now)
                // A read that is under way may have seen it.
                isForgotten = !isStored && value.absentSince < oldest
            } else if isOverwritten(value, oldest) {
                forgottenStart = max(forgottenStart, value.lastStart)
                isForgotten = true
            }
            if isForgotten {
                values.swapAt(index, values.count - 1)
                values.removeLast()
            } else {
                index += 1
            }
        }
    }

    /// Whether whoever reads the value from now on contradicts what is known of another one.
    private func isOverwritten(_ value: Value, _ oldest: UInt64) -> Bool {
        guard !value.isPending, value.firstEnd < oldest, value.lastStart < oldest else { return false }
        for other in values where other.name != value.name {
            if value.firstEnd < other.lastStart && max(other.firstEnd, other.lastStart) < oldest {
                return true
            }
        }
        return false
    }
}
