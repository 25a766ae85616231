import Catalog
import Core
import HTTPTypes

extension ControlPlane {
    /// `GET /v1/grants`; a node sees its own.
    func listGrants(_ context: RequestContext) async throws(Problem) -> ControlResponse {
        let page = try context.page()
        let node = try context.nameFilter("node")
        let resource = try context.resourceFilter()
        let own = context.caller.node?.id
        let found = store.page(
            GrantRecord.self, in: own?.hex, after: page.after, limit: page.limit + 1
        ) { grant in
            (node == nil || grant.nodeName == node) && (resource == nil || grant.resourceName == resource)
        }
        return page.answer(found.map { ($0.record.name, json($0.record)) })
    }

    /// `GET /v1/grants/{name}`
    func showGrant(_ context: RequestContext) async throws(Problem) -> ControlResponse {
        let grant = try grant(context.name).record
        if let own = context.caller.node, grant.nodeID != own.id {
            throw Problem.notFound("grant", context.name)
        }
        return ControlResponse(status: .ok, json: json(grant), tag: grant.entityTag)
    }

    /// `POST /v1/grants`
    func createGrant(_ context: RequestContext) async throws(Problem) -> ControlResponse {
        try await requireRoom()
        let fields = try context.fields(known: [
            "name", "node", "resource", "rights", "range", "limits", "lifetimeSecondsMax", "expiresAt",
            "delegationDepth", "labels",
        ])
        let name = try fields.requiredName("name")
        let nodeName = try fields.requiredName("node")
        let volumeName = try fields.requiredVolume()
        let rights = try fields.requiredRights()
        let range = try fields.range()
        let limits = try fields.limits() ?? .none
        let lifetime = try fields.integer("lifetimeSecondsMax", in: 1...Limits.grantLifetimeSecondsMax)
        let expiry = try fields.time("expiresAt")
        let depth = try fields.integer("delegationDepth", in: 0...Limits.delegationDepthMax) ?? 0
        let labels = try fields.labels() ?? [:]
        return try await locks.withLocks(["grant/\(name)", "node/\(nodeName)", "volume/\(volumeName)"]) {
            () async throws(Problem) in
            guard store.get(GrantRecord.self, name) == nil else { throw Problem.exists("grant", name) }
            guard let node = store.get(NodeRecord.self, nodeName) else {
                throw Problem.invalid("node", "\(nodeName) does not exist", expected: "the name of a node")
            }
            guard let volume = store.get(VolumeRecord.self, volumeName), volume.record.state == .ready else {
                throw Problem.invalid(
                    "resource", "volume/\(volumeName) does not exist", expected: "volume/NAME of a volume")
            }
            guard store.count(GrantRecord.self) < Limits.recordsPerKindMax else {
                throw Problem(.limitReached, "the server has its most grants, \(Limits.recordsPerKindMax)")
            }
            let grant = GrantRecord(
                id: .random(using: random), name: name, node: node.record, volume: volume.record,
                rights: rights,
                range: range, limits: limits,
                lifetimeSecondsMax: lifetime ?? Limits.grantLifetimeSecondsDefault, expiresAt: expiry,
                delegationDepth: UInt8(depth), labels: labels, createdAt: wallClock.now())
            var body = json(grant)
            if let words = excess(of: range, over: volume.record), case .object(var members) = body {
                members["warning"] = .string(words)
                body = .object(members)
            }
            let response = ControlResponse(
                status: .created, json: body, tag: grant.entityTag, location: "/v1/grants/\(name)")
            var changes = RecordChanges()
            try Problem.translating { () throws(CatalogError) in try changes.insert(grant) }
            try record(response, for: context, in: &changes, body: body)
            try await commit(changes)
            audit(
                "grant created", context,
                [
                    "grant": name, "node": nodeName, "resource": "volume/\(volumeName)",
                    "rights": rights.names.joined(separator: ","),
                ])
            return response
        }
    }

    /// `PATCH /v1/grants/{name}`: what was issued and is wider than the grant now is revoked before the answer.
    func patchGrant(_ context: RequestContext) async throws(Problem) -> ControlResponse {
        let fields = try context.fields(known: [
            "rights", "range", "limits", "lifetimeSecondsMax", "expiresAt", "delegationDepth", "labels",
        ])
        return try await locks.withLock("grant/\(context.name)") { () async throws(Problem) in
            let stored = try grant(context.name)
            try context.checkPrecondition(stored.record.entityTag)
            var grant = stored.record
            try apply(fields, to: &grant)
            guard grant != stored.record else {
                return ControlResponse(status: .ok, json: json(grant), tag: grant.entityTag)
            }
            grant.touch(wallClock.now())
            let changed = grant
            var changes = RecordChanges()
            try Problem.translating { () throws(CatalogError) in
                try changes.put(changed, over: stored.revision)
            }
            let wider = liveCapabilities { $0.grantID == changed.id && !changed.covers($0) }
            let reason = "grant \(grant.name) was narrowed"
            try await revoke(wider, reason: reason, with: changes)
            if changed.limits != stored.record.limits {
                try await perform(.limitGrant(changed.id, RateLimits(changed.limits)))
            }
            audit("grant changed", context, ["grant": grant.name, "revoked": "\(wider.count)"])
            return ControlResponse(status: .ok, json: json(grant), tag: grant.entityTag)
        }
    }

