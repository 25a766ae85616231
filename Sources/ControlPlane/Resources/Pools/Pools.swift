import Catalog
import Core
import DriverKit
import HTTPTypes
import Services

/// `/v1/pools`: configured drivers.
struct Pools: Resource {
    /// What a pool is to be.
    struct Draft {
        let driver: String
        let settings: [String: String]
        let isolation: PoolRecord.Isolation
        let whenFull: PoolRecord.WhenFull
        let labels: [String: String]
    }

    static let noun = "pool"
    static let members = ["name", "driver", "settings", "isolation", "whenFull", "labels"]
    static let changeable = ["labels", "settings", "isolation", "whenFull"]
    /// The services have a number for each.
    static let countMax: Int? = nil
    static let canBeForced = true
    /// What is noted of a request that starts a pool which did not run.
    fileprivate static let isStarted = "started"

    static let routes: [Route] = [
        Route(.get, "/v1/pools", RouteTable.readers, query: RouteTable.page, list),
        Route(.post, "/v1/pools", RouteTable.admin, idempotent: true, create),
        Route(.get, "/v1/pools/{name}", RouteTable.readers, show),
        Route(.patch, "/v1/pools/{name}", RouteTable.admin, patch),
        Route(.delete, "/v1/pools/{name}", RouteTable.admin, query: ["force"], delete),
        Route(
            .post, "/v1/pools/{name}/restart", RouteTable.admin, idempotent: true, ControlPlane.restartPool),
    ]

    let plane: ControlPlane
    let context: RequestContext

    // MARK: Showing

    /// No pool waits for another one, whose driver may hang.
    func bodies(_ pools: [PoolRecord]) async throws(Problem) -> [JSONValue] {
        let hosts = try await plane.driverHosts()
        let shown = await withTaskGroup(of: (place: Int, body: JSONValue).self) { group in
            for (place, pool) in pools.enumerated() {
                group.addTask { [plane] in (place, await plane.json(pool, hosts)) }
            }
            return await group.reduce(into: []) { $0.append($1) }.sorted { $0.place < $1.place }
        }
        return shown.map(\.body)
    }

    func body(_ pool: PoolRecord) async throws(Problem) -> JSONValue {
        await plane.json(pool, try await plane.driverHosts())
    }

    // MARK: Making

    func draft(_ fields: Fields) throws(Problem) -> Draft {
        Draft(
            driver: try fields.requiredName("driver"), settings: try fields.settings(),
            isolation: try fields.choice("isolation", of: PoolRecord.Isolation.self) ?? .isolated,
            whenFull: try fields.choice("whenFull", of: PoolRecord.WhenFull.self) ?? .wait,
            labels: try fields.labels() ?? [:])
    }

    /// Writes the intent, starts the driver, writes the record: a crash in between leaves nothing behind.
    func make(_ name: String, _ draft: Draft, undo: inout Undo) async throws(Problem) -> Made<PoolRecord> {
        try requireOwnPath(draft.settings["path"])
        let pool = PoolRecord(
            id: .random(using: plane.random), name: name, driver: draft.driver, settings: draft.settings,
            isolation: draft.isolation, whenFull: draft.whenFull, labels: draft.labels,
            createdAt: plane.wallClock.now())
        let isFolderNew = !PrivateFiles.exists("\(plane.poolsFolder)/\(name)")
        let intent = try await plane.begin(PoolIntentRecord(pool: pool, isFolderNew: isFolderNew))
        undo.add { [plane] in await plane.undoCreate(intent) }
        try await naming("settings") { () async throws(StatusError) in
            _ = try await plane.services.perform(.addPool(plane.descriptor(of: pool)))
        }
        var made = Made(pool, body: try await body(pool))
        made.changes.delete(intent)
        made.event = .poolCreated
        made.audit = ("pool created", ["pool": name, "driver": draft.driver])
        return made
    }

    // MARK: Changing

