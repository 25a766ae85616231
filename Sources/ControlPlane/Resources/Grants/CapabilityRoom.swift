import Catalog
import Core

/// How many capabilities may be on record.
public struct CapabilityRecordLimits: Sendable, Hashable {
    /// Of all nodes, for what nodes ask for.
    public var all = Limits.capabilityRecordsMax
    /// How many an administrator finds room for beyond that.
    public var reserve = Limits.capabilityRecordsReserve
    /// Of one node.
    public var perNode = Limits.capabilityRecordsPerNodeMax

    /// The defaults.
    public init() {}
}

/// Room for records of capabilities: bounded by node before it is bounded for all.
extension ControlPlane {
    /// Sees to it that one more capability of a node may be on record.
    ///
    /// A node may have as many as it leaves to others, and no more than its most. What has ended and needs no record any
    /// more gives way, the node's own first, then those of whoever has the most. One that was revoked needs its record
    /// until it would have expired: the next start of the server revokes by it. An administrator finds room beyond what
    /// nodes can fill.
    func makeRoom(forCapabilityOf node: NodeRecord, by caller: Caller) async throws(Problem) {
        let group = node.id.hex
        if mayRecord(group, caller) { return }
        await forgetEnded(in: group)
        if mayRecord(group, caller) { return }
        if let largest = store.largestGroup(CapabilityRecord.self)?.group, largest != group {
            await forgetEnded(in: largest)
        }
        guard !mayRecord(group, caller) else { return }
        let own = store.count(CapabilityRecord.self, in: group)
        throw Problem(
            .limitReached,
            "node \(node.name) has \(own) capabilities on record that have not expired, as many as it may have",
            expected: "fewer, or with shorter lives: each counts until it expires, also one that was revoked")
    }

    private func mayRecord(_ group: String, _ caller: Caller) -> Bool {
        let all = store.count(CapabilityRecord.self)
        let most = capabilityRecords
        if caller.isAdmin { return all < most.all + most.reserve }
        let own = store.count(CapabilityRecord.self, in: group)
        return own < most.perNode && own < most.all - all
    }

    /// Removes records of a node's capabilities that have ended for good: that have expired, or are of a node or a volume
    /// that is not there any more or has another epoch.
    ///
    /// - Parameter everything: all of them, however long that takes; otherwise some, and not again at once where there
    ///   were none.
    func forgetEnded(in group: String, everything: Bool = false) async {
        let (wall, life) = (wallClock.now(), lifeClock.now())
        // A clock that is ahead must not make the next start forget what was revoked.
        let (now, isInVain) = live.withLock { live in
            (
                live.cautiousClock.now(wall: wall, monotonic: life),
                live.capabilityLooks[group].map { life < $0 } ?? false
            )
        }
        if isInVain, !everything { return }
        repeat {
            let ended = store.page(CapabilityRecord.self, in: group, limit: Limits.sweepRecordsMax) {
                self.needsNoRecord($0, now: now)
            }
            guard !ended.isEmpty else {
                live.withLock { live in
                    live.capabilityLooks = live.capabilityLooks.filter { life < $0.value }
                    live.capabilityLooks[group] = life.adding(seconds: Limits.capabilityLookSeconds)
                }
                return
            }
            var changes = RecordChanges()
            for stored in ended { changes.delete(stored) }
            do throws(Problem) { try await commit(changes) } catch {
                // A record changed meanwhile, or the catalog is in trouble; whoever needs room asks again.
                logger.warning("ended capabilities were not removed", metadata: ["reason": "\(error.detail)"])
                return
            }
        } while everything
    }

    /// Notes that capabilities may have ended otherwise than by time: who looked in vain for room may look again.
    func capabilitiesHaveEnded() { live.withLock { $0.capabilityLooks.removeAll() } }

    private func needsNoRecord(_ record: CapabilityRecord, now: UInt64) -> Bool {
        if record.expiresAt + 2 * Limits.clockSkewSeconds < now { return true }
        guard let node = store.get(NodeRecord.self, record.nodeName)?.record, node.id == record.nodeID,
            node.keyThumbprint == record.holder
        else { return true }
        guard let target = target(record.kind, record.resourceName),
            target.resource.id == record.resourceID
        else { return true }
        return record.resourceEpoch.map { $0 < target.epoch } ?? false
    }
}

extension Caller {
    var isAdmin: Bool { if case .admin = self { true } else { false } }
}
