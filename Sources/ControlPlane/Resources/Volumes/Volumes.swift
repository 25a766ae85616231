import Catalog
import Core
import DriverKit
import HTTPTypes
import Services

/// `/v1/volumes`: random-access bytes in a pool.
struct Volumes: Grantable {
    /// What a volume is to be.
    struct Draft {
        let size: UInt64
        let pool: String
        let accessMode: AccessMode
        let blockSize: UInt32?
        let limits: RateLimits
        let labels: [String: String]
    }

    static let noun = "volume"
    static let members = ["name", "size", "pool", "accessMode", "blockSize", "limits", "labels"]
    static let changeable = ["size", "accessMode", "limits", "labels"]
    static let canBeForced = true
    static let kind = ResourceKind.volume
    static let rights: Rights = [.read, .write, .discard, .flush, .resize, .snapshot]

    static let routes: [Route] = [
        Route(.get, "/v1/volumes", RouteTable.everyRole, query: RouteTable.page + ["pool"], list),
        Route(.post, "/v1/volumes", RouteTable.admin, idempotent: true, create),
        Route(.get, "/v1/volumes/{name}", RouteTable.everyRole, show),
        Route(.patch, "/v1/volumes/{name}", RouteTable.admin, patch),
        Route(
            .post, "/v1/volumes/{name}/fence", RouteTable.admin, idempotent: true, urgent: true,
            ControlPlane.fenceVolume
        ),
        Route(
            .delete, "/v1/volumes/{name}", RouteTable.admin, query: ["force"], urgent: true, delete),
    ]

    let plane: ControlPlane
    let context: RequestContext

    static func target(_ volume: VolumeRecord) -> GrantTarget {
        GrantTarget(
            resource: volume.reference, epoch: volume.epoch, size: volume.size,
            isGoing: volume.state == .deleting, obstacle: obstacle(to: volume))
    }

    /// Why a volume cannot be used or changed now; nil where it can.
    static func obstacle(to volume: VolumeRecord) -> Problem? {
        switch volume.state {
        case .ready: nil
        case .preparing:
            Problem(
                .conflict, "volume \(volume.name) is still being made", expected: "wait until it is ready")
        case .deleting:
            Problem(
                .conflict, "volume \(volume.name) is being deleted", expected: "repeat the deletion")
        }
    }

    // MARK: Showing

    /// A node sees those that are granted to it.
    func selection() throws(Problem) -> Selection<VolumeRecord> {
        let pool = try context.nameFilter("pool")
        let granted = context.caller.node.map(plane.volumesGranted)
        return Selection { volume in
            (pool == nil || volume.pool == pool) && (granted?.contains(volume.id) ?? true)
        }
    }

    func isVisible(_ volume: VolumeRecord) -> Bool {
        context.caller.node.map { plane.volumesGranted(to: $0).contains(volume.id) } ?? true
    }

    func bodies(_ volumes: [VolumeRecord]) async throws(Problem) -> [JSONValue] {
        let hosts = try await plane.driverHosts()
        return volumes.map { plane.json($0, trouble: plane.trouble(of: $0, hosts)) }
    }

    func body(_ volume: VolumeRecord) -> JSONValue { plane.json(volume) }

    func answer(_ volume: VolumeRecord) async throws(Problem) -> ControlResponse {
        let writers = try await plane.perform(.volumeWriters(volume.id))
        let trouble = plane.trouble(of: volume, try await plane.driverHosts())
        let standing = plane.standing(of: volume)
        let made = trouble == nil && writers.isEmpty ? ReadyAnswer.Inputs(volume, standing) : nil
        if let made, let ready = plane.live.withLock({ $0.readyAnswers[volume.name] }), ready.inputs == made {
            return ready.response
        }
        let response = ControlResponse(
            status: .ok, json: plane.json(volume, standing, writers, trouble), tag: volume.entityTag)
        if let made {
            plane.live.withLock { live in
                if live.readyAnswers.count >= Limits.readyAnswersMax { live.readyAnswers.removeAll() }
                live.readyAnswers[volume.name] = ReadyAnswer(inputs: made, response: response)
            }
        }
        return response
    }

    // MARK: Making

    func draft(_ fields: Fields) throws(Problem) -> Draft {
        let size = try fields.requiredSize("size")
        let pool = try fields.resourceName("pool") ?? "default"
        let mode = try fields.choice("accessMode", of: AccessMode.self) ?? .singleWriter
        let blockSize = try fields.integer("blockSize", in: 512...4096)
        if let blockSize, blockSize != 512 && blockSize != 4096 {
            throw Problem.invalid("blockSize", "is \(blockSize)", expected: "512 or 4096")
        }
        return Draft(
            size: size, pool: pool, accessMode: mode, blockSize: blockSize.map { UInt32($0) },
            limits: try fields.rateLimits() ?? .none, labels: try fields.labels() ?? [:])
    }

