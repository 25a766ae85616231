import Catalog
import Core
import DriverKit
import Logging
import Services

extension ControlPlane {
    /// Makes the data side what the catalog says, completes or undoes what a crash left, and answers requests from then on.
    ///
    /// A pool or volume that does not come up is reported by the API and does not keep the others from starting.
    public func start() async throws(Problem) {
        try await adoptAdministrator()
        await lookAtCertificates()
        try await perform(.trust(keys: trustedKeys))
        for stored in store.all(NodeRecord.self) {
            let node = stored.record
            try await perform(.setNode(id: node.id, name: node.name, epoch: node.epoch))
        }
        try await restoreRevocations()
        // Together: one whose device is slow is not to keep the others from serving.
        await withTaskGroup { group in
            for stored in store.all(PoolRecord.self) {
                group.addTask { await self.startPool(stored.record) }
            }
        }
        for stored in store.all(VolumeRecord.self, where: { $0.state != .deleting }) {
            let volume = stored.record
            await publish(volume, poolFault: live.withLock { $0.poolFaults[volume.pool]?.description })
        }
        for stored in store.all(IntentRecord.self) { await settle(stored) }
        let markers = Dictionary(grouping: store.all(MarkerRecord.self).map(\.record), by: \.volume)
        try await perform(.sweepMarkers(markers.mapValues { $0.map(\.id) }))
        try await restoreSessions()
        await sweep(force: true)
        let now = wallClock.now()
        live.withLock { live in
            live.startedAt = now
            live.isReady = true
        }
        goOnWithVolumes()
        watchSpace()
    }

    /// The keys whose capabilities count: the one that signs, and old ones until their last capability has ended.
    private var trustedKeys: [[UInt8]: [UInt8]] {
        let now = wallClock.now()
        var keys: [[UInt8]: [UInt8]] = [:]
        for stored in store.all(KeyRecord.self) {
            let key = stored.record
            guard key.verifiesUntil.map({ $0 >= now }) ?? true, let id = Hex.decode(key.keyID),
                let publicKey = Hex.decode(key.publicKey)
            else { continue }
            keys[id] = publicKey
        }
        return keys
    }

    private func restoreRevocations() async throws(Problem) {
        // Also those that have ended: the clock may be ahead, and set back later.
        let revoked = store.all(CapabilityRecord.self) { $0.revokedAt != nil }
        for stored in revoked {
            let record = stored.record
            try await perform(
                .revokeCapability(record.id, expiry: record.expiresAt, reason: record.reason ?? "revoked"))
        }
    }

    private func startPool(_ pool: PoolRecord) async {
        do throws(Problem) {
            try await perform(.addPool(descriptor(of: pool)))
        } catch {
            note(error.detail, ofPool: pool.name)
            events.append(
                .poolNotStarted, subject: "pool/\(pool.name)",
                message:
                    "it did not start with the server, and its volumes cannot be used: \(error.detail). When that is"
                    + " mended: 'sluice pool restart \(pool.name)'")
            logger.error(
                "pool did not start", metadata: ["pool": "\(pool.name)", "reason": "\(error.detail)"])
        }
    }

    /// Tries once more to start a pool that did not start with the server, and publishes its volumes.
    func retryPool(_ pool: PoolRecord) async throws(Problem) {
        do throws(Problem) {
            try await perform(.addPool(descriptor(of: pool)))
        } catch {
            note(error.detail, ofPool: pool.name)
            throw error
        }
        let volumes = store.all(VolumeRecord.self) { $0.pool == pool.name && $0.state != .deleting }
        for stored in volumes {
            live.withLock { $0.volumeFaults[stored.record.id] = nil }
            await publish(stored.record, poolFault: nil)
        }
        // Now that its volumes are there, what waits for it goes on.
        let fault = live.withLock { $0.poolFaults.removeValue(forKey: pool.name) }
        if let fault {
            events.append(
                .poolWorks, subject: "pool/\(pool.name)",
                message: "it was started; it had not run since \(Timestamp.text(fault.since))")
        }
        for stored in store.all(IntentRecord.self, where: { $0.volume.pool == pool.name }) {
            await settle(stored)
        }
        goOnWithVolumes(in: pool.name)
    }

    private func publish(_ volume: VolumeRecord, poolFault: String?) async {
        let volume = poolFault == nil ? await refilled(volume) : volume
        var fault = poolFault.map { "pool \(volume.pool) does not run: \($0)" }
        do throws(Problem) {
            // Also without its pool: who may write to it keeps others away until the pool runs.
            let pool = store.get(PoolRecord.self, volume.pool)?.record
            try await perform(
                .publishVolume(
                    descriptor(of: volume), markers: markers(of: volume.id).map(\.record.id),
                    contentsLost: pool.map(isVolatile) == true))
        } catch {
            fault = error.detail
        }
        guard let fault else { return }
        live.withLock { $0.volumeFaults[volume.id] = fault }
        logger.error(
            "volume is not available", metadata: ["volume": "\(volume.name)", "reason": "\(fault)"])
    }

    /// A volume that was in memory is there again, empty: with a new epoch, so that nobody goes on with what is lost.
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
    private func settle(_ stored: Stored<IntentRecord>) async {
        let intent = stored.record
        do throws(Problem) {
            if let fault = live.withLock({ $0.poolFaults[intent.volume.pool] }) {
                throw Problem(.deviceFailed, "pool \(intent.volume.pool) does not run: \(fault)")
            }
            switch intent.action {
            case .createVolume, .deleteVolume: try await settleRemoval(stored)
            case .resizeVolume: try await settleResize(stored)
            }
            logger.notice(
                "interrupted operation settled",
                metadata: ["action": "\(intent.action.rawValue)", "volume": "\(intent.volume.name)"])
        } catch {
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
        var changes = RecordChanges()
        changes.delete(intent)
        if let stored = store.get(VolumeRecord.self, volume.name), stored.record.id == volume.id {
            changes.delete(stored)
        }
        for marker in markers(of: volume.id) { changes.delete(marker) }
        try await commit(changes)
    }

    /// Completes a growth of which no more than a second's work is left. Others go on when the server is ready, and what
    /// is wrong with them is found out then.
    private func settleResize(_ intent: Stored<IntentRecord>) async throws(Problem) {
        guard let growth = LongOperation(intent.record),
            store.get(VolumeRecord.self, growth.name)?.record.id == growth.volume
        else {
            var changes = RecordChanges()
            changes.delete(intent)
            return try await commit(changes)
        }
        guard
            case .preparing(left: 0)? = try? await perform(.prepareVolume(growth.volume, to: growth.size))
        else { return }
        try await finishGrowth(growth)
    }

    func descriptor(of pool: PoolRecord) -> PoolDescriptor {
        PoolDescriptor(
            name: pool.name, driver: pool.driver, settings: pool.settings,
            folder: "\(poolsFolder)/\(pool.name)", isolation: DriverIsolation(pool.isolation),
            whenFull: FullPolicy(pool.whenFull))
    }

    func descriptor(of volume: VolumeRecord) -> VolumeDescriptor {
        VolumeDescriptor(
            id: volume.id, name: volume.name, pool: volume.pool, size: volume.size,
            accessMode: volume.accessMode, epoch: volume.epoch, epochReason: volume.epochReason,
            limits: volume.limits, blockSize: volume.blockSize)
    }
}
