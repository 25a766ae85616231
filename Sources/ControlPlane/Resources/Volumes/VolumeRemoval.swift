import Catalog
import Core
import Logging
import Services

extension ControlPlane {
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
        // What is forgotten stays on its device: also when the server is lost now, no later start may delete it.
        let (marked, intent) =
            obstacle == nil
            ? try await markDeleting(stored) : (stored, store.get(IntentRecord.self, stored.record.id.hex))
        if let operation = live.withLock({ $0.operations.underWay(on: marked.record.id) }) {
            end(operation, .cancelled)
        }
        do throws(Problem) {
            try await perform(
                obstacle == nil
                    ? .deleteVolume(marked.record.id, pool: pool) : .forgetVolume(marked.record.id))
        } catch {
            // The record stays in state `deleting`: repeat the request, or the next start goes on.
            guard error.code == .notFound else {
                noteUndeleted(marked.record, error.detail)
                throw error
            }
        }
        // After a crash in between, the next start completes the deletion.
        let grants = try await removeGrants { $0.resourceID == marked.record.id }
        var changes = RecordChanges()
        changes.delete(marked)
        if let intent { changes.delete(intent) }
        for marker in markers(of: marked.record.id) { changes.delete(marker) }
        try await commit(changes)
        live.withLock { live in
            live.readyAnswers[name] = nil
            live.volumeFaults[marked.record.id] = nil
        }
        capabilitiesHaveEnded()
        var deletion = Deletion(resource: "volume/\(name)", grants: grants)
        if let obstacle {
            let words =
                "its record is gone, what it held stays: \(obstacle). Its id there is \(marked.record.id.hex)"
            deletion.note = words
            events.append(
                .volumeForgotten, subject: "volume/\(name)",
                message: "deleted with force by \(context.caller.name): \(words)")
        } else {
            events.append(
                .volumeDeleted, subject: "volume/\(name)",
                message: "deleted by \(context.caller.name)\(isForced ? ", with force" : ""); its id was "
                    + marked.record.id.hex)
        }
        audit(
            obstacle == nil ? "volume deleted" : "volume forgotten, its data stays", context,
            [
                "volume": name, "id": marked.record.id.hex, "forced": "\(isForced)",
                "grants": "\(grants)",
            ])
        return deletion
    }

    /// Says of a volume that is to go why it is still there. Nothing goes on with it by itself, so it is no operation.
    func noteUndeleted(_ volume: VolumeRecord, _ why: String) {
        let words =
            "its space was not given back: \(why). Repeat the deletion: 'sluice volume delete \(volume.name)'; the next"
            + " start of the server does so too"
        live.withLock { $0.volumeFaults[volume.id] = words }
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

    /// The sessions that have a volume open.
    func sessionsUsing(_ volume: Identifier) async throws(Problem) -> [SessionInfo] {
        let sessions = try await perform(.listSessions)
        return sessions.filter { session in session.openVolumes.contains { $0.id == volume } }
    }

    private func markDeleting(
        _ stored: Stored<VolumeRecord>
    ) async throws(Problem) -> (Stored<VolumeRecord>, Stored<IntentRecord>?) {
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
