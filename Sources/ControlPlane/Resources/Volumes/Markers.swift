import Catalog
import Core
import HTTPTypes
import Services

/// `/v1/volumes/{name}/markers`: from when on it is noted what of a volume is changed. A node sees those of volumes that are
/// granted to it.
struct Markers: Resource {
    static let noun = "marker"
    static let members = ["name"]
    static let takesRoom = false

    static let routes: [Route] = [
        Route(.get, "/v1/volumes/{name}/markers", RouteTable.everyRole, query: RouteTable.page, list),
        Route(.post, "/v1/volumes/{name}/markers", RouteTable.admin, idempotent: true, create),
        Route(.get, "/v1/volumes/{name}/markers/{marker}", RouteTable.everyRole, show),
        Route(.delete, "/v1/volumes/{name}/markers/{marker}", RouteTable.admin, delete),
    ]

    let plane: ControlPlane
    let context: RequestContext

    static func bringUp(_ plane: ControlPlane) async throws(Problem) {
        let markers = Dictionary(
            grouping: plane.store.all(MarkerRecord.self).map(\.record), by: \.volume)
        try await plane.perform(.sweepMarkers(markers.mapValues { $0.map(\.id) }))
    }

    var name: String { context.parameters["marker"] ?? "" }
    func name(of marker: MarkerRecord) -> String { marker.name }

    func key(of name: String) throws(Problem) -> String {
        MarkerRecord.key(volume: try visibleVolume().id, name: name)
    }

    /// The lock of the volume.
    func lock(of name: String) -> String { "volume/\(context.name)" }

    func selection() throws(Problem) -> Selection<MarkerRecord> {
        let volume = try visibleVolume().id
        return Selection { $0.volume == volume }
    }

    func body(_ marker: MarkerRecord) async throws(Problem) -> JSONValue {
        let volume = try visibleVolume()
        return json(marker, of: volume, await infos(of: volume)[marker.id])
    }

    func bodies(_ markers: [MarkerRecord]) async throws(Problem) -> [JSONValue] {
        let volume = try visibleVolume()
        let infos = await infos(of: volume)
        return markers.map { json($0, of: volume, infos[$0.id]) }
    }

    func draft(_ fields: Fields) throws(Problem) {}

    func checkCount() throws(Problem) {
        guard plane.markers(of: try visibleVolume().id).count >= Limits.markersPerVolumeMax else { return }
        throw Problem(
            .limitReached, "volume \(context.name) has its most markers, \(Limits.markersPerVolumeMax)",
            expected: "delete one that is not needed any more")
    }

    /// Tells the reactors, then writes the record. A crash in between leaves a file that the next start removes.
    func make(_ name: String, _: Void, undo: inout Undo) async throws(Problem) -> Made<MarkerRecord> {
        let volume = try plane.readyVolume(context.name)
        let marker = MarkerRecord(
            id: .random(using: plane.random), name: name, volume: volume.record.id,
            createdAt: plane.wallClock.now())
        let info = try await plane.perform(
            .createMarker(marker.id, volume: marker.volume), inPool: volume.record.pool)
        undo.add { [self] in await takeBack(marker) }
        var made = Made(marker, body: json(marker, of: volume.record, info))
        made.changes.require(volume)
        made.audit = ("marker set", ["volume": context.name, "marker": name, "id": marker.id.hex])
        return made
    }

    /// Removes the record, then the rest, which the next start completes after a crash.
    func remove(_ stored: Stored<MarkerRecord>, isForced: Bool) async throws(Problem) -> ControlResponse {
        let marker = stored.record
        var changes = RecordChanges()
        changes.delete(stored)
        try await plane.commit(changes)
        try await plane.perform(.deleteMarker(marker.id, volume: marker.volume))
        plane.audit("marker deleted", context, ["volume": context.name, "marker": marker.name])
        return ControlResponse(status: .noContent)
    }

    // MARK: Steps

    private func takeBack(_ marker: MarkerRecord) async {
        do throws(Problem) {
            try await plane.perform(.deleteMarker(marker.id, volume: marker.volume))
        } catch {
            plane.logger.error(
                "a marker that was not set is left for the next start",
                metadata: [
                    "volume": "\(context.name)", "marker": "\(marker.name)", "reason": "\(error.detail)",
                ])
        }
    }

    private func visibleVolume() throws(Problem) -> VolumeRecord {
        let volume = try plane.volume(context.name).record
        if let node = context.caller.node, !plane.volumesGranted(to: node).contains(volume.id) {
            throw Problem.notFound("volume", context.name)
        }
        return volume
    }

    /// What the services know of a volume's markers; nothing while it cannot be used.
    private func infos(of volume: VolumeRecord) async -> [Identifier: MarkerInfo] {
        guard let infos = try? await plane.perform(.volumeMarkers(volume.id)) else { return [:] }
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

extension ControlPlane {
    /// The markers of a volume, in order of their names.
    func markers(of volume: Identifier) -> [Stored<MarkerRecord>] {
        store.all(MarkerRecord.self) { $0.volume == volume }
    }
}
