import Catalog
import Core
import HTTPTypes
import Services

/// Markers of volumes: what was changed since.
extension ControlPlane {
    /// `GET /v1/volumes/{name}/markers`; a node sees those of volumes that are granted to it.
    func listMarkers(_ context: RequestContext) async throws(Problem) -> ControlResponse {
        let page = try context.page()
        let volume = try visibleVolume(context)
        let infos = await markerInfos(of: volume)
        let found = markers(of: volume.id).map(\.record).filter { $0.name > page.after ?? "" }
        return page.answer(
            found.prefix(page.limit + 1).map { ($0.name, json($0, of: volume, infos[$0.id])) })
    }

    /// `GET /v1/volumes/{name}/markers/{marker}`
    func showMarker(_ context: RequestContext) async throws(Problem) -> ControlResponse {
        let volume = try visibleVolume(context)
        let marker = try marker(context, of: volume).record
        let infos = await markerInfos(of: volume)
        return ControlResponse(status: .ok, json: json(marker, of: volume, infos[marker.id]))
    }

    /// `POST /v1/volumes/{name}/markers`: the reactors, then the record. A crash in between leaves a file that the next
    /// start removes.
    func createMarker(_ context: RequestContext) async throws(Problem) -> ControlResponse {
        let fields = try context.fields(known: ["name"])
        let name = try fields.requiredName("name")
        return try await locks.withLock("volume/\(context.name)") { () async throws(Problem) in
            let volume = try readyVolume(context.name)
            let existing = markers(of: volume.record.id)
            guard !existing.contains(where: { $0.record.name == name }) else {
                throw Problem.exists("marker", name)
            }
            guard existing.count < Limits.markersPerVolumeMax else {
                throw Problem(
                    .limitReached,
                    "volume \(context.name) has its most markers, \(Limits.markersPerVolumeMax)",
                    expected: "delete one that is not needed any more")
            }
            let marker = MarkerRecord(
                id: .random(using: random), name: name, volume: volume.record.id, createdAt: wallClock.now())
            let info = try await perform(.createMarker(marker.id, volume: volume.record.id))
            let body = json(marker, of: volume.record, info)
            let response = ControlResponse(
                status: .created, json: body, location: "/v1/volumes/\(context.name)/markers/\(name)")
            do throws(Problem) {
                var changes = RecordChanges()
                changes.require(volume)
                try Problem.translating { () throws(CatalogError) in try changes.insert(marker) }
                try record(response, for: context, in: &changes, body: body)
                try await commit(changes)
            } catch {
                try await perform(.deleteMarker(marker.id, volume: volume.record.id))
                throw error
            }
            audit(
                "marker set", context,
                ["volume": context.name, "marker": name, "id": marker.id.hex])
            return response
        }
    }

    /// `DELETE /v1/volumes/{name}/markers/{marker}`: the record, then the rest; the next start completes it.
    func deleteMarker(_ context: RequestContext) async throws(Problem) -> ControlResponse {
        try await locks.withLock("volume/\(context.name)") { () async throws(Problem) in
            let volume = try volume(context.name).record
            let stored = try marker(context, of: volume)
            var changes = RecordChanges()
            changes.delete(stored)
            try await commit(changes)
            try await perform(.deleteMarker(stored.record.id, volume: volume.id))
            audit("marker deleted", context, ["volume": context.name, "marker": stored.record.name])
            return ControlResponse(status: .noContent)
        }
    }

    // MARK: Steps

    /// The markers of a volume, in order of their names.
    func markers(of volume: Identifier) -> [Stored<MarkerRecord>] {
        store.all(MarkerRecord.self) { $0.volume == volume }
    }

    private func marker(
        _ context: RequestContext, of volume: VolumeRecord
    ) throws(Problem) -> Stored<MarkerRecord> {
        let name = context.parameters["marker"] ?? ""
        guard let stored = store.get(MarkerRecord.self, MarkerRecord.key(volume: volume.id, name: name))
        else {
            throw Problem.notFound("marker", name)
        }
        return stored
    }

    private func visibleVolume(_ context: RequestContext) throws(Problem) -> VolumeRecord {
        let volume = try volume(context.name).record
        if let node = context.caller.node, !volumesGranted(to: node).contains(volume.id) {
            throw Problem.notFound("volume", context.name)
        }
        return volume
    }

    /// What the services know of a volume's markers; nothing while it cannot be used.
    private func markerInfos(of volume: VolumeRecord) async -> [Identifier: MarkerInfo] {
        guard let infos = try? await perform(.volumeMarkers(volume.id)) else { return [:] }
        return Dictionary(uniqueKeysWithValues: infos.map { ($0.id, $0) })
    }

    private func json(_ marker: MarkerRecord, of volume: VolumeRecord, _ info: MarkerInfo?) -> JSONValue {
        var members: [String: JSONValue] = [
            "id": .string(marker.id.hex), "name": .string(marker.name), "volume": .string(volume.name),
            "createdAt": .string(Timestamp.text(marker.createdAt)),
        ]
        if let info {
            members["granularity"] = .integer(info.granularity)
            members["changedBytes"] = .integer(info.changedBytes)
            members["complete"] = .bool(info.isComplete)
        }
        return .object(members)
    }
}
