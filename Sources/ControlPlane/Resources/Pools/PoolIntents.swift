import Catalog
import Core
import Services

/// The making of pools, each with an intent on record before its driver is started.
extension ControlPlane {
    /// Takes a pool that did not come into being away again, its driver and its own folder.
    func undoCreate(_ intent: Stored<PoolIntentRecord>) async {
        let pool = intent.record.pool
        do throws(Problem) {
            if store.get(PoolRecord.self, pool.name) == nil {
                try await perform(.removePool(pool.name))
                live.withLock { $0.spaces[pool.name] = nil }
                if intent.record.isFolderNew { removeFolder(of: pool.name) }
            }
            var changes = RecordChanges()
            changes.delete(intent)
            try await commit(changes)
        } catch {
            logger.error(
                "a pool that was not created is left for the next start",
                metadata: ["pool": "\(pool.name)", "reason": "\(error.detail)"])
        }
    }

    /// Removes a deleted pool's own folder, if nothing is left in it but what the pool itself made.
    func removeFolder(of pool: String) {
        let path = "\(poolsFolder)/\(pool)"
        for name in ["chosen-folder", "device-volume"] { _ = PrivateFiles.remove("\(path)/\(name)") }
        guard !PrivateFiles.removeFolder(path) else { return }
        logger.notice("a deleted pool's folder stays, since it is not empty", metadata: ["folder": "\(path)"])
    }
}
