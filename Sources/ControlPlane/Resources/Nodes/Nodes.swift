import Catalog
import Core
import HTTPTypes
import Services

/// `/v1/nodes`: whoever may enrol, and has.
struct Nodes: Resource {
    static let noun = "node"
    static let members = ["name", "labels"]
    static let changeable = ["labels"]

    static let routes: [Route] = [
        Route(.get, "/v1/nodes", RouteTable.readers, query: RouteTable.page, list),
        Route(.post, "/v1/nodes", RouteTable.admin, idempotent: true, create),
        Route(.get, "/v1/nodes/{name}", RouteTable.everyRole, show),
        Route(.patch, "/v1/nodes/{name}", RouteTable.admin, patch),
        Route(.delete, "/v1/nodes/{name}", RouteTable.admin, urgent: true, delete),
        Route(.post, "/v1/nodes/{name}/token", RouteTable.admin, idempotent: true, ControlPlane.createToken),
        Route(.post, "/v1/nodes/{name}/enroll", [], ControlPlane.enrol),
        Route(
            .post, "/v1/nodes/{name}/certificate", [.node], admitsExpired: true, ControlPlane.renewCertificate
        ),
    ]

    let plane: ControlPlane
    let context: RequestContext

    static func bringUp(_ plane: ControlPlane) async throws(Problem) {
        for stored in plane.store.all(NodeRecord.self) {
            let node = stored.record
            try await plane.perform(.setNode(id: node.id, name: node.name, epoch: node.epoch))
        }
    }

    /// A node sees itself.
    func isVisible(_ node: NodeRecord) -> Bool { context.caller.node.map { $0.name == node.name } ?? true }

    func body(_ node: NodeRecord) -> JSONValue { plane.json(node) }

    func draft(_ fields: Fields) throws(Problem) -> [String: String] { try fields.labels() ?? [:] }

    /// A node that may enrol with the token in the answer.
    func make(
        _ name: String, _ labels: [String: String], undo: inout Undo
    ) async throws(Problem) -> Made<NodeRecord> {
        let node = NodeRecord(
            id: .random(using: plane.random), name: name, labels: labels, createdAt: plane.wallClock.now())
        let token = plane.newToken(for: node)
        var members = plane.json(node).members
        members["tokenExpiresAt"] = .string(Timestamp.text(token.expiresAt))
        var made = Made(node, body: .object(members.merging(["token": .string(token.text)]) { $1 }))
        made.storable = (body: .object(members), sealed: token.sealed)
        var changes = RecordChanges()
        try Problem.translating { () throws(CatalogError) in try changes.insert(token.record) }
        made.changes = changes
        made.then = { [plane] () async throws(Problem) in
            try await plane.perform(.setNode(id: node.id, name: node.name, epoch: node.epoch))
            await plane.sweep()
        }
        made.audit = ("node added", ["node": name, "id": node.id.hex])
        return made
    }

    func apply(_ fields: Fields, to node: inout NodeRecord) throws(Problem) {
        node.labels = try fields.patchedLabels(node.labels)
    }

    func write(
        _ changed: NodeRecord, over stored: Stored<NodeRecord>
    ) async throws(Problem) -> Written<NodeRecord> {
        guard changed != stored.record else { return Written(value: changed) }
        var node = changed
        node.touch(plane.wallClock.now())
        try await plane.put(node, over: stored)
        plane.audit("node changed", context, ["node": node.name])
        return Written(value: node)
    }

    /// Removes a node, whose certificate, grants and capabilities stop counting before the answer.
    func remove(_ stored: Stored<NodeRecord>, isForced: Bool) async throws(Problem) -> ControlResponse {
        let node = stored.record
        var changes = RecordChanges()
        changes.delete(stored)
        for token in plane.tokens(of: node) { changes.delete(token) }
        try await plane.commit(changes)
        try await plane.perform(.removeNode(node.id))
        let (grants, left) = await removeGrants(of: node)
        await plane.forgetEnded(in: node.id.hex, everything: true)
        plane.capabilitiesHaveEnded()
        plane.events.append(
            .nodeRemoved, subject: "node/\(node.name)",
            message:
                "removed by \(context.caller.name), with \(grants.counted("grant")): its certificate and its"
                + " capabilities no longer count" + (left.map { "; \($0)" } ?? ""))
        plane.audit(
            "node removed, its access is revoked", context,
            ["node": node.name, "id": node.id.hex, "grants": "\(grants)"])
        return ControlResponse(status: .noContent)
    }

    /// Removes the grants of a node that is no more.
    ///
    /// - Returns: how many that were, and what there is to say of those that are left.
    private func removeGrants(of node: NodeRecord) async -> (removed: Int, left: String?) {
        let before = plane.store.count(GrantRecord.self, in: node.id.hex)
        do throws(Problem) {
            return (try await plane.removeGrants(in: node.id.hex) { _ in true }, nil)
        } catch {
            let left = plane.store.count(GrantRecord.self, in: node.id.hex)
            plane.logger.error(
                "grants of a removed node are left for the next start, without effect",
                metadata: ["node": "\(node.name)", "grants": "\(left)", "reason": "\(error.detail)"])
            return (
                before - left,
                "\(left) more are removed when the server is started again: \(error.detail)"
            )
        }
    }
}

extension ControlPlane {
    /// `POST /v1/nodes/{name}/token`: a new token; those before it no longer count.
    func createToken(_ context: RequestContext) async throws(Problem) -> ControlResponse {
        _ = try context.fields(known: [])
        return try await locks.withLock("node/\(context.name)") { () async throws(Problem) in
            let node = try node(context.name).record
            let token = newToken(for: node)
            var members: [String: JSONValue] = [
                "node": .string(node.name), "tokenExpiresAt": .string(Timestamp.text(token.expiresAt)),
            ]
            let stored = JSONValue.object(members)
            members["token"] = .string(token.text)
            let response = ControlResponse(status: .created, json: .object(members))
            var changes = RecordChanges()
            for old in tokens(of: node) { changes.delete(old) }
            try Problem.translating { () throws(CatalogError) in try changes.insert(token.record) }
            try record(response, for: context, in: &changes, body: stored, sealed: token.sealed)
            try await commit(changes)
            audit("enrolment token issued", context, ["node": node.name])
            await sweep()
            return response
        }
    }

    func node(_ name: String) throws(Problem) -> Stored<NodeRecord> {
        guard let stored = store.get(NodeRecord.self, name) else { throw Problem.notFound("node", name) }
        return stored
    }

    fileprivate func newToken(for node: NodeRecord) -> EnrolToken {
        EnrolToken(
            node: node, expiresAt: wallClock.now() + Limits.enrolTokenSeconds, authority: authority,
            random: random)
    }

    fileprivate func tokens(of node: NodeRecord) -> [Stored<TokenRecord>] {
        store.all(TokenRecord.self) { $0.nodeID == node.id }
    }

    func json(_ node: NodeRecord) -> JSONValue {
        var members: [String: JSONValue] = [
            "id": .string(node.id.hex), "name": .string(node.name), "labels": .strings(node.labels),
            "state": .string(node.keyThumbprint == nil ? "pending" : "enrolled"),
            "createdAt": .string(Timestamp.text(node.createdAt)),
            "updatedAt": .string(Timestamp.text(node.updatedAt)),
        ]
        members["keyThumbprint"] = node.keyThumbprint.map { .string($0.hex) }
        members["certificateExpiresAt"] = node.certificateExpiresAt.map { .string(Timestamp.text($0)) }
        members["enrolledAt"] = node.enrolledAt.map { .string(Timestamp.text($0)) }
        return .object(members)
    }
}
