import Catalog
import Core
import HTTPTypes
import Services

/// What ends capabilities before their time.
extension ControlPlane {
    /// `POST /v1/capabilities/{id}/revoke`: durable and in force on every reactor before the answer.
    func revokeCapability(_ context: RequestContext) async throws(Problem) -> ControlResponse {
        let fields = try context.fields(known: ["reason"])
        let reason = try fields.text("reason", bytesMax: Limits.reasonBytesMax) ?? "revoked"
        let text = context.parameters["id"] ?? ""
        return try await locks.withLock("capability/\(text.prefix(64))") { () async throws(Problem) in
            let stored = try capability(context)
            if stored.record.revokedAt == nil {
                try await revoke(
                    [stored], reason: reason, with: RecordChanges(), by: context.caller)
                audit(
                    "capability revoked", context,
                    [
                        "capability": stored.record.id.hex, "node": stored.record.nodeName,
                        "resource": "\(stored.record.kind.name)/\(stored.record.resourceName)",
                        "reason": reason,
                    ])
            } else {
                // A repeat makes sure of it: the first answer may have been lost before it was in force.
                try await enforce(stored.record)
            }
            let revoked = try capability(context).record
            var members = json(revoked).members
            members["warning"] = remainder(of: revoked).map(JSONValue.string)
            return ControlResponse(status: .ok, json: .object(members))
        }
    }

    /// What a node can do after its capability was revoked; nil when that was its last right to the volume.
    private func remainder(of record: CapabilityRecord) -> String? {
        let now = wallClock.now()
        let grants = store.all(GrantRecord.self, in: record.nodeID.hex) { grant in
            grant.resourceID == record.resourceID && grant.expiresAt ?? .max > now
        }.map(\.record.name)
        guard !grants.isEmpty else { return nil }
        return
            "a grant remains, by which node \(record.nodeName) gets a new capability when it asks. To keep it out: "
            + grants.prefix(3).map { "'sluice grant delete \($0)'" }.joined(separator: ", ")
            + (grants.count > 3 ? " and \(grants.count - 3) more" : "")
    }

    /// Capabilities that have neither ended nor been revoked.
    func liveCapabilities(where isIncluded: (CapabilityRecord) -> Bool) -> [Stored<CapabilityRecord>] {
        let now = wallClock.now()
        return store.all(CapabilityRecord.self) { record in
            record.revokedAt == nil && record.expiresAt + Limits.clockSkewSeconds >= now && isIncluded(record)
        }
    }

    /// Writes `changes` with the revocations of `capabilities`, and puts these in force on every reactor. Where
    /// they are too many for one transaction, the first ones are written before `changes`: whoever repeats a
    /// request that failed in between finds what is left.
    func revoke(
        _ capabilities: [Stored<CapabilityRecord>], reason: String, with changes: RecordChanges,
        by caller: Caller? = nil
    ) async throws(Problem) {
        let now = wallClock.now()
        var written: ArraySlice<Stored<CapabilityRecord>> = []
        var failure: Problem?
        repeat {
            let piece = capabilities.dropFirst(written.count).prefix(Limits.cascadeRecordsMax)
            let isLast = written.count + piece.count == capabilities.count
            do throws(Problem) {
                try await commit(piece, revokedAt: now, reason, with: isLast ? changes : RecordChanges())
                written = capabilities.prefix(written.count + piece.count)
            } catch { failure = error }
        } while failure == nil && written.count < capabilities.count
        try await enforce(written, reason: reason)
        for stored in written {
            counters.update { $0.capabilitiesRevoked += 1 }
            // A node that gives its own back keeps its grant, as it should.
            let remainder = caller?.node == nil ? remainder(of: stored.record) : nil
            events.append(
                .capabilityRevoked, subject: "capability/\(stored.record.id.hex)",
                message: "of node \(stored.record.nodeName): \(reason)"
                    + (remainder.map { "; \($0)" } ?? ""),
                by: caller?.node.map { "node:\($0.name)" })
        }
        if let failure { throw failure }
    }

    private func commit(
        _ capabilities: ArraySlice<Stored<CapabilityRecord>>, revokedAt now: UInt64, _ reason: String,
        with changes: RecordChanges
    ) async throws(Problem) {
        var changes = changes
        for stored in capabilities {
            var record = stored.record
            record.revokedAt = now
            record.reason = reason
            let revoked = record
            try Problem.translating { () throws(CatalogError) in
                try changes.put(revoked, over: stored.revision)
            }
        }
        if !changes.isEmpty { try await commit(changes) }
    }

    /// All of them at once, since each look through what is open costs every reactor time.
    private func enforce(
        _ capabilities: ArraySlice<Stored<CapabilityRecord>>, reason: String
    ) async throws(Problem) {
        let ends = capabilities.map { (id: $0.record.id, expiry: $0.record.expiresAt) }
        if ends.count == 1 {
            try await perform(.revokeCapability(ends[0].id, expiry: ends[0].expiry, reason: reason))
        } else if !ends.isEmpty {
            try await perform(.revokeCapabilities(ends, reason: reason))
        }
    }

    private func enforce(_ record: CapabilityRecord) async throws(Problem) {
        guard record.expiresAt + Limits.clockSkewSeconds >= wallClock.now() else { return }
        try await perform(
            .revokeCapability(record.id, expiry: record.expiresAt, reason: record.reason ?? "revoked"))
    }
}
