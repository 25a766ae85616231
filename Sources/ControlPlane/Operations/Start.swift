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
        try await restoreRevocations()
        for kind in Kinds.all { try await kind.bringUp(self) }
        try await restoreSessions()
        await sweep(force: true)
        let now = wallClock.now()
        live.withLock { live in
            live.startedAt = now
            live.isReady = true
        }
        for kind in Kinds.inPools { kind.goOn(inPool: nil, self) }
        watchSpace()
    }

    /// The keys whose capabilities count: the one that signs, and old ones until their last capability has ended.
    var trustedKeys: [[UInt8]: [UInt8]] {
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
}
