import Catalog
import Core
import DriverKit
import HTTPTypes
import Services

extension ControlPlane {
    /// `GET /v1/volumes`; a node sees those that are granted to it.
    func listVolumes(_ context: RequestContext) async throws(Problem) -> ControlResponse {
        let page = try context.page()
        let pool = try context.nameFilter("pool")
        let granted = context.caller.node.map(volumesGranted)
        let found = store.page(VolumeRecord.self, after: page.after, limit: page.limit + 1) { volume in
            (pool == nil || volume.pool == pool) && (granted?.contains(volume.id) ?? true)
        }
        let hosts = try await driverHosts()
        return page.answer(
            found.map { ($0.record.name, json($0.record, trouble: trouble(of: $0.record, hosts))) })
    }

    /// `GET /v1/volumes/{name}`
    func showVolume(_ context: RequestContext) async throws(Problem) -> ControlResponse {
        let volume = try volume(context.name).record
        if let node = context.caller.node, !volumesGranted(to: node).contains(volume.id) {
            throw Problem.notFound("volume", context.name)
        }
        let tag = volume.entityTag
        let isAtRest = live.withLock { $0.operations.underWay(on: volume.id) == nil }
        let writers = try await perform(.volumeWriters(volume.id))
        let trouble = trouble(of: volume, try await driverHosts())
        guard writers.isEmpty, trouble == nil else {
            return ControlResponse(status: .ok, json: json(volume, writers, trouble), tag: tag)
        }
        let ready = live.withLock { live -> ControlResponse? in
            guard isAtRest, let known = live.readyAnswers[volume.name], known.tag == tag else { return nil }
            return known.response
        }
        if let ready { return ready }
        let response = ControlResponse(status: .ok, json: json(volume, writers), tag: tag)
        live.withLock { live in
            guard isAtRest, live.operations.underWay(on: volume.id) == nil,
                live.volumeFaults[volume.id] == nil, volume.state == .ready
            else { return }
            if live.readyAnswers.count >= Limits.readyAnswersMax { live.readyAnswers.removeAll() }
            live.readyAnswers[volume.name] = (tag, response)
        }
        return response
    }

    /// `POST /v1/volumes`: intent, device, record; a crash in between leaves nothing behind.
    func createVolume(_ context: RequestContext) async throws(Problem) -> ControlResponse {
        let fields = try context.fields(
            known: ["name", "size", "pool", "accessMode", "blockSize", "limits", "labels"])
        let name = try fields.requiredName("name")
        let size = try fields.requiredSize("size")
        let poolName = try fields.resourceName("pool") ?? "default"
        let mode = try fields.choice("accessMode", of: AccessMode.self) ?? .singleWriter
        let blockSize = try fields.integer("blockSize", in: 512...4096)
        if let blockSize, blockSize != 512 && blockSize != 4096 {
            throw Problem.invalid("blockSize", "is \(blockSize)", expected: "512 or 4096")
        }
        let limits = try fields.rateLimits() ?? .none
        let labels = try fields.labels() ?? [:]
        try await requireRoom()
        return try await locks.withLock("volume/\(name)") { () async throws(Problem) in
            guard store.get(VolumeRecord.self, name) == nil else { throw Problem.exists("volume", name) }
            guard let pool = store.get(PoolRecord.self, poolName) else {
                throw Problem.invalid("pool", "\(poolName) does not exist", expected: "the name of a pool")
            }
            guard store.count(VolumeRecord.self) < Limits.recordsPerKindMax else {
                throw Problem(.limitReached, "the server has its most volumes, \(Limits.recordsPerKindMax)")
            }
            var volume = VolumeRecord(
                id: .random(using: random), name: name, pool: poolName, size: size, accessMode: mode,
                limits: limits, blockSize: blockSize.map { UInt32($0) }, labels: labels,
                createdAt: wallClock.now())
            var making: LongOperation?
            let intent = try await begin(IntentRecord(.createVolume, volume: volume), requiring: pool)
            do throws(Problem) {
                switch try await perform(.createVolume(descriptor(of: volume))) {
                case .made(let geometry): volume.blockSize = geometry.blockSize
                case .preparing(let left):
                    volume.state = .preparing
                    making = LongOperation(making: volume)
                    making?.left = left
                }
            } catch {
                await undoCreate(intent)
                throw error
            }
            let made = volume
            var changes = RecordChanges()
            changes.delete(intent)
            try Problem.translating { () throws(CatalogError) in try changes.insert(made) }
            var body = json(made, making)
            if case .object(var members) = body, let words = await overcommitment(of: pool.record, with: made)
            {
                members["warning"] = .string(words)
                body = .object(members)
            }
            let response = ControlResponse(
                status: made.state == .ready ? .created : .accepted, json: body, tag: made.entityTag,
                location: "/v1/volumes/\(name)")
            try record(response, for: context, in: &changes, body: body)
            do throws(Problem) {
                try await commit(changes)
            } catch {
                await undoCreate(intent)
                throw error
            }
            if let making { goOn(with: making) }
            audit("volume created", context, ["volume": name, "id": made.id.hex, "size": "\(size)"])
            return response
        }
    }

