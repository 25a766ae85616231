import Catalog
import Core
import HTTPTypes
import Services

extension ControlPlane {
    /// `GET /v1/nodes`
    func listNodes(_ context: RequestContext) async throws(Problem) -> ControlResponse {
        let page = try context.page()
        let found = store.page(NodeRecord.self, after: page.after, limit: page.limit + 1)
        return page.answer(found.map { ($0.record.name, json($0.record)) })
    }

    /// `GET /v1/nodes/{name}`; a node sees itself.
    func showNode(_ context: RequestContext) async throws(Problem) -> ControlResponse {
        if let own = context.caller.node, own.name != context.name {
            throw Problem.notFound("node", context.name)
        }
        let node = try node(context.name).record
        return ControlResponse(status: .ok, json: json(node), tag: node.entityTag)
    }

    /// `POST /v1/nodes`: a node that may enrol with the token in the answer.
    func createNode(_ context: RequestContext) async throws(Problem) -> ControlResponse {
        try await requireRoom()
        let fields = try context.fields(known: ["name", "labels"])
        let name = try fields.requiredName("name")
        let labels = try fields.labels() ?? [:]
        return try await locks.withLock("node/\(name)") { () async throws(Problem) in
            guard store.get(NodeRecord.self, name) == nil else { throw Problem.exists("node", name) }
            guard store.count(NodeRecord.self) < Limits.recordsPerKindMax else {
                throw Problem(.limitReached, "the server has its most nodes, \(Limits.recordsPerKindMax)")
            }
            let node = NodeRecord(
                id: .random(using: random), name: name, labels: labels, createdAt: wallClock.now())
            let token = EnrolToken(
                node: node, expiresAt: wallClock.now() + Limits.enrolTokenSeconds, authority: authority,
                random: random)
            guard case .object(var members) = json(node) else {
                throw Problem(.internalError, "a node is not an object")
            }
            members["tokenExpiresAt"] = .string(Timestamp.text(token.expiresAt))
            let stored = JSONValue.object(members)
            members["token"] = .string(token.text)
            let response = ControlResponse(
                status: .created, json: .object(members), tag: node.entityTag, location: "/v1/nodes/\(name)")
            var changes = RecordChanges()
            try Problem.translating { () throws(CatalogError) in
                try changes.insert(node)
                try changes.insert(token.record)
            }
            try record(response, for: context, in: &changes, body: stored, sealed: token.sealed)
            try await commit(changes)
            try await perform(.setNode(id: node.id, name: node.name, epoch: node.epoch))
            audit("node added", context, ["node": name, "id": node.id.hex])
            await sweep()
            return response
        }
    }

    /// `POST /v1/nodes/{name}/token`: a new token; those before it no longer count.
    func createToken(_ context: RequestContext) async throws(Problem) -> ControlResponse {
        _ = try context.fields(known: [])
        return try await locks.withLock("node/\(context.name)") { () async throws(Problem) in
            let node = try node(context.name).record
            let token = EnrolToken(
                node: node, expiresAt: wallClock.now() + Limits.enrolTokenSeconds, authority: authority,
                random: random)
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

    /// `PATCH /v1/nodes/{name}`: labels.
    func patchNode(_ context: RequestContext) async throws(Problem) -> ControlResponse {
        let fields = try context.fields(known: ["labels"])
        return try await locks.withLock("node/\(context.name)") { () async throws(Problem) in
            let stored = try node(context.name)
            try context.checkPrecondition(stored.record.entityTag)
            var node = stored.record
            node.labels = try fields.patchedLabels(node.labels)
            if node != stored.record {
                node.touch(wallClock.now())
                let changed = node
                var changes = RecordChanges()
                try Problem.translating { () throws(CatalogError) in
                    try changes.put(changed, over: stored.revision)
                }
                try await commit(changes)
                audit("node changed", context, ["node": node.name])
            }
            return ControlResponse(status: .ok, json: json(node), tag: node.entityTag)
        }
    }

    /// `DELETE /v1/nodes/{name}`: its certificate, grants and capabilities stop counting before the answer.
    func deleteNode(_ context: RequestContext) async throws(Problem) -> ControlResponse {
        try await locks.withLock("node/\(context.name)") { () async throws(Problem) in
            let stored = try node(context.name)
            try context.checkPrecondition(stored.record.entityTag)
            var changes = RecordChanges()
            changes.delete(stored)
            for token in tokens(of: stored.record) { changes.delete(token) }
            let grants = store.all(GrantRecord.self, in: stored.record.id.hex)
            for grant in grants.prefix(Limits.cascadeRecordsMax) { changes.delete(grant) }
            try await commit(changes)
            try await perform(.removeNode(stored.record.id))
            await forgetEnded(in: stored.record.id.hex, everything: true)
            capabilitiesHaveEnded()
            events.append(
                .nodeRemoved, subject: "node/\(stored.record.name)",
                message:
                    "removed by \(context.caller.name), with \(grants.count) grant(s): its certificate and its"
                    + " capabilities no longer count")
            audit(
                "node removed, its access is revoked", context,
                ["node": stored.record.name, "id": stored.record.id.hex, "grants": "\(grants.count)"])
            return ControlResponse(status: .noContent)
        }
    }

    func node(_ name: String) throws(Problem) -> Stored<NodeRecord> {
        guard let stored = store.get(NodeRecord.self, name) else { throw Problem.notFound("node", name) }
        return stored
    }

    private func tokens(of node: NodeRecord) -> [Stored<TokenRecord>] {
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
