import Capability
import Catalog
import Core
import Logging

extension ControlPlane {
    /// Removes records that have ended: capabilities and tokens an hour after their expiry, recorded answers after
    /// a day, and the oldest recorded answers of whoever has the most, above their maximum. At most every few
    /// minutes, when something is written anyway.
    func sweep(force: Bool = false) async {
        let (wall, life) = (wallClock.now(), lifeClock.now())
        let excess = store.count(IdempotencyRecord.self) - Limits.idempotencyRecordsMax
        let past = live.withLock { live -> UInt64? in
            guard
                force || excess >= Limits.sweepRecordsMax / 2
                    || life >= live.lastSweep.adding(seconds: Limits.sweepSeconds)
            else { return nil }
            live.lastSweep = life
            return live.cautiousClock.now(wall: wall, monotonic: life)
        }
        guard let now = past else { return }
        var changes = RecordChanges()
        var room = Limits.sweepRecordsMax
        func take<Value: Record>(_ type: Value.Type, where isEnded: (Value) -> Bool) {
            for stored in store.page(type, limit: room, where: isEnded) {
                changes.delete(stored)
                room -= 1
            }
        }
        take(CapabilityRecord.self) { $0.expiresAt + Limits.expiredRecordSeconds < now }
        take(TokenRecord.self) { $0.expiresAt + Limits.expiredRecordSeconds < now }
        take(IdempotencyRecord.self) { record in
            record.createdAt + Limits.idempotencySeconds < now
                // Earlier versions stored the answer with its token.
                || record.sealed == nil && record.body.contains(Capability.textPrefix)
        }
        if excess > 0, changes.isEmpty {
            // Those of whoever has the most go: nobody can make the server forget what it answered to others.
            let group = store.largestGroup(IdempotencyRecord.self)?.group
            let oldest = store.all(IdempotencyRecord.self, in: group).sorted {
                $0.record.createdAt < $1.record.createdAt
            }
            for stored in oldest.prefix(min(excess, Limits.sweepRecordsMax)) { changes.delete(stored) }
        }
        guard !changes.isEmpty else { return }
        do throws(Problem) {
            try await commit(changes)
        } catch {
            // A record changed meanwhile, or the catalog is in trouble; the next sweep tries again.
            logger.warning("expired records were not removed", metadata: ["reason": "\(error.detail)"])
        }
    }
}
