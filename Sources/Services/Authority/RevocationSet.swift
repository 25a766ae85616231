import Core
import HeapModule

/// The capability ids that no longer count, each kept until the capability would have expired anyway.
///
/// Forgetting an id is safe only after its expiry, so a full set refuses a new one rather than drop one that
/// still matters.
struct RevocationSet {
    private struct Due: Comparable {
        let expiry: UInt64
        let id: Identifier
        static func < (left: Due, right: Due) -> Bool {
            (left.expiry, left.id) < (right.expiry, right.id)
        }
    }

    private var reasons: [Identifier: String] = [:]
    private var byExpiry = Heap<Due>()
    private let capacity: Int

    init(capacity: Int = Limits.revocationsMax) {
        self.capacity = capacity
    }

    /// How many ids are held.
    var count: Int { reasons.count }

    /// Adds an id; false when the set is full of ids that still matter.
    mutating func insert(_ id: Identifier, expiry: UInt64, reason: String, now: UInt64) -> Bool {
        forgetExpired(now: now)
        if reasons[id] != nil { return true }
        guard reasons.count < capacity else { return false }
        reasons[id] = reason
        byExpiry.insert(Due(expiry: expiry, id: id))
        return true
    }

    /// Why `id` was revoked; nil when it was not.
    func reason(_ id: Identifier) -> String? { reasons[id] }

    /// Drops ids of capabilities that expired longer ago than clocks may differ.
    mutating func forgetExpired(now: UInt64) {
        while let first = byExpiry.min, Self.isPast(first.expiry, now: now) {
            byExpiry.removeMin()
            reasons[first.id] = nil
        }
    }

    private static func isPast(_ expiry: UInt64, now: UInt64) -> Bool {
        let (end, overflow) = expiry.addingReportingOverflow(2 * Limits.clockSkewSeconds)
        return !overflow && end < now
    }
}
