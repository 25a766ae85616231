import Catalog
import Core
import HTTPTypes

/// `/v1/grants`: which node may have which rights on which volume.
struct Grants: Resource {
    /// What a grant is to allow.
    struct Draft {
        let node: String
        let resource: (kind: ResourceKind, name: String)
        let rights: Rights
        let range: ByteRange?
        let limits: IOLimits
        let lifetimeSecondsMax: UInt64
        let expiresAt: UInt64?
        let delegationDepth: UInt8
        let labels: [String: String]
    }

    static let noun = "grant"
    static let members = [
        "name", "node", "resource", "rights", "range", "limits", "lifetimeSecondsMax", "expiresAt",
        "delegationDepth", "labels",
    ]
    static let changeable = [
        "rights", "range", "limits", "lifetimeSecondsMax", "expiresAt", "delegationDepth", "labels",
    ]

    static let routes: [Route] = [
        Route(.get, "/v1/grants", RouteTable.everyRole, query: RouteTable.page + ["node", "resource"], list),
        Route(.post, "/v1/grants", RouteTable.admin, idempotent: true, create),
        Route(.get, "/v1/grants/{name}", RouteTable.everyRole, show),
        Route(.patch, "/v1/grants/{name}", RouteTable.admin, urgent: true, patch),
        Route(.delete, "/v1/grants/{name}", RouteTable.admin, urgent: true, delete),
    ]

    let plane: ControlPlane
    let context: RequestContext

    /// A node sees its own.
    func selection() throws(Problem) -> Selection<GrantRecord> {
        let node = try context.nameFilter("node")
        let resource = try context.resourceFilter()
        return Selection(group: context.caller.node?.id.hex) { grant in
            (node == nil || grant.nodeName == node)
                && (resource.map { $0 == (grant.kind, grant.resourceName) } ?? true)
        }
    }

    func isVisible(_ grant: GrantRecord) -> Bool { context.caller.node.map { $0.id == grant.nodeID } ?? true }

    func draft(_ fields: Fields) throws(Problem) -> Draft {
        let node = try fields.requiredName("node")
        let resource = try fields.requiredResource()
        return Draft(
            node: node, resource: resource, rights: try fields.requiredRights(on: resource.kind),
            range: try fields.range(), limits: try fields.limits() ?? .none,
            lifetimeSecondsMax: try fields.integer(
                "lifetimeSecondsMax", in: 1...Limits.grantLifetimeSecondsMax)
                ?? Limits.grantLifetimeSecondsDefault, expiresAt: try fields.time("expiresAt"),
            delegationDepth: UInt8(
                try fields.integer("delegationDepth", in: 0...Limits.delegationDepthMax) ?? 0),
            labels: try fields.labels() ?? [:])
    }

    func locks(making name: String, _ draft: Draft) -> Set<String> {
        [lock(of: name), "node/\(draft.node)", "\(draft.resource.kind.name)/\(draft.resource.name)"]
    }

    func make(
        _ name: String, _ draft: Draft, undo: inout Undo
    ) async throws(Problem) -> Made<GrantRecord> {
        guard let node = plane.store.get(NodeRecord.self, draft.node)?.record else {
            throw Problem.invalid("node", "\(draft.node) does not exist", expected: "the name of a node")
        }
        let (kind, resourceName) = draft.resource
        guard let target = plane.target(kind, resourceName), target.obstacle == nil else {
            throw Problem.invalid(
                "resource", "\(kind.name)/\(resourceName) does not exist",
                expected: "\(kind.name)/NAME of \(kind.withArticle)")
        }
        let grant = GrantRecord(
            id: .random(using: plane.random), name: name, node: node, on: target.resource,
            rights: draft.rights,
            range: draft.range, limits: draft.limits, lifetimeSecondsMax: draft.lifetimeSecondsMax,
            expiresAt: draft.expiresAt, delegationDepth: draft.delegationDepth, labels: draft.labels,
            createdAt: plane.wallClock.now())
        var made = Made(grant, body: body(grant).warning(excess(of: draft.range, over: target)))
        made.audit = (
            "grant created",
            [
                "grant": name, "node": draft.node, "resource": target.resource.text,
                "rights": draft.rights.names.joined(separator: ","),
            ]
        )
        return made
    }

