import Core
import DriverKit

/// What only drivers in processes of their own can do, and the end of all drivers.
extension IOServices {
    /// How the pools' driver hosts are. Never waits for a driver.
    func driverHosts() -> [String: DriverHostReport?] {
        let pools = state.withLock { $0.directory.pools }
        return pools.mapValues { ($0.driver as? any SupervisedDriver)?.report }
    }

    func restartDriver(of name: String) async throws(StatusError) {
        let pool = try pool(name)
        try await onSupervised(pool, "restarted") { driver throws(StatusError) in try driver.restart() }
    }

    func upgradeDriver(of name: String) async throws(StatusError) -> UInt64 {
        let pool = try pool(name)
        return try await onSupervised(pool, "upgraded") { driver throws(StatusError) in
            try driver.upgrade()
        }
    }

    func configure(_ name: String, settings: [String: String]) async throws(StatusError) {
        let pool = try pool(name)
        try await onDriver(of: pool) { driver throws(StatusError) in
            let isSupervised = driver is any SupervisedDriver
            try driver.configure(settings: isSupervised ? settings : try PoolSettings(settings).ofDriver)
        }
        configuration.logger.notice("pool configured", metadata: ["pool": "\(name)"])
    }

    /// Has the users of a pool hear when its driver is replaced.
    func watch(_ pool: Pool) {
        guard let driver = pool.driver as? any SupervisedDriver else { return }
        driver.observe { [weak self] event in
            let links = self?.state.withLock { $0.shards } ?? []
            let absence: DriverAbsence =
                switch event.state {
                case .recovering: .recovering
                case .quarantined where !driver.failsInQuarantine: .quarantined(event.message)
                case .starting, .running, .upgrading, .quarantined, .stopped: .none
                }
            for link in links {
                _ = link.remote.post { link.shard.value.driverChanged(pool.number, absence) }
            }
        }
    }

    /// Ends every driver's host and lets no other pool start. Call it when no channel is served any more.
    public func stop() async {
        let pools = state.withLock { state in
            state.isStopped = true
            state.poolsEnding = Set(state.directory.pools.keys)
            return Array(state.directory.pools.values)
        }
        await withTaskGroup { group in
            for pool in pools { group.addTask { await self.end(pool) } }
        }
        sealMarkers()
    }

    /// Ends a pool's host, after what the pool's thread was asked to do before, and that thread.
    func end(_ pool: Pool) async {
        if let driver = pool.driver as? any SupervisedDriver {
            do throws(StatusError) {
                try await pool.worker.run { () throws(StatusError) in driver.shutDown() }
            } catch {
                configuration.logger.error(
                    "a driver host was not ended in order",
                    metadata: ["pool": "\(pool.descriptor.name)", "reason": "\(error)"])
            }
        }
        pool.worker.stop()
        state.withLock { _ = $0.poolsEnding.remove(pool.descriptor.name) }
    }

    private func onSupervised<Value: Sendable>(
        _ pool: Pool, _ verb: String,
        _ body: @escaping @Sendable (any SupervisedDriver) throws(StatusError) -> Value
    ) async throws(StatusError) -> Value {
        guard let driver = pool.driver as? any SupervisedDriver else {
            throw StatusError(
                .notSupported,
                "pool \(pool.descriptor.name) runs inline, in the server itself: there is no driver host that could be "
                    + "\(verb); restart the server")
        }
        return try await onDriver(of: pool) { _ throws(StatusError) in try body(driver) }
    }
}