    /// `PATCH /v1/volumes/{name}`: size (up), access mode, limits, labels. Where the device takes long to grow, the size is
    /// an operation; all else is in force when this answers.
    func patchVolume(_ context: RequestContext) async throws(Problem) -> ControlResponse {
        let fields = try context.fields(known: ["size", "accessMode", "limits", "labels"])
        let size = try fields.size("size")
        let mode = try fields.choice("accessMode", of: AccessMode.self)
        for member in ["size", "accessMode"] where fields.has(member) && fields.value(member) == nil {
            throw Problem.invalid(member, "cannot be removed", expected: "a value, or leave it out")
        }
        return try await locks.withLock("volume/\(context.name)") { () async throws(Problem) in
            let stored = try readyVolume(context.name)
            try context.checkPrecondition(stored.record.entityTag)
            var volume = stored.record
            volume.labels = try fields.patchedLabels(volume.labels)
            if let mode { volume.accessMode = mode }
            if fields.has("limits") { volume.limits = try fields.rateLimits(over: volume.limits) ?? .none }
            if let size, size < volume.size {
                throw Problem(
                    .shrink, "size \(size) is below the present size", field: "size",
                    expected: "\(volume.size) or more")
            }
            var changes = RecordChanges()
            var growth: LongOperation?
            if let size, size > volume.size { growth = try await grow(&volume, to: size, &changes) }
            if volume != stored.record { volume.touch(wallClock.now()) }
            let changed = volume
            do throws(Problem) {
                try Problem.translating { () throws(CatalogError) in
                    if changed != stored.record { try changes.put(changed, over: stored.revision) }
                }
                if !changes.isEmpty { try await commit(changes) }
            } catch {
                if let growth, !live.withLock({ $0.operations.isUnderWay(growth) }) {
                    do throws(Problem) { try await withdraw(growth) } catch let second {
                        logger.error(
                            "a growth that was refused is tried again at the next start",
                            metadata: ["volume": "\(volume.name)", "reason": "\(second.detail)"])
                    }
                }
                throw error
            }
            if let growth { goOn(with: growth) }
            if volume.accessMode != stored.record.accessMode || volume.limits != stored.record.limits {
                try await perform(.updateVolume(descriptor(of: volume)))
            }
            if changed != stored.record || growth != nil {
                audit(
                    "volume changed", context,
                    [
                        "volume": volume.name, "size": "\(volume.size)",
                        "growsTo": "\(growth?.size ?? volume.size)",
                    ])
            }
            return ControlResponse(
                status: growth == nil ? .ok : .accepted, json: json(volume), tag: volume.entityTag,
                location: growth?.location)
        }
    }

    /// `DELETE /v1/volumes/{name}`: marked first, so that nothing new begins; then the device; then the record. Refused
    /// while its pool does not run; with `force` its record goes then, and its data stays.
    func deleteVolume(_ context: RequestContext) async throws(Problem) -> ControlResponse {
        let isForced = try context.flag("force")
        return try await locks.withLock("volume/\(context.name)") { () async throws(Problem) in
            let stored = try volume(context.name)
            try context.checkPrecondition(stored.record.entityTag)
            let users = try await sessionsUsing(stored.record.id)
            if let first = users.first, !isForced {
                throw Problem(
                    .inUse,
                    "\(users.count) session(s) have it open, such as \(first.id) of \(first.nodeName ?? "no node")",
                    expected: "detach it first, or delete with ?force=true")
            }
            return ControlResponse(
                status: .ok, json: try await remove(stored, for: context, isForced: isForced).json)
        }
    }

