import Catalog
import Core
import DriverKit
import HTTPTypes
import Services

extension ControlPlane {
    /// `GET /v1/pools`
    func listPools(_ context: RequestContext) async throws(Problem) -> ControlResponse {
        let page = try context.page()
        var items: [(key: String, value: JSONValue)] = []
        for stored in store.page(PoolRecord.self, after: page.after, limit: page.limit + 1) {
            items.append((stored.record.name, await json(stored.record)))
        }
        return page.answer(items)
    }

    /// `GET /v1/pools/{name}`
    func showPool(_ context: RequestContext) async throws(Problem) -> ControlResponse {
        let pool = try pool(context.name).record
        return ControlResponse(status: .ok, json: await json(pool), tag: pool.entityTag)
    }

    /// `POST /v1/pools`: starts a driver and records the pool.
    func createPool(_ context: RequestContext) async throws(Problem) -> ControlResponse {
        let fields = try context.fields(known: ["name", "driver", "settings", "labels"])
        let name = try fields.requiredName("name")
        let driver = try fields.requiredName("driver")
        let settings = try fields.settings()
        let labels = try fields.labels() ?? [:]
        return try await locks.withLock("pool/\(name)") { () async throws(Problem) in
            guard store.get(PoolRecord.self, name) == nil else { throw Problem.exists("pool", name) }
            let pool = PoolRecord(
                id: .random(using: random), name: name, driver: driver, settings: settings, labels: labels,
                createdAt: wallClock.now())
            do throws(ServiceError) {
                _ = try await services.perform(.addPool(descriptor(of: pool)))
            } catch {
                // A wrong driver or setting is the caller's mistake; what the device says is its failure.
                if error.status.kind == .caller {
                    throw Problem(
                        .invalidField, error.message, field: "settings", expected: "what the driver takes")
                }
                throw Problem(error)
            }
            let body = await json(pool)
            let response = ControlResponse(
                status: .created, json: body, tag: pool.entityTag, location: "/v1/pools/\(name)")
            var changes = RecordChanges()
            try Problem.translating { () throws(CatalogError) in try changes.insert(pool) }
            try record(response, for: context, in: &changes, body: body)
            try await commit(changes)
            audit("pool created", context, ["pool": name, "driver": driver])
            return response
        }
    }

    /// `PATCH /v1/pools/{name}`: labels.
    func patchPool(_ context: RequestContext) async throws(Problem) -> ControlResponse {
        let fields = try context.fields(known: ["labels"])
        return try await locks.withLock("pool/\(context.name)") { () async throws(Problem) in
            let stored = try pool(context.name)
            try context.checkPrecondition(stored.record.entityTag)
            var pool = stored.record
            pool.labels = try fields.patchedLabels(pool.labels)
            if pool != stored.record {
                pool.touch(wallClock.now())
                let changed = pool
                var changes = RecordChanges()
                try Problem.translating { () throws(CatalogError) in
                    try changes.put(changed, over: stored.revision)
                }
                try await commit(changes)
                audit("pool changed", context, ["pool": pool.name])
            }
            return ControlResponse(status: .ok, json: await json(pool), tag: pool.entityTag)
        }
    }

    func pool(_ name: String) throws(Problem) -> Stored<PoolRecord> {
        guard let stored = store.get(PoolRecord.self, name) else { throw Problem.notFound("pool", name) }
        return stored
    }

    private func json(_ pool: PoolRecord) async -> JSONValue {
        var members: [String: JSONValue] = [
            "id": .string(pool.id.hex), "name": .string(pool.name), "driver": .string(pool.driver),
            "settings": .strings(pool.settings), "labels": .strings(pool.labels),
            "volumes": .integer(UInt64(store.all(VolumeRecord.self) { $0.pool == pool.name }.count)),
            "createdAt": .string(Timestamp.text(pool.createdAt)),
            "updatedAt": .string(Timestamp.text(pool.updatedAt)),
        ]
        var fault = live.withLock { $0.poolFaults[pool.name] }
        if fault == nil {
            do throws(Problem) {
                if case .capacity(let capacity) = try await perform(.poolCapacity(pool.name)) {
                    members["capacity"] = .object([
                        "total": .integer(capacity.total), "used": .integer(capacity.used),
                        "free": .integer(capacity.free),
                    ])
                }
            } catch { fault = error.detail }
        }
        members["state"] = .string(fault == nil ? "ready" : "failed")
        members["message"] = fault.map(JSONValue.string)
        return .object(members)
    }
}