    /// Writes the intent, makes it on its device, writes the record: a crash in between leaves nothing behind.
    func make(
        _ name: String, _ draft: Draft, undo: inout Undo
    ) async throws(Problem) -> Made<VolumeRecord> {
        guard let pool = plane.store.get(PoolRecord.self, draft.pool) else {
            throw Problem.invalid("pool", "\(draft.pool) does not exist", expected: "the name of a pool")
        }
        var volume = VolumeRecord(
            id: .random(using: plane.random), name: name, pool: draft.pool, size: draft.size,
            accessMode: draft.accessMode, limits: draft.limits, blockSize: draft.blockSize,
            labels: draft.labels, createdAt: plane.wallClock.now())
        let intent = try await plane.begin(IntentRecord(.createVolume, volume: volume), requiring: pool)
        undo.add { [plane] in await plane.undoCreate(intent) }
        var making: LongOperation?
        switch try await plane.perform(.createVolume(plane.descriptor(of: volume)), inPool: draft.pool) {
        case .made(let geometry): volume.blockSize = geometry.blockSize
        case .preparing(let left):
            volume.state = .preparing
            making = LongOperation(making: volume)
            making?.left = left
        }
        let body = plane.json(volume, making)
            .warning(await plane.overcommitment(of: pool.record, with: volume))
        var made = Made(volume, body: body)
        made.changes.delete(intent)
        if let making {
            made.status = .accepted
            made.then = { [plane] () async throws(Problem) in plane.goOn(with: making) }
        }
        made.event = .volumeCreated
        made.audit = (
            "volume created", ["volume": name, "id": volume.id.hex, "size": "\(volume.size)"]
        )
        return made
    }

    // MARK: Changing

    func check(_ fields: Fields) throws(Problem) {
        _ = try fields.size("size")
        _ = try fields.choice("accessMode", of: AccessMode.self)
        for member in ["size", "accessMode"] where fields.has(member) && fields.value(member) == nil {
            throw Problem.invalid(member, "cannot be removed", expected: "a value, or leave it out")
        }
    }

    func subject() throws(Problem) -> Stored<VolumeRecord> { try plane.readyVolume(name) }

    func apply(_ fields: Fields, to volume: inout VolumeRecord) throws(Problem) {
        volume.labels = try fields.patchedLabels(volume.labels)
        if let mode = try fields.choice("accessMode", of: AccessMode.self) { volume.accessMode = mode }
        if fields.has("limits") { volume.limits = try fields.rateLimits(over: volume.limits) ?? .none }
        guard let size = try fields.size("size") else { return }
        guard size >= volume.size else {
            throw Problem(
                .shrink, "size \(size) is below the present size", field: "size",
                expected: "\(volume.size) or more")
        }
        volume.size = size
    }

    /// The size is left to an operation where the device takes long to grow; all else is in force when this answers.
    func write(
        _ wanted: VolumeRecord, over stored: Stored<VolumeRecord>
    ) async throws(Problem) -> Written<VolumeRecord> {
        let before = stored.record
        var volume = wanted
        volume.size = before.size
        var changes = RecordChanges()
        var growth: LongOperation?
        var isInForce = false
        let changed: VolumeRecord
        do throws(Problem) {
            if volume.accessMode != before.accessMode || volume.limits != before.limits {
                // The services come first, for they may refuse: more sessions write than the new mode allows.
                try await plane.perform(.updateVolume(plane.descriptor(of: volume)), inPool: volume.pool)
                isInForce = true
            }
            if wanted.size > before.size {
                growth = try await plane.grow(&volume, to: wanted.size, &changes)
            }
            if volume != before { volume.touch(plane.wallClock.now()) }
            let next = volume
            changed = next
            try Problem.translating { () throws(CatalogError) in
                if next != before { try changes.put(next, over: stored.revision) }
            }
            if !changes.isEmpty { try await plane.commit(changes) }
        } catch {
            if isInForce { await plane.takeBack(to: before) }
            if let growth { await plane.takeBack(growth) }
            throw error
        }
        if let growth { plane.goOn(with: growth) }
        if changed != before || growth != nil {
            plane.audit(
                "volume changed", context,
                [
                    "volume": changed.name, "size": "\(changed.size)",
                    "growsTo": "\(growth?.size ?? changed.size)",
                ])
        }
        if changed.size > before.size {
            plane.events.append(
                .volumeGrown, subject: "volume/\(changed.name)",
                message: "it has \(changed.size) bytes now, and had \(before.size), by \(context.caller.name)"
            )
        }
        var words: String?
        if wanted.size > before.size {
            words = await plane.overcommitment(of: try plane.pool(changed.pool).record, with: wanted)
        }
        return Written(value: changed, operation: growth, warning: words)
    }

    // MARK: Removing

    /// Marks the volume, so that nothing new begins on it, deletes it on its device, then its record. While its
    /// pool does not run that is refused; with `force` the record goes all the same, and the data stays.
    func remove(_ stored: Stored<VolumeRecord>, isForced: Bool) async throws(Problem) -> ControlResponse {
        let users = try await plane.sessionsUsing(stored.record.id)
        if let first = users.first, !isForced {
            throw Problem(
                .inUse,
                "\(users.count.counted("session has", "sessions have")) it open, such as \(first.id) of \(first.nodeName ?? "no node")",
                expected: "detach it first, or delete with ?force=true")
        }
        let deletion = try await plane.remove(stored, for: context, isForced: isForced)
        return ControlResponse(status: .ok, json: deletion.json)
    }
}

extension ControlPlane {
    func volume(_ name: String) throws(Problem) -> Stored<VolumeRecord> {
        guard let stored = store.get(VolumeRecord.self, name) else { throw Problem.notFound("volume", name) }
        return stored
    }

    func readyVolume(_ name: String) throws(Problem) -> Stored<VolumeRecord> {
        let stored = try volume(name)
        if let obstacle = Volumes.obstacle(to: stored.record) { throw obstacle }
        return stored
    }

    /// The ids of the volumes that a node has a grant on.
    func volumesGranted(to node: NodeRecord) -> Set<Identifier> {
        Set(store.all(GrantRecord.self) { $0.nodeID == node.id }.map(\.record.resourceID))
    }
}
