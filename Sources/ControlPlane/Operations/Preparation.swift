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

    /// Goes on with the volumes of a pool that could not be prepared before.
    func goOnPreparing(in pool: String) {
        for stored in store.all(VolumeRecord.self, where: { $0.pool == pool && $0.state == .preparing }) {
            live.withLock { $0.volumeFaults[stored.record.id] = nil }
            goOnPreparing(stored.record)
        }
    }

    private func prepare(_ volume: VolumeRecord) async {
        do throws(Problem) {
            while isReady {
                guard store.get(VolumeRecord.self, volume.name)?.record.id == volume.id else { return }
                guard let outcome = try await prepareMore(volume.id) else { continue }
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

    /// A part of the work; nil, a second later, where the driver cannot be asked now, such as while it is replaced.
    private func prepareMore(_ id: Identifier) async throws(Problem) -> ServiceOutcome? {
        do throws(Problem) { return try await perform(.prepareVolume(id)) } catch {
            guard error.code == .busy else { throw error }
            try? await Task.sleep(for: .seconds(1))
            return nil
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
