import Catalog
import Core
import Services

/// What is done on devices, each with an intent on record before it begins.
extension ControlPlane {
    /// Takes a half-made volume away again; what the device refuses, the next start does.
    func undoCreate(_ intent: Stored<IntentRecord>) async {
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

    /// Gives the services what is on record again, after a change that did not get there.
    func takeBack(to stored: VolumeRecord) async {
        do throws(Problem) { try await perform(.updateVolume(descriptor(of: stored))) } catch {
            logger.error(
                "a volume is used as it would be after a change that was not recorded, until it is changed again",
                metadata: ["volume": "\(stored.name)", "reason": "\(error.detail)"])
        }
    }

    /// Takes back a growth that was begun, and that nothing goes on with.
    func takeBack(_ growth: LongOperation) async {
        guard !live.withLock({ $0.operations.isUnderWay(growth) }) else { return }
        do throws(Problem) { try await withdraw(growth) } catch {
            logger.error(
                "a growth that was refused is tried again at the next start",
                metadata: ["volume": "\(growth.name)", "reason": "\(error.detail)"])
        }
    }

    /// Gives a volume its new size, together with `changes`; or, where its device takes long, begins to.
    ///
    /// - Returns: what takes long; nil when it has its new size.
    func grow(
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
            let left = try await prepare(volume, to: size)
            if left > 0 {
                var growth = LongOperation(intent.record)
                growth?.left = left
                return growth
            }
            try await perform(.resizeVolume(id, size), inPool: volume.pool)
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
}
