import Capability
import Catalog
import Core
import HTTPTypes
import Services
import TLS

extension ControlPlane {
    /// `GET /v1/capabilities`: without the tokens, which are not kept; a node sees its own.
    func listCapabilities(_ context: RequestContext) async throws(Problem) -> ControlResponse {
        let page = try context.page()
        let node = try context.nameFilter("node")
        let resource = try context.resourceFilter()
        let isRevoked = try context.optionalFlag("revoked")
        let own = context.caller.node?.id
        let found = store.page(
            CapabilityRecord.self, in: own?.hex, after: page.after, limit: page.limit + 1
        ) { record in
            (node == nil || record.nodeName == node) && (resource == nil || record.resourceName == resource)
                && (isRevoked == nil || (self.end(of: record) != nil) == isRevoked)
        }
        return page.answer(found.map { ($0.record.recordKey, json($0.record)) })
    }

    /// `GET /v1/capabilities/{id}`
    func showCapability(_ context: RequestContext) async throws(Problem) -> ControlResponse {
        ControlResponse(status: .ok, json: json(try capability(context).record))
    }

    /// `POST /v1/capabilities`: a token for a node's key, within what one grant allows.
    func issueCapability(_ context: RequestContext) async throws(Problem) -> ControlResponse {
        let wish = try CapabilityWish(context)
        for _ in 1..<Limits.issueTriesMax {
            do throws(Problem) { return try await issue(wish, context) } catch {
                // The volume was fenced, say, while the capability was made: that would be refused for good.
                guard error.code == .conflict else { throw error }
            }
        }
        return try await issue(wish, context)
    }