    func apply(_ fields: Fields, to grant: inout GrantRecord) throws(Problem) {
        if fields.has("rights") { grant.rights = try fields.requiredRights(on: grant.kind) }
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

    /// Revokes, before the answer, what was issued from it and is wider than the grant is now.
    func write(
        _ wanted: GrantRecord, over stored: Stored<GrantRecord>
    ) async throws(Problem) -> Written<GrantRecord> {
        guard wanted != stored.record else { return written(wanted) }
        var grant = wanted
        grant.touch(plane.wallClock.now())
        let changed = grant
        var changes = RecordChanges()
        try Problem.translating { () throws(CatalogError) in
            try changes.put(changed, over: stored.revision)
        }
        let wider = plane.liveCapabilities { $0.grantID == changed.id && !changed.covers($0) }
        try await plane.revoke(wider, reason: "grant \(changed.name) was narrowed", with: changes)
        if changed.limits != stored.record.limits {
            try await plane.perform(.limitGrant(changed.id, RateLimits(changed.limits)))
        }
        plane.audit("grant changed", context, ["grant": changed.name, "revoked": "\(wider.count)"])
        return written(changed)
    }

    private func written(_ grant: GrantRecord) -> Written<GrantRecord> {
        let target = plane.target(grant.kind, grant.resourceName)
        return Written(value: grant, warning: target.flatMap { excess(of: grant.range, over: $0) })
    }

    /// Revokes, before the answer, what was issued from it.
    func remove(_ stored: Stored<GrantRecord>, isForced: Bool) async throws(Problem) -> ControlResponse {
        var changes = RecordChanges()
        changes.delete(stored)
        let issued = plane.liveCapabilities { $0.grantID == stored.record.id }
        try await plane.revoke(
            issued, reason: "grant \(stored.record.name) was deleted", with: changes)
        plane.audit(
            "grant deleted", context, ["grant": stored.record.name, "revoked": "\(issued.count)"])
        return ControlResponse(status: .noContent)
    }

    /// What there is to say of a range that goes beyond the resource; nil when it does not.
    private func excess(of range: ByteRange?, over target: GrantTarget) -> String? {
        guard let range, let size = target.size, range.end > size else { return nil }
        let kind = target.resource.kind.name
        return
            "the range ends at \(ByteCount(range.end)), and \(kind) \(target.resource.name) at \(ByteCount(size)): what lies"
            + " beyond counts when the \(kind) has grown"
    }

    func body(_ grant: GrantRecord) -> JSONValue {
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

extension Grants {
    static func bringUp(_ plane: ControlPlane) async throws(Problem) { await plane.removeLostGrants() }
}

extension ControlPlane {
    /// Removes the grants of nodes and resources that were removed when the server ended, or by a version that left
    /// them.
    fileprivate func removeLostGrants() async {
        do throws(Problem) {
            let count = try await removeGrants { grant in
                store.get(NodeRecord.self, grant.nodeName)?.record.id != grant.nodeID
                    || Kinds.grantable(grant.kind) != nil
                        && target(grant.kind, grant.resourceName)?.resource.id != grant.resourceID
            }
            guard count > 0 else { return }
            logger.notice(
                "grants of removed nodes and resources were removed", metadata: ["grants": "\(count)"])
        } catch {
            logger.error(
                "grants of removed nodes and resources are left for the next start",
                metadata: ["reason": "\(error.detail)"])
        }
    }

    /// Removes the grants of a node or resource that is no more, in as many transactions as that takes, and returns
    /// their number. The caller sees to it that nobody makes another meanwhile.
    func removeGrants(
        in group: String? = nil, where isMeant: (GrantRecord) -> Bool
    ) async throws(Problem) -> Int {
        var (count, conflicts) = (0, 0)
        while true {
            let grants = store.page(
                GrantRecord.self, in: group, limit: Limits.cascadeRecordsMax, where: isMeant)
            guard !grants.isEmpty else { return count }
            var changes = RecordChanges()
            for grant in grants { changes.delete(grant) }
            do throws(Problem) {
                try await commit(changes)
                count += grants.count
            } catch {
                // Somebody has changed one of them just now.
                conflicts += 1
                guard error.code == .conflict, conflicts < Limits.cascadeTriesMax else { throw error }
            }
        }
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
