import Core
import DriverKit

/// Volumes. Drivers are called on their pool's thread, in the order of the actions.
extension IOServices {
    func volumesOnDevice(of name: String) async throws(StatusError) -> [Identifier: UInt64] {
        let pool = try pool(name)
        return try await onVolumes(of: pool) { driver throws(StatusError) in try driver.volumes() }
    }

    func create(_ descriptor: VolumeDescriptor) async throws(StatusError) -> VolumePreparation {
        try check(descriptor.size)
        let pool = try pool(descriptor.pool)
        try await onVolumes(of: pool) { driver throws(StatusError) in
            try driver.createVolume(descriptor.id, size: descriptor.size)
        }
        try publish(descriptor)
        // Most are ready at once, and small devices within a moment.
        for _ in 0..<Limits.preparationsAtOnce {
            let preparation = try await prepare(descriptor.id, to: descriptor.size)
            if case .made = preparation { return preparation }
        }
        return try await prepare(descriptor.id, to: descriptor.size)
    }

    private func check(_ size: UInt64) throws(StatusError) {
        guard size > 0, size <= Limits.volumeBytesMax, size % Limits.volumeSizeGranule == 0 else {
            throw StatusError(
                .badRequest, "a volume's size is a multiple of \(Limits.volumeSizeGranule) bytes")
        }
    }

    /// Has the driver do a part of what the volume still needs to have so many bytes, and opens a volume that is
    /// made when nothing is left.
    func prepare(_ id: Identifier, to size: UInt64) async throws(StatusError) -> VolumePreparation {
        try check(size)
        let (known, volume) = try volume(id)
        let pool = try pool(known.pool)
        return try await pool.worker.run { [self] () throws(StatusError) -> VolumePreparation in
            // A deletion that has begun meanwhile waits for this thread.
            guard state.withLock({ $0.directory.resources[id]?.isGoing }) == false else {
                throw StatusError(.notFound, "the volume is being deleted")
            }
            let left = try pool.volumes().prepareVolume(id, to: size)
            if left > 0 || size > volume.size { return .preparing(left: left) }
            return .made(try openGeometry(of: id, in: pool))
        }
    }

    func publish(_ descriptor: VolumeDescriptor) throws(StatusError) {
        if let refusal = state.withLock({ $0.directory.publish(descriptor) }) { throw refusal }
    }

    func resize(_ id: Identifier, to size: UInt64) async throws(StatusError) -> VolumeGeometry {
        let (known, _) = try volume(id)
        try check(size)
        let pool = try pool(known.pool)
        // Piece by piece, so that others have their turn.
        while try await onVolumes(
            of: pool,
            { driver throws(StatusError) in
                try driver.prepareVolume(id, to: size)
            }) > 0
        {}
        let geometry = try await pool.worker.run { [self] () throws(StatusError) in
            let before = try openGeometry(of: id, in: pool)
            guard size >= before.size else {
                throw StatusError(.notSupported, "a volume cannot shrink: it has \(before.size) bytes")
            }
            try pool.volumes().resizeVolume(id, to: size)
            var after = before
            after.size = size
            let grown = after
            state.withLock { state in
                state.directory.resources[id]?.volume?.geometry = grown
                state.directory.resources[id]?.volume?.size = size
            }
            return grown
        }
        await onEveryShard { shard, done in
            shard.resized(id, index: known.index, port: pool.number, size: size)
            done()
        }
        return geometry
    }

    func update(_ descriptor: VolumeDescriptor) async throws(StatusError) {
        let accessMode = state.withLock { $0.directory.resources[descriptor.id]?.accessMode }
        let now = self.now
        if accessMode != descriptor.accessMode {
            withDirectory { $0.endCourtesies(on: descriptor.id, now: now) }
        }
        let (epochBefore, limitsBefore) = try locked { state throws(StatusError) in
            let limits = state.directory.resources[descriptor.id]?.limits
            return (try state.directory.update(descriptor), limits)
        }
        if limitsBefore != descriptor.limits { await limit(descriptor.id, descriptor.limits) }
        guard epochBefore != descriptor.epoch else { return }
        configuration.logger.notice(
            "volume epoch changed",
            metadata: [
                "volume": "\(descriptor.name)", "id": "\(descriptor.id)", "epoch": "\(descriptor.epoch)",
            ])
        await fence(
            .resource(descriptor.id, keeping: descriptor.epoch), status: .revoked,
            reason: "the volume's epoch changed")
    }