    /// Deletes a volume and what hangs on it, and ends what is under way on it. Its lock is held.
    @discardableResult
    func remove(
        _ stored: Stored<VolumeRecord>, for context: RequestContext, isForced: Bool = false
    ) async throws(Problem) -> Deletion {
        let (name, pool) = (stored.record.name, stored.record.pool)
        let obstacle = try await obstacle(inPool: pool)
        if let obstacle, !isForced {
            throw Problem(
                .conflict, "\(obstacle). Nothing of volume \(name) was deleted",
                expected:
                    "'sluice pool restart \(pool)' first, or a deletion with force, which forgets the volume and"
                    + " leaves what it holds where that is")
        }
        let (marked, intent) = try await markDeleting(stored)
        if let operation = live.withLock({ $0.operations.underWay(on: marked.record.id) }) {
            end(operation, .cancelled)
        }
        do throws(Problem) {
            try await perform(
                obstacle == nil
                    ? .deleteVolume(marked.record.id, pool: pool) : .forgetVolume(marked.record.id))
        } catch {
            // The record stays in state `deleting`: repeat the request, or the next start goes on.
            guard error.code == .notFound else { throw error }
        }
        var changes = RecordChanges()
        changes.delete(marked)
        changes.delete(intent)
        let grants = store.all(GrantRecord.self) { $0.resourceID == marked.record.id }
        for grant in grants.prefix(Limits.cascadeRecordsMax) { changes.delete(grant) }
        for marker in markers(of: marked.record.id) { changes.delete(marker) }
        try await commit(changes)
        live.withLock { live in
            live.readyAnswers[name] = nil
            live.volumeFaults[marked.record.id] = nil
        }
        capabilitiesHaveEnded()
        var deletion = Deletion(resource: "volume/\(name)", grants: grants.count)
        if let obstacle {
            let words =
                "its record is gone, what it held stays: \(obstacle). Its id there is \(marked.record.id.hex)"
            deletion.note = words
            events.append(
                .volumeForgotten, subject: "volume/\(name)",
                message: "deleted with force by \(context.caller.name): \(words)")
        }
        audit(
            obstacle == nil ? "volume deleted" : "volume forgotten, its data stays", context,
            [
                "volume": name, "id": marked.record.id.hex, "forced": "\(isForced)",
                "grants": "\(grants.count)",
            ])
        return deletion
    }

    /// Why a pool's driver cannot be asked to delete anything until somebody restarts the pool; nil when it can.
    func obstacle(inPool name: String) async throws(Problem) -> String? {
        let condition = condition(of: try pool(name).record, try await driverHosts())
        let why = condition.message.map { ": \($0)" } ?? ""
        return switch condition.state {
        case .failed: "pool \(name) does not run\(why)"
        case .quarantined: "pool \(name) is quarantined\(why)"
        case .starting, .ready, .recovering, .upgrading: nil
        }
    }

    /// `POST /v1/volumes/{name}/fence`: durable first, then in force on every reactor, then the answer.
    func fenceVolume(_ context: RequestContext) async throws(Problem) -> ControlResponse {
        let fields = try context.fields(known: ["reason"])
        let reason = try fields.text("reason", bytesMax: Limits.reasonBytesMax)
        return try await locks.withLock("volume/\(context.name)") { () async throws(Problem) in
            let stored = try readyVolume(context.name)
            var volume = stored.record
            let words = "fenced by \(context.caller.name)" + (reason.map { ": \($0)" } ?? "")
            volume.epoch += 1
            volume.epochReason = words
            volume.touch(wallClock.now())
            let fenced = volume
            var changes = RecordChanges()
            try Problem.translating { () throws(CatalogError) in
                try changes.put(fenced, over: stored.revision)
            }
            try await commit(changes)
            let sessions = try await perform(.fenceVolume(descriptor(of: fenced), reason: words))
            capabilitiesHaveEnded()
            events.append(.volumeFenced, subject: "volume/\(fenced.name)", message: words)
            audit(
                "volume fenced", context,
                [
                    "volume": fenced.name, "epoch": "\(fenced.epoch)", "sessions": "\(sessions.count)",
                    "reason": reason ?? "",
                ])
            let body = JSONValue.object([
                "volume": .string(fenced.name), "epoch": .integer(fenced.epoch),
                "sessions": .array(sessions.map(json)),
            ])
            let response = ControlResponse(status: .ok, json: body, tag: fenced.entityTag)
            try await remember(response, for: context, body: body)
            return response
        }
    }

