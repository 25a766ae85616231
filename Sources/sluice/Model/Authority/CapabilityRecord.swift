/// An issued capability, as the control API describes it; the token comes only with the answer that issues it.
struct CapabilityRecord: Presentable {
    var id: String
    var node: String?
    var nodeID: String?
    var grant: String?
    var resource: String
    var resourceID: String?
    var rights: [String]
    var range: RangeModel?
    var limits: LimitsModel?
    var delegationDepth: Int?
    var holder: String?
    var keyID: String?
    var issuedAt: String?
    var notBefore: String?
    var expiresAt: String
    var revoked: Bool
    var revokedAt: String?
    /// What its node can do after its revocation.
    var warning: String?
    var reason: String?
    var token: String?

    static let columns = ["ID", "NODE", "RESOURCE", "RIGHTS", "EXPIRES", "REVOKED"]

    var row: [String] {
        [
            id, node ?? "", resource, rights.joined(separator: ","), expiresAt,
            revoked ? revokedAt ?? "yes" : "no",
        ]
    }

    var details: [(name: String, value: String)] {
        [
            ("ID", id), ("Node", node ?? ""), ("Grant", grant ?? ""), ("Resource", resource),
            ("Rights", rights.joined(separator: ",")), ("Range", range?.text ?? "all of it"),
            ("Limits", limits?.text ?? ""), ("Delegation depth", delegationDepth.map(String.init) ?? ""),
            ("Holder", holder ?? ""), ("Signing key", keyID ?? ""), ("Issued", issuedAt ?? ""),
            ("Not before", notBefore ?? ""), ("Expires", expiresAt),
            ("Revoked", revoked ? revokedAt ?? "yes" : "no"), ("Reason", reason ?? ""),
        ]
    }
}

/// The body that issues a capability; nil leaves a member to the grant.
struct CapabilityIssue: Encodable {
    /// `volume/NAME`.
    var resource: String
    var rights: [String]?
    var range: RangeModel?
    var limits: LimitsModel?
    var lifetimeSeconds: UInt64?
    var delegationDepth: Int?
    var grant: String?
    var node: String?
}

/// The body that revokes a capability.
struct CapabilityRevocation: Encodable {
    var reason: String?
}