    /// Cuts off everybody who has the volume open; returns who that was.
    func fence(_ descriptor: VolumeDescriptor, reason: String) async throws(StatusError) -> [FencedSession] {
        _ = try locked { state throws(StatusError) in try state.directory.update(descriptor) }
        configuration.logger.notice(
            "volume fenced",
            metadata: [
                "volume": "\(descriptor.name)", "id": "\(descriptor.id)", "epoch": "\(descriptor.epoch)",
                "reason": "\(reason)",
            ])
        let selector = HandleSelector.resource(descriptor.id, keeping: descriptor.epoch)
        let parts = SharedList<[Identifier: FencedSession]>()
        let lost = withDirectory { directory in
            let holders = directory.keptHolders(selector)
            directory.endKeptClaims(selector)
            return holders.map {
                FencedSession(session: $0, nodeName: directory.nodeName(of: $0), wasWriting: true)
            }
        }
        parts.append(Dictionary(uniqueKeysWithValues: lost.map { ($0.session, $0) }))
        await onEveryShard { [self] shard, done in
            parts.append(
                shard.holders(selector).reduce(into: [:]) { holders, holder in
                    let name = state.withLock { $0.directory.nodeName(of: holder.key) }
                    holders[holder.key] = FencedSession(
                        session: holder.key, nodeName: name, wasWriting: holder.value)
                })
            shard.fence(selector, status: .fenced, reason: reason, done: done)
        }
        let all = parts.all.reduce(into: [Identifier: FencedSession]()) { all, part in
            all.merge(part) { $0.wasWriting ? $0 : $1 }
        }
        return all.values.sorted { $0.session < $1.session }
    }

    func delete(_ id: Identifier, from name: String) async throws(StatusError) {
        guard let pool = state.withLock({ $0.directory.pools[name] }) else {
            throw StatusError(.driverFailed, "pool \(name) does not run: nothing of the volume is deleted")
        }
        let index = try await endUse(of: id, because: "deleted", in: pool)
        try await onVolumes(of: pool) { driver throws(StatusError) in try driver.deleteVolume(id) }
        if index != nil { withDirectory { $0.unpublish(id) } }
    }

    func forget(_ id: Identifier) async throws(StatusError) {
        let pool = state.withLock { state in
            state.directory.resources[id].flatMap { state.directory.pools[$0.pool] }
        }
        guard try await endUse(of: id, because: "forgotten", in: pool) != nil else { return }
        withDirectory { $0.unpublish(id) }
    }

    /// Takes a resource away from all its users and closes it; its markers go.
    ///
    /// - Returns: its index; nil when it is not published.
    private func endUse(
        of id: Identifier, because word: String, in pool: Pool?
    ) async throws(StatusError) -> UInt32? {
        let known = state.withLock { state in
            state.directory.resources[id]?.isGoing = true
            return state.directory.resources[id]
        }
        guard let known else { return nil }
        let (kind, name) = (known.kind.name, known.name)
        configuration.logger.notice("\(kind) \(word)", metadata: ["\(kind)": "\(name)", "id": "\(id)"])
        await fence(.resource(id, keeping: nil), status: .revoked, reason: "\(kind) \(name) was \(word)")
        guard let pool else { return known.index }
        try await pool.worker.run { [self] () throws(StatusError) in
            close(id, in: pool)
        }
        await onEveryShard { shard, done in
            shard.resourceClosed(id, index: known.index, port: pool.number)
            done()
        }
        try await deleteMarkers(of: id, pool: pool)
        return known.index
    }

    // MARK: Helpers

    func volume(
        _ id: Identifier
    ) throws(StatusError) -> (resource: PublishedResource, volume: PublishedVolume) {
        guard let known = state.withLock({ $0.directory.resources[id] }), !known.isGoing,
            let volume = known.volume
        else { throw StatusError(.notFound, "there is no volume \(id)") }
        return (known, volume)
    }

    private func onVolumes<Value: Sendable>(
        of pool: Pool, _ body: @escaping @Sendable (any VolumeDriver) throws(StatusError) -> Value
    ) async throws(StatusError) -> Value {
        try await pool.worker.run { () throws(StatusError) in
            try body(try pool.volumes())
        }
    }
}

extension Directory {
    /// Changes name, access mode, limits and epoch of a volume; returns the epoch that it had.
    mutating func update(_ descriptor: VolumeDescriptor) throws(StatusError) -> UInt64 {
        guard let known = resources[descriptor.id], !known.isGoing, known.kind == .volume else {
            throw StatusError(.notFound, "there is no volume \(descriptor.id)")
        }
        guard known.pool == descriptor.pool else {
            throw StatusError(.badRequest, "a volume stays in its pool")
        }
        guard descriptor.epoch >= known.epoch else {
            throw StatusError(.staleEpoch, "the volume's epoch is \(known.epoch) already")
        }
        let writersAllowed =
            switch descriptor.accessMode {
            case .shared: Int.max
            case .singleWriter: 1
            case .multiReader: 0
            }
        // A new epoch ends every handle: whoever writes now is no obstacle.
        let isFenced = descriptor.epoch > known.epoch
        guard isFenced || known.writers.count <= writersAllowed else {
            throw StatusError(
                .busy,
                "\(known.writers.count.counted("session writes", "sessions write")) to the volume: detach it there, or end them with "
                    + "'sluice session disconnect --end'")
        }
        resources[descriptor.id]?.name = descriptor.name
        resources[descriptor.id]?.accessMode = descriptor.accessMode
        resources[descriptor.id]?.epoch = descriptor.epoch
        resources[descriptor.id]?.epochReason = descriptor.epochReason
        resources[descriptor.id]?.limits = descriptor.limits
        // Who wrote with others before has it alone from now on.
        if known.accessMode == .shared, descriptor.accessMode == .singleWriter,
            let only = known.writers.keys.first, known.writers.count == 1
        {
            noteWriter(only, of: descriptor.id)
        }
        return known.epoch
    }
}