    private func issue(_ wish: CapabilityWish, _ context: RequestContext) async throws(Problem)
        -> ControlResponse
    {
        let storedNode = try node(wish.node)
        let node = storedNode.record
        guard let holder = node.keyThumbprint else {
            throw Problem(.notEnrolled, "node \(node.name) has not enrolled: it has no key", field: "node")
        }
        // A node learns nothing of volumes that it has no grant on, not even whether they exist.
        if context.caller.node != nil, !hasGrant(node, onVolume: wish.volume) {
            throw noGrant(wish, node: node)
        }
        let storedVolume = try readyVolume(wish.volume)
        let volume = storedVolume.record
        let grant = try choose(wish, node: node, volume: volume)
        try await makeRoom(forCapabilityOf: node, by: context.caller)
        return try await locks.withLock("grant/\(grant.name)") { () async throws(Problem) in
            // The grant may have changed while we waited for it.
            guard let current = store.get(GrantRecord.self, grant.name), current.record == grant else {
                throw Problem(.conflict, "the grant was changed just now: repeat the request")
            }
            let now = wallClock.now()
            let capability = CapabilityRecord(
                id: .random(using: random), grant: grant, resourceEpoch: volume.epoch,
                rights: wish.rights ?? grant.rights,
                range: wish.range ?? grant.range, limits: wish.limits(under: grant.limits),
                delegationDepth: wish.delegationDepth ?? grant.delegationDepth, holder: holder,
                keyID: Hex.encode(authority.signingKey.id), issuedAt: now,
                expiresAt: now + wish.lifetime(under: grant, now: now))
            let token = try mint(capability, node: node, volume: volume)
            guard case .object(var members) = json(capability) else {
                throw Problem(.internalError, "a capability is not an object")
            }
            let stored = JSONValue.object(members)
            members["token"] = .string(token.text)
            let response = ControlResponse(
                status: .created, json: .object(members), location: "/v1/capabilities/\(capability.id)")
            var changes = RecordChanges()
            try Problem.translating { () throws(CatalogError) in try changes.insert(capability) }
            changes.require(current)
            changes.require(storedNode)
            changes.require(storedVolume)
            try record(
                response, for: context, in: &changes, body: stored,
                sealed: sealToken(token.text, for: context))
            try await commit(changes)
            counters.update { $0.capabilitiesIssued += 1 }
            audit(
                "capability issued", context,
                [
                    "capability": capability.id.hex, "node": node.name, "resource": "volume/\(volume.name)",
                    "rights": capability.rights.names.joined(separator: ","),
                    "expires": Timestamp.text(capability.expiresAt),
                ])
            await sweep()
            return response
        }
    }

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
            guard case .object(var members) = json(revoked) else {
                throw Problem(.internalError, "a capability is not an object")
            }
            members["warning"] = remainder(of: revoked).map(JSONValue.string)
            return ControlResponse(status: .ok, json: .object(members))
        }
    }

    // MARK: Steps

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

    private func capability(_ context: RequestContext) throws(Problem) -> Stored<CapabilityRecord> {
        let text = context.parameters["id"] ?? ""
        guard let id = context.id, let stored = store.get(CapabilityRecord.self, id.hex),
            context.caller.node.map({ $0.id == stored.record.nodeID }) ?? true
        else { throw Problem.notFound("capability", text) }
        return stored
    }

    /// Capabilities that have neither ended nor been revoked.
    func liveCapabilities(where isIncluded: (CapabilityRecord) -> Bool) -> [Stored<CapabilityRecord>] {
        let now = wallClock.now()
        return store.all(CapabilityRecord.self) { record in
            record.revokedAt == nil && record.expiresAt + Limits.clockSkewSeconds >= now && isIncluded(record)
        }
    }

    /// Writes `changes` with the revocations of `capabilities`, then puts them in force on every reactor.
    func revoke(
        _ capabilities: [Stored<CapabilityRecord>], reason: String, with changes: RecordChanges,
        by caller: Caller? = nil
    ) async throws(Problem) {
        var changes = changes
        let now = wallClock.now()
        var rest = capabilities[...]
        repeat {
            for stored in rest.prefix(Limits.cascadeRecordsMax) {
                var record = stored.record
                record.revokedAt = now
                record.reason = reason
                let revoked = record
                try Problem.translating { () throws(CatalogError) in
                    try changes.put(revoked, over: stored.revision)
                }
            }
            rest = rest.dropFirst(Limits.cascadeRecordsMax)
            if !changes.isEmpty { try await commit(changes) }
            changes = RecordChanges()
        } while !rest.isEmpty
        // Together: each look at what is open costs, and nobody is to make that dear.
        let ends = capabilities.map { (id: $0.record.id, expiry: $0.record.expiresAt) }
        if ends.count == 1 {
            try await perform(.revokeCapability(ends[0].id, expiry: ends[0].expiry, reason: reason))
        } else if !ends.isEmpty {
            try await perform(.revokeCapabilities(ends, reason: reason))
        }
        for stored in capabilities {
            counters.update { $0.capabilitiesRevoked += 1 }
            // A node that gives its own back keeps its grant, as it should.
            let remainder = caller?.node == nil ? remainder(of: stored.record) : nil
            events.append(
                .capabilityRevoked, subject: "capability/\(stored.record.id.hex)",
                message: "of node \(stored.record.nodeName): \(reason)"
                    + (remainder.map { "; \($0)" } ?? ""),
                by: caller?.node.map { "node:\($0.name)" })
        }
    }

    private func enforce(_ record: CapabilityRecord) async throws(Problem) {
        guard record.expiresAt + Limits.clockSkewSeconds >= wallClock.now() else { return }
        try await perform(
            .revokeCapability(record.id, expiry: record.expiresAt, reason: record.reason ?? "revoked"))
    }

    private func choose(
        _ wish: CapabilityWish, node: NodeRecord, volume: VolumeRecord
    ) throws(Problem) -> GrantRecord {
        let now = wallClock.now()
        let grants = store.all(GrantRecord.self, in: node.id.hex) { grant in
            grant.resourceID == volume.id && grant.expiresAt ?? .max > now
                && (wish.grant == nil || grant.name == wish.grant)
        }.map(\.record)
        guard let first = grants.first else { throw noGrant(wish, node: node) }
        if let grant = grants.first(where: { wish.excess(over: $0) == nil }) { return grant }
        let excess = wish.excess(over: first)
        throw Problem(
            .beyondGrant, "the request asks for more than grant \(first.name) allows", field: excess?.field,
            expected: excess?.allowed)
    }

    /// Whether a node has a grant that counts on the volume that has this name now.
    private func hasGrant(_ node: NodeRecord, onVolume name: String) -> Bool {
        guard let volume = store.get(VolumeRecord.self, name)?.record else { return false }
        let now = wallClock.now()
        return !store.page(GrantRecord.self, in: node.id.hex, limit: 1) { grant in
            grant.resourceID == volume.id && grant.expiresAt ?? .max > now
        }.isEmpty
    }

    private func noGrant(_ wish: CapabilityWish, node: NodeRecord) -> Problem {
        Problem(
            .noGrant,
            "node \(node.name) has no grant\(wish.grant.map { " \($0)" } ?? "") on volume/\(wish.volume)",
            expected: "a grant, which an administrator makes ('sluice grant create')")
    }

    private func mint(
        _ record: CapabilityRecord, node: NodeRecord, volume: VolumeRecord
    ) throws(Problem) -> Capability {
        let claims = Claims(
            issuer: authority.clusterID, audience: authority.clusterID, capability: record.id,
            subject: node.id,
            issuedAt: record.issuedAt, notBefore: record.notBefore, expiry: record.expiresAt,
            holder: record.holder, kind: record.kind, resource: volume.id, rights: record.rights,
            range: record.range, limits: record.limits, resourceEpoch: volume.epoch, nodeEpoch: node.epoch,
            delegationDepth: record.delegationDepth)
        do throws(CapabilityError) {
            return try Capability.mint(
                claims, keyID: authority.signingKey.id, signer: authority.signingKey.signer,
                keys: OpenSSLSignatures())
        } catch {
            throw Problem(.internalError, "the capability could not be signed: \(error)")
        }
    }

    /// When and why a capability stopped counting other than by its expiry; nil when it did not.
    func end(of record: CapabilityRecord) -> (at: UInt64?, reason: String)? {
        if let at = record.revokedAt { return (at, record.reason ?? "revoked") }
        guard let volume = store.get(VolumeRecord.self, record.resourceName)?.record,
            volume.id == record.resourceID, volume.state != .deleting
        else { return (nil, "volume \(record.resourceName) was deleted") }
        if record.resourceEpoch.map({ $0 != volume.epoch }) ?? false {
            return (nil, "volume \(record.resourceName) was given a new epoch, as a fence does")
        }
        guard let node = store.get(NodeRecord.self, record.nodeName), node.record.id == record.nodeID else {
            return (nil, "node \(record.nodeName) was removed")
        }
        if node.record.keyThumbprint != record.holder {
            return (node.record.enrolledAt, "node \(record.nodeName) has enrolled with another key")
        }
        return nil
    }

    private func json(_ record: CapabilityRecord) -> JSONValue {
        let end = end(of: record)
        var members: [String: JSONValue] = [
            "id": .string(record.id.hex), "node": .string(record.nodeName),
            "nodeID": .string(record.nodeID.hex),
            "grant": .string(record.grantName),
            "resource": .string("\(record.kind.name)/\(record.resourceName)"),
            "resourceID": .string(record.resourceID.hex), "rights": .strings(record.rights.names),
            "range": record.range.json, "limits": record.limits.json,
            "delegationDepth": .integer(UInt64(record.delegationDepth)), "holder": .string(record.holder.hex),
            "keyID": .string(record.keyID), "issuedAt": .string(Timestamp.text(record.issuedAt)),
            "notBefore": .string(Timestamp.text(record.notBefore)),
            "expiresAt": .string(Timestamp.text(record.expiresAt)), "revoked": .bool(end != nil),
        ]
        if let end {
            members["reason"] = .string(end.reason)
            members["revokedAt"] = end.at.map { .string(Timestamp.text($0)) }
        }
        return .object(members)
    }
}

