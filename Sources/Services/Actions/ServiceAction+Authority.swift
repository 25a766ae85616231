import Core

extension ServiceAction<Void> {
    /// Replaces the keys (key id to Ed25519 public key) whose capabilities count.
    public static func trust(keys: [[UInt8]: [UInt8]]) -> Self { Self { $0.trust(keys) } }

    /// Adds a node, or changes its name or epoch.
    public static func setNode(id: Identifier, name: String, epoch: UInt64) -> Self {
        Self { await $0.setNode(id, name: name, epoch: epoch) }
    }

    /// Forgets a node: no capability of it counts any more.
    public static func removeNode(_ id: Identifier) -> Self { Self { await $0.removeNode(id) } }

    /// Changes what all capabilities of a grant may use together.
    public static func limitGrant(_ id: Identifier, _ limits: RateLimits) -> Self {
        Self { await $0.limit(grant: id, limits) }
    }

    /// Ends a capability for good; `expiry` (Unix seconds) is when it would have ended by itself.
    public static func revokeCapability(_ id: Identifier, expiry: UInt64, reason: String) -> Self {
        revokeCapabilities([(id, expiry)], reason: reason)
    }

    /// Ends several capabilities for good, as `revokeCapability` does one.
    public static func revokeCapabilities(
        _ ends: [(id: Identifier, expiry: UInt64)], reason: String
    ) -> Self {
        Self { services throws(StatusError) in try await services.revoke(ends, reason: reason) }
    }
}