    // MARK: Steps

    private func json(_ session: FencedSession) -> JSONValue {
        .object([
            "session": .string(session.session.hex), "node": .optional(session.nodeName),
            "wasWriting": .bool(session.wasWriting),
        ])
    }

    /// Why a volume cannot be used, as far as that is its pool's fault; nil when it is not.
    private func trouble(of volume: VolumeRecord, _ hosts: [String: DriverHostReport?]) -> String? {
        guard let pool = store.get(PoolRecord.self, volume.pool)?.record else { return nil }
        let condition = condition(of: pool, hosts)
        guard condition.state == .quarantined else { return nil }
        let since = condition.since.map { " since \(Timestamp.text($0))" } ?? ""
        return "pool \(pool.name) is quarantined\(since): \(condition.message ?? "")"
    }

    private func json(
        _ volume: VolumeRecord, _ writers: [WriterInfo], _ trouble: String? = nil
    ) -> JSONValue {
        guard case .object(var members) = json(volume, trouble: trouble) else { return json(volume) }
        members["writers"] = .array(
            writers.map { writer in
                .object([
                    "session": .string(writer.session.hex), "node": .optional(writer.nodeName),
                    "since": .string(Timestamp.text(writer.since)),
                ])
            })
        return .object(members)
    }

    func volume(_ name: String) throws(Problem) -> Stored<VolumeRecord> {
        guard let stored = store.get(VolumeRecord.self, name) else { throw Problem.notFound("volume", name) }
        return stored
    }

    func readyVolume(_ name: String) throws(Problem) -> Stored<VolumeRecord> {
        let stored = try volume(name)
        switch stored.record.state {
        case .ready: return stored
        case .preparing:
            throw Problem(.conflict, "volume \(name) is still being made", expected: "wait until it is ready")
        case .deleting:
            throw Problem(.conflict, "volume \(name) is being deleted", expected: "repeat the deletion")
        }
    }

    /// The ids of the volumes that a node has a grant on.
    func volumesGranted(to node: NodeRecord) -> Set<Identifier> {
        Set(store.all(GrantRecord.self) { $0.nodeID == node.id }.map(\.record.resourceID))
    }

    private func sessionsUsing(_ volume: Identifier) async throws(Problem) -> [SessionInfo] {
        try await perform(.listSessions).filter { session in session.openVolumes.contains { $0.id == volume }
        }
    }

    private func begin(
        _ intent: IntentRecord, requiring pool: Stored<PoolRecord>? = nil
    ) async throws(Problem) -> Stored<IntentRecord> {
        var changes = RecordChanges()
        let previous = store.get(IntentRecord.self, intent.recordKey)?.revision ?? 0
        try Problem.translating { () throws(CatalogError) in try changes.put(intent, over: previous) }
        if let pool { changes.require(pool) }
        try await commit(changes)
        guard let stored = store.get(IntentRecord.self, intent.recordKey) else {
            throw Problem(.internalError, "an intent was committed and is not there")
        }
        return stored
    }

    /// Takes a half-made volume away again; what the device refuses, the next start does.
    private func undoCreate(_ intent: Stored<IntentRecord>) async {
        do throws(Problem) {
            do throws(Problem) {
                try await perform(
                    .deleteVolume(intent.record.volume.id, pool: intent.record.volume.pool))
            } catch {
                guard error.code == .notFound else { throw error }
            }
            var changes = RecordChanges()
            changes.delete(intent)
            try await commit(changes)
        } catch {
            logger.error(
                "a volume that was not created is left for the next start",
                metadata: ["volume": "\(intent.record.volume.name)", "reason": "\(error.detail)"])
        }
    }