    func check(_ fields: Fields) throws(Problem) {
        let isolation = try fields.choice("isolation", of: PoolRecord.Isolation.self)
        if fields.has("isolation"), isolation == nil {
            throw Problem.invalid(
                "isolation", "cannot be removed", expected: "isolated or inline, or leave it out")
        }
        let whenFull = try fields.choice("whenFull", of: PoolRecord.WhenFull.self)
        if fields.has("whenFull"), whenFull == nil {
            throw Problem.invalid("whenFull", "cannot be removed", expected: "wait or fail, or leave it out")
        }
    }

    func apply(_ fields: Fields, to pool: inout PoolRecord) throws(Problem) {
        pool.labels = try fields.patchedLabels(pool.labels)
        pool.settings = try fields.patchedSettings(pool.settings)
        if let isolation = try fields.choice("isolation", of: PoolRecord.Isolation.self) {
            pool.isolation = isolation
        }
        if let whenFull = try fields.choice("whenFull", of: PoolRecord.WhenFull.self) {
            pool.whenFull = whenFull
        }
    }

    /// Settings that the driver can change while it runs are in force when this answers; isolation is from the next
    /// start of the server on.
    func write(
        _ wanted: PoolRecord, over stored: Stored<PoolRecord>
    ) async throws(Problem) -> Written<PoolRecord> {
        let before = stored.record
        guard wanted != before else { return Written(value: wanted) }
        var pool = wanted
        if pool.settings != before.settings { try await configure(pool) }
        pool.touch(plane.wallClock.now())
        do throws(Problem) { try await plane.put(pool, over: stored) } catch {
            // The driver goes back to what is on record; what it refuses, the next start puts right.
            if pool.settings != before.settings {
                do throws(StatusError) {
                    try await plane.services.perform(.configurePool(pool.name, before.settings))
                } catch {
                    plane.logger.error(
                        "a pool runs with settings that are not on record, until the next start",
                        metadata: ["pool": "\(pool.name)", "reason": "\(error.message)"])
                }
            }
            throw error
        }
        if pool.whenFull != before.whenFull, plane.fault(ofPool: pool.name) == nil {
            try await plane.perform(.setFullPolicy(pool.name, FullPolicy(pool.whenFull)))
        }
        plane.audit("pool changed", context, ["pool": pool.name, "isolation": pool.isolation.rawValue])
        return Written(value: pool)
    }

    /// Gives the running driver its new settings. A pool that does not run takes them when it is started.
    private func configure(_ pool: PoolRecord) async throws(Problem) {
        guard plane.fault(ofPool: pool.name) == nil else { return }
        try await naming("settings", unless: .notSupported) { () async throws(StatusError) in
            _ = try await plane.services.perform(.configurePool(pool.name, pool.settings))
        }
    }

    // MARK: Removing

    /// Removes a pool without volumes: the driver first, then the record. After a crash in between, the next start
    /// of the server starts the pool again. A pool that does not run is forgotten, with `force` alone.
    func remove(_ stored: Stored<PoolRecord>, isForced: Bool) async throws(Problem) -> ControlResponse {
        for kind in Kinds.inPools {
            guard let (count, name) = kind.users(ofPool: context.name, plane) else { continue }
            throw Problem(
                .inUse, "pool \(context.name) has \(count.counted(kind.noun)), such as \(name)",
                expected: "delete its \(kind.noun)s first")
        }
        let obstacle = try await plane.obstacle(inPool: context.name)
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
        try await plane.perform(.removePool(context.name))
        do throws(Problem) { try await plane.commit(changes) } catch {
            do throws(Problem) {
                try await plane.perform(.addPool(plane.descriptor(of: stored.record)))
            } catch {
                plane.note(error.detail, ofPool: context.name)
            }
            throw error
        }
        plane.live.withLock { live in
            live.poolFaults[context.name] = nil
            live.spaces[context.name] = nil
            live.looks[context.name] = nil
        }
        plane.removeFolder(of: context.name)
        var deletion = Deletion(resource: "pool/\(context.name)")
        if let obstacle {
            let words = "what lies in its folder or on its device stays: \(obstacle)"
            deletion.note = words
            plane.events.append(
                .poolForgotten, subject: "pool/\(context.name)",
                message: "deleted with force by \(context.caller.name): \(words)")
        } else {
            plane.events.append(
                .poolDeleted, subject: "pool/\(context.name)",
                message: "deleted by \(context.caller.name)\(isForced ? ", with force" : "")")
        }
        plane.audit(
            obstacle == nil ? "pool deleted" : "pool forgotten, its data stays", context,
            ["pool": context.name, "id": stored.record.id.hex, "forced": "\(isForced)"])
        return ControlResponse(status: .ok, json: deletion.json)
    }