    /// `DELETE /v1/grants/{name}`: what was issued from it is revoked before the answer.
    func deleteGrant(_ context: RequestContext) async throws(Problem) -> ControlResponse {
        try await locks.withLock("grant/\(context.name)") { () async throws(Problem) in
            let stored = try grant(context.name)
            try context.checkPrecondition(stored.record.entityTag)
            var changes = RecordChanges()
            changes.delete(stored)
            let issued = liveCapabilities { $0.grantID == stored.record.id }
            try await revoke(issued, reason: "grant \(stored.record.name) was deleted", with: changes)
            audit("grant deleted", context, ["grant": stored.record.name, "revoked": "\(issued.count)"])
            return ControlResponse(status: .noContent)
        }
    }

    // MARK: Steps

    /// What there is to say of a range that goes beyond the volume; nil when it does not.
    private func excess(of range: ByteRange?, over volume: VolumeRecord) -> String? {
        guard let range, range.end > volume.size else { return nil }
        return
            "the range ends at \(ByteCount(range.end)), and volume \(volume.name) at \(ByteCount(volume.size)): what lies"
            + " beyond counts when the volume has grown"
    }

    private func apply(_ fields: Fields, to grant: inout GrantRecord) throws(Problem) {
        if fields.has("rights") { grant.rights = try fields.requiredRights() }
        if fields.has("range") { grant.range = try fields.range() }
        if fields.has("limits") { grant.limits = try fields.limits(over: grant.limits) ?? .none }
        if fields.has("lifetimeSecondsMax") {
            grant.lifetimeSecondsMax =
                try fields.integer("lifetimeSecondsMax", in: 1...Limits.grantLifetimeSecondsMax)
                ?? Limits.grantLifetimeSecondsDefault
        }
        if fields.has("expiresAt") { grant.expiresAt = try fields.time("expiresAt") }
        if fields.has("delegationDepth") {
            grant.delegationDepth = UInt8(
                try fields.integer("delegationDepth", in: 0...Limits.delegationDepthMax) ?? 0)
        }
        grant.labels = try fields.patchedLabels(grant.labels)
    }

    func grant(_ name: String) throws(Problem) -> Stored<GrantRecord> {
        guard let stored = store.get(GrantRecord.self, name) else { throw Problem.notFound("grant", name) }
        return stored
    }

    func json(_ grant: GrantRecord) -> JSONValue {
        .object([
            "id": .string(grant.id.hex), "name": .string(grant.name), "node": .string(grant.nodeName),
            "resource": .string("\(grant.kind.name)/\(grant.resourceName)"),
            "resourceID": .string(grant.resourceID.hex), "rights": .strings(grant.rights.names),
            "range": grant.range.json, "limits": grant.limits.json,
            "lifetimeSecondsMax": .integer(grant.lifetimeSecondsMax),
            "expiresAt": .optional(grant.expiresAt.map(Timestamp.text)),
            "delegationDepth": .integer(UInt64(grant.delegationDepth)), "labels": .strings(grant.labels),
            "createdAt": .string(Timestamp.text(grant.createdAt)),
            "updatedAt": .string(Timestamp.text(grant.updatedAt)),
        ])
    }
}

extension GrantRecord {
    /// Whether the grant as it is now allows what the capability allows.
    func covers(_ capability: CapabilityRecord) -> Bool {
        capability.rights.isSubset(of: rights) && covers(capability.range) && covers(capability.limits)
            && capability.delegationDepth <= delegationDepth
            && capability.expiresAt - capability.issuedAt <= lifetimeSecondsMax
            && capability.expiresAt <= expiresAt ?? .max
    }

    /// Whether a range lies in the grant's; nil means all of the volume.
    func covers(_ other: ByteRange?) -> Bool {
        guard let range else { return true }
        return other.map(range.contains) ?? false
    }

    /// Whether ceilings are no higher than the grant's.
    func covers(_ other: IOLimits) -> Bool {
        func isWithin(_ value: UInt64?, _ ceiling: UInt64?) -> Bool {
            guard let ceiling else { return true }
            return value.map { $0 <= ceiling } ?? false
        }
        return isWithin(other.iops, limits.iops) && isWithin(other.bytesPerSecond, limits.bytesPerSecond)
    }
}

extension ByteRange? {
    /// `{"offset":…,"length":…}`, or `null` for all.
    var json: JSONValue {
        guard let self else { return .null }
        return .object(["offset": .integer(self.offset), "length": .integer(self.length)])
    }
}

extension IOLimits {
    /// Both ceilings, `null` where there is none.
    var json: JSONValue {
        .object(["iops": .optional(iops), "bytesPerSecond": .optional(bytesPerSecond)])
    }
}

extension RateLimits {
    /// The ceilings and the burst, `null` where there is none or the default counts.
    var json: JSONValue {
        .object([
            "iops": .optional(iops), "bytesPerSecond": .optional(bytesPerSecond),
            "burstMilliseconds": .optional(burstMilliseconds),
        ])
    }
}
