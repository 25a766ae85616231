import Catalog
import Core
import DriverKit
import Logging
import Services

/// How volumes come up.
extension Volumes: InPool {
    static func bringUp(_ plane: ControlPlane) async throws(Problem) {
        for stored in plane.store.all(VolumeRecord.self, where: { $0.state != .deleting }) {
            let volume = stored.record
            await plane.publish(volume, poolFault: plane.fault(ofPool: volume.pool)?.description)
        }
        for stored in plane.store.all(IntentRecord.self) { await plane.settle(stored) }
    }

    static func takeUp(inPool pool: String, _ plane: ControlPlane) async {
        let volumes = plane.store.all(VolumeRecord.self) { $0.pool == pool && $0.state != .deleting }
        for stored in volumes {
            plane.live.withLock { $0.volumeFaults[stored.record.id] = nil }
            await plane.publish(stored.record, poolFault: nil)
        }
    }

    static func settle(inPool pool: String, _ plane: ControlPlane) async {
        for stored in plane.store.all(IntentRecord.self, where: { $0.volume.pool == pool }) {
            await plane.settle(stored)
        }
    }

    static func goOn(inPool pool: String?, _ plane: ControlPlane) { plane.goOnWithVolumes(in: pool) }

    static func users(ofPool pool: String, _ plane: ControlPlane) -> (count: Int, example: String)? {
        let volumes = plane.store.all(VolumeRecord.self) { $0.pool == pool }
        let intents = plane.store.page(IntentRecord.self, limit: 1) { $0.volume.pool == pool }
        guard let name = volumes.first?.record.name ?? intents.first?.record.volume.name else { return nil }
        return (max(volumes.count, 1), name)
    }
}

extension ControlPlane {
    fileprivate func publish(_ volume: VolumeRecord, poolFault: String?) async {
        let volume = poolFault == nil ? await refilled(volume) : volume
        var fault = poolFault.map { "pool \(volume.pool) does not run: \($0)" }
        do throws(Problem) {
            // The volume is published without its pool, too: whoever may write to it keeps others away until the
            // pool runs.
            let pool = store.get(PoolRecord.self, volume.pool)?.record
            try await perform(
                .publishVolume(
                    descriptor(of: volume), markers: markers(of: volume.id).map(\.record.id),
                    contentsLost: pool.map(isVolatile) ?? false))
        } catch {
            fault = error.detail
        }
        guard let fault else { return }
        live.withLock { $0.volumeFaults[volume.id] = fault }
        logger.error(
            "volume is not available", metadata: ["volume": "\(volume.name)", "reason": "\(fault)"])
    }

    /// Makes a volume again that was lost with the memory that it was in. It is empty and has a new epoch, so that
    /// nobody goes on with what it held.
    private func refilled(_ volume: VolumeRecord) async -> VolumeRecord {
        guard let pool = store.get(PoolRecord.self, volume.pool)?.record, isVolatile(pool) else {
            return volume
        }
        do throws(Problem) {
            let there = try await perform(.volumesOnDevice(pool.name))
            guard there[volume.id] == nil, let stored = store.get(VolumeRecord.self, volume.name)
            else { return volume }
            var empty = stored.record
            empty.epoch += 1
            empty.epochReason = "what it held was in memory, and was lost when the server was started again"
            empty.touch(wallClock.now())
            let changed = empty
            var changes = RecordChanges()
            try Problem.translating { () throws(CatalogError) in
                try changes.put(changed, over: stored.revision)
            }
            try await commit(changes)
            try await perform(.createVolume(descriptor(of: empty)))
            capabilitiesHaveEnded()
            events.append(
                .volumeEmptied, subject: "volume/\(empty.name)", message: empty.epochReason ?? "")
            return empty
        } catch {
            logger.error(
                "a volume in memory cannot be made again",
                metadata: ["volume": "\(volume.name)", "reason": "\(error.detail)"])
            return store.get(VolumeRecord.self, volume.name)?.record ?? volume
        }
    }

    /// Completes or undoes an operation that a crash interrupted. What the device refuses stays for the next start.
    fileprivate func settle(_ stored: Stored<IntentRecord>) async {
        let intent = stored.record
        do throws(Problem) {
            if let fault = fault(ofPool: intent.volume.pool) {
                throw Problem(.deviceFailed, "pool \(intent.volume.pool) does not run: \(fault)")
            }
            switch intent.action {
            case .createVolume, .deleteVolume: try await settleRemoval(stored)
            case .resizeVolume:
                guard try await settleResize(stored) else { return }
            }
            logger.notice(
                "interrupted operation settled",
                metadata: ["action": "\(intent.action.rawValue)", "volume": "\(intent.volume.name)"])
        } catch {
            if intent.action == .deleteVolume { noteUndeleted(intent.volume, error.detail) }
            logger.error(
                "interrupted operation is left for the next start",
                metadata: [
                    "action": "\(intent.action.rawValue)", "volume": "\(intent.volume.name)",
                    "reason": "\(error.detail)",
                ])
        }
    }

    private func settleRemoval(_ intent: Stored<IntentRecord>) async throws(Problem) {
        let volume = intent.record.volume
        try await perform(.publishVolume(descriptor(of: volume)))
        try await perform(.deleteVolume(volume.id, pool: volume.pool))
        _ = try await removeGrants { $0.resourceID == volume.id }
        var changes = RecordChanges()
        changes.delete(intent)
        if let stored = store.get(VolumeRecord.self, volume.name), stored.record.id == volume.id {
            changes.delete(stored)
        }
        for marker in markers(of: volume.id) { changes.delete(marker) }
        try await commit(changes)
        live.withLock { $0.volumeFaults[volume.id] = nil }
        guard intent.record.action == .deleteVolume else { return }
        capabilitiesHaveEnded()
        events.append(
            .volumeDeleted, subject: "volume/\(volume.name)",
            message: "its deletion, which was begun before, is complete; its id was \(volume.id.hex)")
    }

    /// Completes a growth of which no more than a second's work is left. Others go on when the server is ready, and
    /// what is wrong with them is found out then.
    ///
    /// - Returns: whether nothing is left to do.
    private func settleResize(_ intent: Stored<IntentRecord>) async throws(Problem) -> Bool {
        guard let growth = LongOperation(intent.record),
            store.get(VolumeRecord.self, growth.name)?.record.id == growth.volume
        else {
            var changes = RecordChanges()
            changes.delete(intent)
            try await commit(changes)
            return true
        }
        do throws(Problem) {
            guard case .preparing(left: 0) = try await perform(.prepareVolume(growth.volume, to: growth.size))
            else { return false }
        } catch {
            logger.warning(
                "an interrupted growth goes on later",
                metadata: ["volume": "\(growth.name)", "reason": "\(error.detail)"])
            return false
        }
        try await finishGrowth(growth)
        return true
    }

    func descriptor(of volume: VolumeRecord) -> VolumeDescriptor {
        VolumeDescriptor(
            id: volume.id, name: volume.name, pool: volume.pool, size: volume.size,
            accessMode: volume.accessMode, epoch: volume.epoch, epochReason: volume.epochReason,
            limits: volume.limits, blockSize: volume.blockSize)
    }
}