    // MARK: Steps

    /// Refuses a folder or device that another pool of this server has: its driver could only say that somebody has it.
    private func requireOwnPath(_ path: String?) throws(Problem) {
        guard let path = path.map(PoolPath.plain) else { return }
        let other = plane.store.all(PoolRecord.self) { pool in
            pool.settings["path"].map { PoolPath.areSame(path, PoolPath.plain($0)) } ?? false
        }.first?.record
        guard let other else { return }
        throw Problem.invalid(
            "settings.path",
            "is that of pool \(other.name) of this server: a folder or device holds one pool",
            expected: "another folder or device, or make the volume in pool \(other.name)")
    }

    /// A wrong driver or setting is the caller's mistake; what the device says is its failure.
    private func naming(
        _ field: String, unless other: Status? = nil, _ body: () async throws(StatusError) -> Void
    ) async throws(Problem) {
        do throws(StatusError) { try await body() } catch {
            guard error.status.kind == .caller, error.status != other else { throw Problem(error) }
            throw Problem(.invalidField, error.message, field: field)
        }
    }
}

extension ControlPlane {
    /// `POST /v1/pools/{name}/restart`: a new driver host, also out of quarantine; a pool that did not start with the
    /// server is tried again. Of several that ask while it does not run, one has it started.
    func restartPool(_ context: RequestContext) async throws(Problem) -> ControlResponse {
        _ = try context.fields(known: [])
        let wasDown = try await isDown(context.name)
        return try await locks.withLock("pool/\(context.name)") { () async throws(Problem) in
            let pool = try pool(context.name).record
            if fault(ofPool: pool.name) != nil {
                // Whatever a repeat finds running, this or the start of a server has started.
                try await noting(context, as: Pools.isStarted) { () async throws(Problem) in
                    try await retryPool(pool)
                    try await expectAnswer(of: pool)
                }
            } else {
                let isMended = wasDown ? try await !isDown(pool.name) : false
                if !isMended {
                    try await once(context) { () async throws(Problem) in
                        try await perform(.restartDriver(pool.name))
                    }
                    for kind in Kinds.inPools { kind.goOn(inPool: pool.name, self) }
                }
                try await expectAnswer(of: pool)
            }
            audit("pool restarted", context, ["pool": pool.name])
            let body = await json(pool, try await driverHosts())
            let response = ControlResponse(status: .ok, json: body, tag: pool.entityTag)
            try await remember(response, for: context, body: body)
            return response
        }
    }

    /// Whether a pool does not run, and will not by itself.
    private func isDown(_ name: String) async throws(Problem) -> Bool {
        if fault(ofPool: name) != nil { return true }
        return try await driverHosts()[name].flatMap { $0 }?.state == .quarantined
    }

    /// Why a pool does not run; nil when it does.
    func fault(ofPool name: String) -> Fault? { live.withLock { $0.poolFaults[name] } }

    /// Notes why a pool does not run. Since when it does not stays as it was noted first.
    func note(_ fault: String, ofPool name: String) {
        let now = wallClock.now()
        live.withLock { live in
            live.poolFaults[name] = Fault(
                description: fault, since: live.poolFaults[name]?.since ?? now)
        }
    }

    func pool(_ name: String) throws(Problem) -> Stored<PoolRecord> {
        guard let stored = store.get(PoolRecord.self, name) else { throw Problem.notFound("pool", name) }
        return stored
    }
}
