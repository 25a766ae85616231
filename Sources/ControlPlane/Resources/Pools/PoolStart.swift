import Catalog
import Core
import DriverKit
import Logging
import Services

/// How pools come up.
extension Pools {
    /// Takes away the pools that were being made when the server ended, and starts the others together: one whose
    /// device is slow keeps none from serving.
    static func bringUp(_ plane: ControlPlane) async throws(Problem) {
        for stored in plane.store.all(PoolIntentRecord.self) { await plane.undoCreate(stored) }
        await withTaskGroup { group in
            for stored in plane.store.all(PoolRecord.self) {
                group.addTask { await plane.startPool(stored.record) }
            }
        }
    }
}

extension ControlPlane {
    fileprivate func startPool(_ pool: PoolRecord) async {
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

    /// Tries once more to start a pool that did not start with the server, and takes up what it holds.
    func retryPool(_ pool: PoolRecord) async throws(Problem) {
        do throws(Problem) {
            try await perform(.addPool(descriptor(of: pool)))
        } catch {
            note(error.detail, ofPool: pool.name)
            throw error
        }
        for kind in Kinds.inPools { await kind.takeUp(inPool: pool.name, self) }
        // What the pool holds is there now: what waited for that goes on.
        let fault = live.withLock { $0.poolFaults.removeValue(forKey: pool.name) }
        if let fault {
            events.append(
                .poolWorks, subject: "pool/\(pool.name)",
                message: "it was started; it had not run since \(Timestamp.text(fault.since))")
        }
        for kind in Kinds.inPools {
            await kind.settle(inPool: pool.name, self)
            kind.goOn(inPool: pool.name, self)
        }
    }

    /// Whether the volumes of a pool are gone with the server, as its driver says.
    func isVolatile(_ pool: PoolRecord) -> Bool { volatility(pool.driver, pool.settings) }

    func descriptor(of pool: PoolRecord) -> PoolDescriptor {
        PoolDescriptor(
            name: pool.name, driver: pool.driver, settings: pool.settings,
            folder: "\(poolsFolder)/\(pool.name)", isolation: DriverIsolation(pool.isolation),
            whenFull: FullPolicy(pool.whenFull))
    }
}
