import Catalog
import Core
import DriverKit
import HTTPTypes
import Services

extension ControlPlane {
    /// `GET /v1/pools`
    func listPools(_ context: RequestContext) async throws(Problem) -> ControlResponse {
        let page = try context.page()
        let hosts = try await driverHosts()
        // None waits for another, whose driver may hang.
        let items = await withTaskGroup(of: (key: String, value: JSONValue).self) { group in
            for stored in store.page(PoolRecord.self, after: page.after, limit: page.limit + 1) {
                group.addTask { (stored.record.name, await self.json(stored.record, hosts)) }
            }
            return await group.reduce(into: []) { $0.append($1) }.sorted { $0.key < $1.key }
        }
        return page.answer(items)
    }

    /// `GET /v1/pools/{name}`
    func showPool(_ context: RequestContext) async throws(Problem) -> ControlResponse {
        let pool = try pool(context.name).record
        return ControlResponse(status: .ok, json: try await json(pool), tag: pool.entityTag)
    }

    /// `POST /v1/pools`: starts a driver and records the pool.
    func createPool(_ context: RequestContext) async throws(Problem) -> ControlResponse {
        let fields = try context.fields(
            known: ["name", "driver", "settings", "isolation", "whenFull", "labels"])
        let name = try fields.requiredName("name")
        let driver = try fields.requiredName("driver")
        let settings = try fields.settings()
        let isolation = try fields.choice("isolation", of: PoolRecord.Isolation.self) ?? .isolated
        let whenFull = try fields.choice("whenFull", of: PoolRecord.WhenFull.self) ?? .wait
        let labels = try fields.labels() ?? [:]
        try await requireRoom()
        return try await locks.withLock("pool/\(name)") { () async throws(Problem) in
            guard store.get(PoolRecord.self, name) == nil else { throw Problem.exists("pool", name) }
            try requireOwnPath(settings["path"])
            let pool = PoolRecord(
                id: .random(using: random), name: name, driver: driver, settings: settings,
                isolation: isolation, whenFull: whenFull, labels: labels, createdAt: wallClock.now())
            do throws(StatusError) {
                _ = try await services.perform(.addPool(descriptor(of: pool)))
            } catch {
                // A wrong driver or setting is the caller's mistake; what the device says is its failure.
                if error.status.kind == .caller {
                    throw Problem(
                        .invalidField, error.message, field: "settings", expected: "what the driver takes")
                }
                throw Problem(error)
            }
            let body = try await json(pool)
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

    /// `PATCH /v1/pools/{name}`: labels; settings that the driver can change while it runs; isolation, from the next
    /// start of the server on.
    func patchPool(_ context: RequestContext) async throws(Problem) -> ControlResponse {
        let fields = try context.fields(known: ["labels", "settings", "isolation", "whenFull"])
        let isolation = try fields.choice("isolation", of: PoolRecord.Isolation.self)
        if fields.has("isolation"), isolation == nil {
            throw Problem.invalid(
                "isolation", "cannot be removed", expected: "isolated or inline, or leave it out")
        }
        let whenFull = try fields.choice("whenFull", of: PoolRecord.WhenFull.self)
        if fields.has("whenFull"), whenFull == nil {
            throw Problem.invalid("whenFull", "cannot be removed", expected: "wait or fail, or leave it out")
        }
        return try await locks.withLock("pool/\(context.name)") { () async throws(Problem) in
            let stored = try pool(context.name)
            try context.checkPrecondition(stored.record.entityTag)
            var pool = stored.record
            pool.labels = try fields.patchedLabels(pool.labels)
            pool.settings = try fields.patchedSettings(pool.settings)
            if let isolation { pool.isolation = isolation }
            if let whenFull { pool.whenFull = whenFull }
            if pool.settings != stored.record.settings { try await configure(pool) }
            if pool != stored.record {
                pool.touch(wallClock.now())
                try await replace(stored, by: pool)
                if pool.whenFull != stored.record.whenFull,
                    live.withLock({ $0.poolFaults[pool.name] }) == nil
                {
                    try await perform(.setFullPolicy(pool.name, FullPolicy(pool.whenFull)))
                }
                audit(
                    "pool changed", context, ["pool": pool.name, "isolation": pool.isolation.rawValue])
            }
            return ControlResponse(status: .ok, json: try await json(pool), tag: pool.entityTag)
        }
    }

    /// `POST /v1/pools/{name}/restart`: a new driver host, also out of quarantine; a pool that did not start with the
    /// server is tried again.
    func restartPool(_ context: RequestContext) async throws(Problem) -> ControlResponse {
        _ = try context.fields(known: [])
        return try await locks.withLock("pool/\(context.name)") { () async throws(Problem) in
            let pool = try pool(context.name).record
            if live.withLock({ $0.poolFaults[pool.name] }) != nil {
                try await retryPool(pool)
            } else {
                try await perform(.restartDriver(pool.name))
                goOnWithVolumes(in: pool.name)
                let seen = await ControlPlane.inTime(seconds: 10) { await self.lookAtSpace(pool) }
                if let fault = seen?.fault { throw Problem(.deviceFailed, fault) }
            }
            audit("pool restarted", context, ["pool": pool.name])
            let body = try await json(pool)
            let response = ControlResponse(status: .ok, json: body, tag: pool.entityTag)
            try await remember(response, for: context, body: body)
            return response
        }
    }

    /// `DELETE /v1/pools/{name}`: a pool without volumes; the driver first, then the record. A crash in between leaves a
    /// pool that the next start starts. One that does not run is forgotten with `force` alone.
    func deletePool(_ context: RequestContext) async throws(Problem) -> ControlResponse {
        let isForced = try context.flag("force")
        return try await locks.withLock("pool/\(context.name)") { () async throws(Problem) in
            let stored = try pool(context.name)
            try context.checkPrecondition(stored.record.entityTag)
            let volumes = store.page(VolumeRecord.self, limit: 1) { $0.pool == context.name }
            let intents = store.page(IntentRecord.self, limit: 1) { $0.volume.pool == context.name }
            if let name = volumes.first?.record.name ?? intents.first?.record.volume.name {
                let count = store.all(VolumeRecord.self) { $0.pool == context.name }.count
                throw Problem(
                    .inUse, "pool \(context.name) has \(max(count, 1)) volume(s), such as \(name)",
                    expected: "delete its volumes first")
            }
            let obstacle = try await obstacle(inPool: context.name)
            if let obstacle, !isForced {
                throw Problem(
                    .conflict, "\(obstacle). Nothing was deleted",
                    expected:
                        "'sluice pool restart \(context.name)' first, or a deletion with force, which forgets the"
                        + " pool and leaves what lies in its folder or on its device")
            }
            var changes = RecordChanges()
            // Whoever makes a volume in it at the same time requires its record as it is.
            changes.delete(stored)
            try await perform(.removePool(context.name))
            do throws(Problem) { try await commit(changes) } catch {
                do throws(Problem) { try await perform(.addPool(descriptor(of: stored.record))) } catch {
                    note(error.detail, ofPool: context.name)
                }
                throw error
            }
            live.withLock { live in
                live.poolFaults[context.name] = nil
                live.spaces[context.name] = nil
            }
            removeFolder(of: context.name)
            var deletion = Deletion(resource: "pool/\(context.name)")
            if let obstacle {
                let words = "what lies in its folder or on its device stays: \(obstacle)"
                deletion.note = words
                events.append(
                    .poolForgotten, subject: "pool/\(context.name)",
                    message: "deleted with force by \(context.caller.name): \(words)")
            }
            audit(
                obstacle == nil ? "pool deleted" : "pool forgotten, its data stays", context,
                ["pool": context.name, "id": stored.record.id.hex, "forced": "\(isForced)"])
            return ControlResponse(status: .ok, json: deletion.json)
        }
    }

    /// Refuses a folder or device that another pool of this server has: its driver could only say that somebody has it.
    private func requireOwnPath(_ path: String?) throws(Problem) {
        guard let path = path.map(PoolPath.plain) else { return }
        let other = store.all(PoolRecord.self) { pool in
            pool.settings["path"].map { PoolPath.areSame(path, PoolPath.plain($0)) } ?? false
        }.first?.record
        guard let other else { return }
        throw Problem.invalid(
            "settings.path",
            "is that of pool \(other.name) of this server: a folder or device holds one pool",
            expected: "another folder or device, or make the volume in pool \(other.name)")
    }

    /// Notes why a pool does not run; since when is kept while it does not.
    func note(_ fault: String, ofPool name: String) {
        let now = wallClock.now()
        live.withLock { live in
            live.poolFaults[name] = Fault(
                description: fault, since: live.poolFaults[name]?.since ?? now)
        }
    }

    /// Removes a deleted pool's own folder, if nothing is left in it but what the pool itself made.
    private func removeFolder(of pool: String) {
        let path = "\(poolsFolder)/\(pool)"
        for name in ["chosen-folder", "device-volume"] { _ = PrivateFiles.remove("\(path)/\(name)") }
        guard !PrivateFiles.removeFolder(path) else { return }
        logger.notice("a deleted pool's folder stays, since it is not empty", metadata: ["folder": "\(path)"])
    }

    func pool(_ name: String) throws(Problem) -> Stored<PoolRecord> {
        guard let stored = store.get(PoolRecord.self, name) else { throw Problem.notFound("pool", name) }
        return stored
    }

    /// Records the answer to a POST that changed no record, when it carried an `Idempotency-Key`.
    func remember(
        _ response: ControlResponse, for context: RequestContext, body: JSONValue
    ) async throws(Problem) {
        var changes = RecordChanges()
        try record(response, for: context, in: &changes, body: body)
        if !changes.isEmpty { try await commit(changes) }
    }

    /// Gives the running driver its new settings. A pool that does not run takes them when it is started.
    private func configure(_ pool: PoolRecord) async throws(Problem) {
        guard live.withLock({ $0.poolFaults[pool.name] }) == nil else { return }
        do throws(StatusError) {
            _ = try await services.perform(.configurePool(pool.name, pool.settings))
        } catch {
            if error.status.kind == .caller, error.status != .notSupported {
                throw Problem(
                    .invalidField, error.message, field: "settings", expected: "what the driver takes")
            }
            throw Problem(error)
        }
    }

    private func replace(_ stored: Stored<PoolRecord>, by pool: PoolRecord) async throws(Problem) {
        var changes = RecordChanges()
        try Problem.translating { () throws(CatalogError) in try changes.put(pool, over: stored.revision) }
        do throws(Problem) {
            try await commit(changes)
        } catch {
            // The driver goes back to what is on record; what it refuses, the next start puts right.
            if pool.settings != stored.record.settings {
                _ = try? await services.perform(.configurePool(pool.name, stored.record.settings))
            }
            throw error
        }
    }

    private func json(_ pool: PoolRecord) async throws(Problem) -> JSONValue {
        await json(pool, try await driverHosts())
    }

    private func json(_ pool: PoolRecord, _ hosts: [String: DriverHostReport?]) async -> JSONValue {
        var members: [String: JSONValue] = [
            "id": .string(pool.id.hex), "name": .string(pool.name), "driver": .string(pool.driver),
            "settings": .strings(pool.settings), "isolation": .string(pool.isolation.rawValue),
            "whenFull": .string(pool.whenFull.rawValue),
            "labels": .strings(pool.labels),
            "volumes": .integer(UInt64(store.all(VolumeRecord.self) { $0.pool == pool.name }.count)),
            "createdAt": .string(Timestamp.text(pool.createdAt)),
            "updatedAt": .string(Timestamp.text(pool.updatedAt)),
        ]
        var condition = condition(of: pool, hosts)
        if let seen = await lookInTime(at: pool) {
            if let space = seen.space {
                members["capacity"] = .object([
                    "total": .integer(space.capacity.total), "used": .integer(space.capacity.used),
                    "free": .integer(space.capacity.free),
                    "provisioned": .integer(provisioned(in: pool.name)),
                ])
                members["space"] = .object([
                    "state": .string(seen.state.rawValue), "since": .string(Timestamp.text(seen.since)),
                    "refusals": .integer(space.refusals),
                    "lastRefusal": .optional(space.lastRefusal.map(Timestamp.text)),
                ])
                members["notes"] = .strings(space.notes)
                if seen.state != .ok { condition.message = words(pool.name, seen) }
            }
            if let fault = seen.fault {
                condition = PoolCondition(state: .failed, message: fault, since: seen.faultSince)
            } else if seen.state != .ok, condition.state == .ready {
                condition.since = seen.since
            }
        }
        members["state"] = .string(condition.state.rawValue)
        members["message"] = condition.message.map(JSONValue.string)
        members["since"] = condition.since.map { .string(Timestamp.text($0)) }
        return .object(members)
    }
}

/// The folder or device of a pool, as an operator writes it.
enum PoolPath {
    /// What a pool calls its own folder in the operator's.
    static let own = "sluice-pool"

    /// The same path without what means nothing: doubled and last slashes, and `.`.
    static func plain(_ path: String) -> String {
        let parts = path.split(separator: "/").filter { $0 != "." }
        return (path.hasPrefix("/") ? "/" : "") + parts.joined(separator: "/")
    }

    /// Whether they are the same, or one is the pool's own folder in the other.
    static func areSame(_ first: String, _ second: String) -> Bool {
        first == second || first == "\(second)/\(own)" || second == "\(first)/\(own)"
    }
}
