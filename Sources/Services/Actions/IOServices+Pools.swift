import Core
import DriverKit

/// Pools, of whatever kind their resources are. Drivers are called on their pool's thread, in the order of the actions.
extension IOServices {
    func addPool(_ descriptor: PoolDescriptor) async throws(StatusError) {
        let number: UInt8 = try reserve(descriptor.name)
        let factory = configuration.driverFactory
        let pool: Pool
        var started: PoolWorker?
        do throws(StatusError) {
            let worker = try PoolWorker(executor: configuration.poolExecutor)
            started = worker
            pool = try await worker.run { () throws(StatusError) in
                Pool(
                    descriptor: descriptor, number: number, driver: try factory(descriptor), worker: worker)
            }
        } catch {
            started?.stop()
            state.withLock { state in
                state.poolsStarting.remove(descriptor.name)
                state.poolNumbersFree.append(number)
            }
            throw StatusError(error.status, "pool \(descriptor.name): \(error.message)")
        }
        let isStopped = state.withLock { state in
            state.poolsStarting.remove(descriptor.name)
            if !state.isStopped { state.directory.pools[descriptor.name] = pool }
            return state.isStopped
        }
        if isStopped {
            await end(pool)
            throw StatusError(.busy, "the server is stopping")
        }
        let errors = await fromEveryShard { shard -> StatusError? in
            do throws(StatusError) { try shard.addPort(pool) } catch { return error }
            return nil
        }
        if let error = errors.compactMap({ $0 }).first {
            state.withLock { $0.directory.pools[descriptor.name] = nil }
            let gone = await fromEveryShard { shard in shard.removePort(number) }
            await end(pool)
            if !gone.contains(false) { state.withLock { $0.poolNumbersFree.append(number) } }
            throw error
        }
        watch(pool)
        configuration.logger.info(
            "pool started", metadata: ["pool": "\(descriptor.name)", "driver": "\(descriptor.driver)"])
    }

    private func reserve(_ name: String) throws(StatusError) -> UInt8 {
        let number: UInt8? = try locked { state throws(StatusError) in
            guard state.directory.pools[name] == nil, !state.poolsStarting.contains(name) else {
                throw StatusError(.alreadyExists, "there is a pool \(name) already")
            }
            if let number = state.poolNumbersFree.popLast() {
                state.poolsStarting.insert(name)
                return number
            }
            guard Int(state.poolCount) < Limits.poolsMax else { return nil }
            state.poolCount += 1
            state.poolsStarting.insert(name)
            return state.poolCount - 1
        }
        guard let number else {
            throw StatusError(.busy, "the server has its most pools, \(Limits.poolsMax)")
        }
        return number
    }

    func space(of name: String) async throws(StatusError) -> PoolSpace {
        let pool = try pool(name)
        return try await onDriver(of: pool) { driver throws(StatusError) in
            let refusals = pool.refusals
            return PoolSpace(
                capacity: try driver.capacity(), used: try pool.usage(), notes: driver.notes,
                refusals: refusals.count, lastRefusal: refusals.last)
        }
    }

    /// Stops a pool that has no volumes. Nothing of it is under way then but answers that clients have yet to read.
    func removePool(_ name: String) async throws(StatusError) {
        let pool = try locked { state throws(StatusError) -> Pool? in
            if state.directory.resources.values.contains(where: { $0.pool == name }) {
                throw StatusError(.busy, "pool \(name) has volumes; delete them first")
            }
            return state.directory.pools.removeValue(forKey: name)
        }
        guard let pool else { return }
        let gone = await fromEveryShard { shard in shard.removePort(pool.number) }
        if gone.contains(false) {
            // Shards that have let go of it take it up again.
            state.withLock { $0.directory.pools[name] = pool }
            _ = await fromEveryShard { shard -> StatusError? in
                do throws(StatusError) { try shard.addPort(pool) } catch { return error }
                return nil
            }
            throw StatusError(.busy, "clients still read what was pool \(name)'s; try again")
        }
        await end(pool)
        state.withLock { $0.poolNumbersFree.append(pool.number) }
        configuration.logger.notice("pool removed", metadata: ["pool": "\(name)"])
    }

    // MARK: Helpers

    func pool(_ name: String) throws(StatusError) -> Pool {
        guard let pool = state.withLock({ $0.directory.pools[name] }) else {
            throw StatusError(.notFound, "there is no pool \(name)")
        }
        return pool
    }

    func onDriver<Value: Sendable>(
        of pool: Pool, _ body: @escaping @Sendable (any PoolDriver) throws(StatusError) -> Value
    ) async throws(StatusError) -> Value {
        try await pool.worker.run { () throws(StatusError) in
            try body(pool.driver)
        }
    }

    func locked<Value: Sendable>(
        _ body: (inout State) throws(StatusError) -> Value
    ) throws(StatusError) -> Value {
        try state.withLock { state throws(StatusError) in try body(&state) }
    }
}
