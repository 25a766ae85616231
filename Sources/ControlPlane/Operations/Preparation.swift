import Catalog
import Core
import DriverKit
import Logging
import Services

/// Volumes whose device takes long to be prepared: the work goes on second by second beside everything else, also after a
/// restart, until it is done or the volume is deleted.
extension ControlPlane {
    /// Goes on with a volume in state `preparing`, on a task of its own.
    func goOnPreparing(_ volume: VolumeRecord) {
        let isFirst = live.withLock { live in
            guard live.preparing[volume.id] == nil else { return false }
            live.preparing[volume.id] = volume.size
            return true
        }
        guard isFirst else { return }
        Task { [weak self] in
            await self?.prepare(volume)
            self?.live.withLock { $0.preparing[volume.id] = nil }
        }
    }

    private func prepare(_ volume: VolumeRecord) async {
        do throws(Problem) {
            while isReady {
                guard store.get(VolumeRecord.self, volume.name)?.record.id == volume.id else { return }
                let outcome = try await perform(.prepareVolume(volume.id))
                if case .preparing(let left) = outcome {
                    live.withLock { $0.preparing[volume.id] = left }
                } else if case .geometry(let geometry) = outcome {
                    return try await finish(volume, blockSize: geometry.blockSize)
                }
            }
        } catch {
            // Deleting it was quicker.
            if error.code == .notFound { return }
            live.withLock { $0.volumeFaults[volume.id] = error.detail }
            events.append(.volumeFailed, subject: "volume/\(volume.name)", message: error.detail)
            logger.error(
                "a volume cannot be made",
                metadata: ["volume": "\(volume.name)", "reason": "\(error.detail)"])
        }
    }

    private func finish(_ volume: VolumeRecord, blockSize: UInt32) async throws(Problem) {
        try await locks.withLock("volume/\(volume.name)") { () async throws(Problem) in
            guard let stored = store.get(VolumeRecord.self, volume.name), stored.record.id == volume.id,
                stored.record.state == .preparing
            else { return }
            var ready = stored.record
            ready.state = .ready
            ready.blockSize = blockSize
            ready.touch(wallClock.now())
            let record = ready
            var changes = RecordChanges()
            try Problem.translating { () throws(CatalogError) in
                try changes.put(record, over: stored.revision)
            }
            try await commit(changes)
            events.append(
                .volumeReady, subject: "volume/\(volume.name)",
                message: "its device is prepared: it can be used")
        }
    }
}
