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
            (node == nil || record.nodeName == node)
                && (resource.map { $0 == (record.kind, record.resourceName) } ?? true)
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
                // The volume was fenced meanwhile, say: the data channel would refuse this capability for good.
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
        // A node learns nothing of what it has no grant on, not even whether that exists.
        if context.caller.node != nil, !hasGrant(node, for: wish) { throw noGrant(wish, node: node) }
        let (target, requireTarget) = try usableTarget(wish.kind, wish.resource)
        let grant = try choose(wish, node: node, resource: target.resource)
        try await makeRoom(forCapabilityOf: node, by: context.caller)
        return try await locks.withLock("grant/\(grant.name)") { () async throws(Problem) in
            // The grant may have changed while we waited for it.
            guard let current = store.get(GrantRecord.self, grant.name), current.record == grant else {
                throw Problem(.conflict, "the grant was changed just now: repeat the request")
            }
            let now = wallClock.now()
            let capability = CapabilityRecord(
                id: .random(using: random), grant: grant, resourceEpoch: target.epoch,
                rights: wish.rights ?? grant.rights,
                range: wish.range ?? grant.range, limits: wish.limits(under: grant.limits),
                delegationDepth: wish.delegationDepth ?? grant.delegationDepth, holder: holder,
                keyID: Hex.encode(authority.signingKey.id), issuedAt: now,
                expiresAt: now + wish.lifetime(under: grant, now: now))
            let token = try mint(capability, node: node, on: target)
            var members = json(capability).members
            let stored = JSONValue.object(members)
            members["token"] = .string(token.text)
            let response = ControlResponse(
                status: .created, json: .object(members), location: "/v1/capabilities/\(capability.id)")
            var changes = RecordChanges()
            try Problem.translating { () throws(CatalogError) in try changes.insert(capability) }
            changes.require(current)
            changes.require(storedNode)
            requireTarget(&changes)
            try record(
                response, for: context, in: &changes, body: stored,
                sealed: sealToken(token.text, for: context))
            try await commit(changes)
            counters.update { $0.capabilitiesIssued += 1 }
            audit(
                "capability issued", context,
                [
                    "capability": capability.id.hex, "node": node.name, "resource": target.resource.text,
                    "rights": capability.rights.names.joined(separator: ","),
                    "expires": Timestamp.text(capability.expiresAt),
                ])
            await sweep()
            return response
        }
    }

    // MARK: Steps

    func capability(_ context: RequestContext) throws(Problem) -> Stored<CapabilityRecord> {
        let text = context.parameters["id"] ?? ""
        guard let id = context.id, let stored = store.get(CapabilityRecord.self, id.hex),
            context.caller.node.map({ $0.id == stored.record.nodeID }) ?? true
        else { throw Problem.notFound("capability", text) }
        return stored
    }

    private func choose(
        _ wish: CapabilityWish, node: NodeRecord, resource: ResourceReference
    ) throws(Problem) -> GrantRecord {
        let now = wallClock.now()
        let grants = store.all(GrantRecord.self, in: node.id.hex) { grant in
            grant.resourceID == resource.id && grant.expiresAt ?? .max > now
                && (wish.grant == nil || grant.name == wish.grant)
        }.map(\.record)
        guard let first = grants.first else { throw noGrant(wish, node: node) }
        if let grant = grants.first(where: { wish.excess(over: $0) == nil }) { return grant }
        let excess = wish.excess(over: first)
        throw Problem(
            .beyondGrant, "the request asks for more than grant \(first.name) allows", field: excess?.field,
            expected: excess?.allowed)
    }

    /// Whether a node has a grant that counts on what has this name now.
    private func hasGrant(_ node: NodeRecord, for wish: CapabilityWish) -> Bool {
        guard let id = target(wish.kind, wish.resource)?.resource.id else { return false }
        let now = wallClock.now()
        return !store.page(GrantRecord.self, in: node.id.hex, limit: 1) { grant in
            grant.resourceID == id && grant.expiresAt ?? .max > now
        }.isEmpty
    }

    private func noGrant(_ wish: CapabilityWish, node: NodeRecord) -> Problem {
        Problem(
            .noGrant,
            "node \(node.name) has no grant\(wish.grant.map { " \($0)" } ?? "") on \(wish.kind.name)/\(wish.resource)",
            expected: "a grant, which an administrator makes ('sluice grant create')")
    }

    private func mint(
        _ record: CapabilityRecord, node: NodeRecord, on target: GrantTarget
    ) throws(Problem) -> Capability {
        let claims = Claims(
            issuer: authority.clusterID, audience: authority.clusterID, capability: record.id,
            subject: node.id,
            issuedAt: record.issuedAt, notBefore: record.notBefore, expiry: record.expiresAt,
            holder: record.holder, kind: record.kind, resource: target.resource.id, rights: record.rights,
            range: record.range, limits: record.limits, resourceEpoch: target.epoch, nodeEpoch: node.epoch,
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
        let resource = "\(record.kind.name) \(record.resourceName)"
        guard let target = target(record.kind, record.resourceName),
            target.resource.id == record.resourceID, !target.isGoing
        else { return (nil, "\(resource) was deleted") }
        if record.resourceEpoch.map({ $0 != target.epoch }) ?? false {
            return (nil, "\(resource) was given a new epoch, as a fence does")
        }
        guard let node = store.get(NodeRecord.self, record.nodeName), node.record.id == record.nodeID else {
            return (nil, "node \(record.nodeName) was removed")
        }
        if node.record.keyThumbprint != record.holder {
            return (node.record.enrolledAt, "node \(record.nodeName) has enrolled with another key")
        }
        return nil
    }

    func json(_ record: CapabilityRecord) -> JSONValue {
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