    /// Gives a volume its new size, together with `changes`; or, where its device takes long, begins to.
    ///
    /// - Returns: what takes long; nil when it has its new size.
    private func grow(
        _ volume: inout VolumeRecord, to size: UInt64, _ changes: inout RecordChanges
    ) async throws(Problem) -> LongOperation? {
        let id = volume.id
        if let growing = live.withLock({ $0.operations.underWay(on: id) }) {
            if growing.size == size { return growing }
            throw Problem(
                .conflict, "volume \(volume.name) is growing to \(growing.size) bytes", field: "size",
                expected: "wait until it has, or DELETE \(growing.location) first")
        }
        let intent = try await begin(
            IntentRecord(
                resizing: volume, to: size, operation: .random(using: random), since: wallClock.now()))
        do throws(Problem) {
            let left = try await prepare(id, to: size)
            if left > 0 {
                var growth = LongOperation(intent.record)
                growth?.left = left
                return growth
            }
            try await perform(.resizeVolume(id, size))
        } catch {
            var undo = RecordChanges()
            undo.delete(intent)
            try await commit(undo)
            throw error
        }
        volume.size = size
        changes.delete(intent)
        return nil
    }

    private func markDeleting(
        _ stored: Stored<VolumeRecord>
    ) async throws(Problem) -> (Stored<VolumeRecord>, Stored<IntentRecord>) {
        let intent = IntentRecord(.deleteVolume, volume: stored.record)
        var changes = RecordChanges()
        let previous = store.get(IntentRecord.self, intent.recordKey)?.revision ?? 0
        var volume = stored.record
        volume.state = .deleting
        volume.touch(wallClock.now())
        let marked = volume
        try Problem.translating { () throws(CatalogError) in
            try changes.put(intent, over: previous)
            try changes.put(marked, over: stored.revision)
        }
        try await commit(changes)
        guard let intent = store.get(IntentRecord.self, intent.recordKey) else {
            throw Problem(.internalError, "an intent was committed and is not there")
        }
        return (try self.volume(volume.name), intent)
    }

    /// A volume as it is shown.
    ///
    /// - Parameters:
    ///   - beginning: what begins on it with the answer.
    ///   - trouble: why its pool cannot serve it.
    func json(
        _ volume: VolumeRecord, _ beginning: LongOperation? = nil, trouble: String? = nil
    ) -> JSONValue {
        let fault = live.withLock { $0.volumeFaults[volume.id] } ?? trouble
        var members: [String: JSONValue] = [
            "id": .string(volume.id.hex), "name": .string(volume.name), "pool": .string(volume.pool),
            "size": .integer(volume.size), "accessMode": .string(volume.accessMode.rawValue),
            "limits": volume.limits.json, "labels": .strings(volume.labels),
            "createdAt": .string(Timestamp.text(volume.createdAt)),
            "updatedAt": .string(Timestamp.text(volume.updatedAt)),
        ]
        let state = fault != nil && volume.state != .deleting ? "unavailable" : volume.state.rawValue
        members["blockSize"] = volume.blockSize.map { .integer(UInt64($0)) }
        let (used, underWay) = live.withLock { live in
            (live.spaces[volume.pool]?.space?.used[volume.id], live.operations.underWay(on: volume.id))
        }
        members["used"] = used.map(JSONValue.integer)
        let operation = underWay ?? beginning
        members["operation"] = operation.map { .string($0.id.hex) }
        members["progress"] = operation?.progress
        members["state"] = .string(state)
        members["message"] = fault.map(JSONValue.string)
        return .object(members)
    }
}

/// What a deletion has come to.
struct Deletion: Sendable, Hashable {
    /// What is no more, such as `volume/disk-1`.
    var resource: String
    /// How many grants went with it; nil for what has none.
    var grants: Int?
    /// What stays, and why.
    var note: String?

    var json: JSONValue {
        var members: [String: JSONValue] = ["resource": .string(resource)]
        members["grants"] = grants.map { .integer(UInt64($0)) }
        members["note"] = note.map(JSONValue.string)
        return .object(members)
    }
}