/// What somebody wants a capability for.
private struct CapabilityWish {
    let node: String
    let volume: String
    let rights: Rights?
    let range: ByteRange?
    let limits: IOLimits?
    let lifetimeSeconds: UInt64?
    let lifetimeSecondsWanted: UInt64?
    let delegationDepth: UInt8?
    let grant: String?

    init(_ context: RequestContext) throws(Problem) {
        let fields = try context.fields(known: [
            "resource", "rights", "range", "limits", "lifetimeSeconds", "lifetimeSecondsWanted",
            "delegationDepth", "grant", "node",
        ])
        volume = try fields.requiredVolume()
        rights = try fields.rights()
        range = try fields.range()
        limits = try fields.limits()
        lifetimeSeconds = try fields.integer("lifetimeSeconds", in: 1...Limits.grantLifetimeSecondsMax)
        lifetimeSecondsWanted = try fields.integer(
            "lifetimeSecondsWanted", in: 1...Limits.grantLifetimeSecondsMax)
        guard lifetimeSeconds == nil || lifetimeSecondsWanted == nil else {
            throw Problem(
                .invalidField, "lifetimeSeconds and lifetimeSecondsWanted exclude each other",
                field: "lifetimeSecondsWanted",
                expected: "one of them: the first is refused where the grant allows less, the second is cut")
        }
        delegationDepth = try fields.integer("delegationDepth", in: 0...Limits.delegationDepthMax).map {
            UInt8($0)
        }
        grant = try fields.resourceName("grant")
        let named = try fields.resourceName("node")
        if let own = context.caller.node {
            guard named == nil || named == own.name else {
                throw Problem(
                    .forbidden, "a node issues capabilities for itself only", field: "node",
                    expected: own.name)
            }
            node = own.name
        } else {
            guard let named else {
                throw Problem(
                    .missingField,
                    "a capability is for a node's key, and \(context.caller.name) is no node", field: "node",
                    expected: "the node that the capability is for")
            }
            node = named
        }
    }

