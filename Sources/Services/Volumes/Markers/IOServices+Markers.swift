import Core
import DriverKit
import Synchronization

/// Markers: what of a volume was changed since one was set. `docs/markers.md`.
extension IOServices {
    /// The markers of a volume, for shards.
    func markers(of volume: Identifier) -> [Marker] { state.withLock { $0.markers[volume] ?? [] } }

    func markerInfos(of id: Identifier) throws(StatusError) -> [MarkerInfo] {
        let size = try volume(id).volume.size
        return markers(of: id).map { MarkerInfo($0, size: size) }
    }

    /// Sets a marker: when it returns, every change that is not done yet is noted, and what was acknowledged before
    /// is durable.
    func createMarker(_ id: Identifier, of volumeID: Identifier) async throws(StatusError) -> MarkerInfo {
        let folder = try markerFolder()
        let (known, volume) = try volume(volumeID)
        let pool = try pool(known.pool)
        let bitmap = try await pool.worker.run { [self] () throws(StatusError) in
            try folder.create(id, of: volumeID, size: try openGeometry(of: volumeID, in: pool).size)
        }
        let isAdded = state.withLock { state in
            guard state.directory.resources[volumeID]?.isGoing == false,
                state.markers[volumeID, default: []].count < Limits.markersPerVolumeMax
            else { return false }
            state.markers[volumeID, default: []].append(Marker(id: id, bitmap: bitmap))
            return true
        }
        guard isAdded else {
            try folder.remove(id, of: volumeID)
            throw StatusError(.busy, "a volume has at most \(Limits.markersPerVolumeMax) markers")
        }
        await takeUpMarkers(of: volumeID, index: known.index, pool: pool)
        let status = await flush(known.index, of: pool)
        guard status == .ok else {
            try await deleteMarker(id, of: volumeID)
            throw StatusError(
                status, "what was written before the marker cannot be made durable (\(status.name))")
        }
        return MarkerInfo(Marker(id: id, bitmap: bitmap), size: volume.size)
    }

    /// Removes a marker; repeating it is harmless.
    func deleteMarker(_ id: Identifier, of volumeID: Identifier) async throws(StatusError) {
        let folder = try markerFolder()
        state.withLock { $0.markers[volumeID]?.removeAll { $0.id == id } }
        if let known = state.withLock({ $0.directory.resources[volumeID] }),
            let pool = state.withLock({ $0.directory.pools[known.pool] })
        {
            await takeUpMarkers(of: volumeID, index: known.index, pool: pool)
            return try await pool.worker.run { () throws(StatusError) in
                try folder.remove(id, of: volumeID)
            }
        }
        try folder.remove(id, of: volumeID)
    }

    /// Takes markers of before the server's start into use, before anybody can change their volume.
    func restoreMarkers(
        _ ids: [Identifier], of descriptor: VolumeDescriptor, contentsLost: Bool
    ) async throws(StatusError) {
        guard !ids.isEmpty, state.withLock({ $0.markers[descriptor.id] == nil }) else { return }
        let folder = try markerFolder()
        let restore: @Sendable () throws(StatusError) -> [Marker] = { () throws(StatusError) in
            var markers: [Marker] = []
            for id in ids {
                let bitmap = try folder.restore(
                    id, of: descriptor.id, size: descriptor.size, isLost: contentsLost)
                markers.append(Marker(id: id, bitmap: bitmap))
            }
            return markers
        }
        // Where the pool does not run, nobody can change the volume yet.
        let pool = state.withLock { $0.directory.pools[descriptor.pool] }
        let markers = if let pool { try await pool.worker.run(restore) } else { try restore() }
        state.withLock { $0.markers[descriptor.id] = markers }
    }

    /// Forgets the markers of a volume that is deleted.
    func deleteMarkers(of volume: Identifier, pool: Pool) async throws(StatusError) {
        let markers = state.withLock { $0.markers.removeValue(forKey: volume) }
        guard let markers, let folder = configuration.markers else { return }
        try await pool.worker.run { () throws(StatusError) in
            for marker in markers { try folder.remove(marker.id, of: volume) }
        }
    }

    /// Makes the bits of all markers last. No shard is left.
    func sealMarkers() {
        guard let folder = configuration.markers else { return }
        let all = state.withLock { state in
            defer { state.markers = [:] }
            return state.markers.values.flatMap { $0 }
        }
        for marker in all {
            if let bitmap = marker.bitmap { folder.seal(bitmap, marker: marker.id) }
        }
    }

    func sweepMarkers(keeping known: [Identifier: [Identifier]]) {
        configuration.markers?.sweep(keeping: known)
    }

    /// Has every reactor note changes for the markers that a volume has now.
    private func takeUpMarkers(of volume: Identifier, index: UInt32, pool: Pool) async {
        await onEveryShard { shard, done in
            shard.markersChanged(of: volume, index: index, port: pool.number)
            done()
        }
    }

    /// Makes durable what was written to a volume that is open, so that no power failure changes what a marker of it
    /// says was not changed.
    private func flush(_ index: UInt32, of pool: Pool) async -> Status {
        // One reactor's flush covers what the driver did for all. Without a reactor nobody has written.
        guard let link = state.withLock({ $0.shards.first }) else { return .ok }
        return await withCheckedContinuation { continuation in
            let isPosted = link.remote.post {
                link.shard.value.flushVolume(index, port: pool.number) { continuation.resume(returning: $0) }
            }
            if !isPosted { continuation.resume(returning: .busy) }
        }
    }

    private func markerFolder() throws(StatusError) -> MarkerFolder {
        guard let folder = configuration.markers else {
            throw StatusError(.notSupported, "this server keeps no markers")
        }
        return folder
    }
}