    /// The ceilings that result: those asked for, the grant's where none was asked for.
    func limits(under ceiling: IOLimits) -> IOLimits {
        IOLimits(
            iops: limits?.iops ?? ceiling.iops,
            bytesPerSecond: limits?.bytesPerSecond ?? ceiling.bytesPerSecond)
    }

    func lifetime(under grant: GrantRecord, now: UInt64) -> UInt64 {
        let wanted =
            lifetimeSeconds
            ?? min(lifetimeSecondsWanted ?? Limits.capabilitySecondsDefault, grant.lifetimeSecondsMax)
        guard let end = grant.expiresAt else { return wanted }
        return min(wanted, end - min(now, end - 1))
    }

    /// The first field that asks for more than the grant allows, and what it allows; nil when all is within.
    func excess(over grant: GrantRecord) -> (field: String, allowed: String)? {
        if let rights, !rights.isSubset(of: grant.rights) {
            return ("rights", "at most \(grant.rights.names.joined(separator: ", "))")
        }
        if let range, !grant.covers(range) {
            return ("range", grant.range.map { "within bytes \($0)" } ?? "any")
        }
        if !grant.covers(limits(under: grant.limits)) { return ("limits", "at most the grant's limits") }
        if let lifetimeSeconds, lifetimeSeconds > grant.lifetimeSecondsMax {
            return ("lifetimeSeconds", "at most \(grant.lifetimeSecondsMax)")
        }
        if let delegationDepth, delegationDepth > grant.delegationDepth {
            return ("delegationDepth", "at most \(grant.delegationDepth)")
        }
        return nil
    }
}
