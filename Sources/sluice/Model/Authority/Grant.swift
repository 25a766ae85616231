/// A grant, as the control API describes it.
struct Grant: Presentable {
    var id: String
    var name: String
    var node: String
    /// `volume/NAME`.
    var resource: String
    var rights: [String]
    var range: RangeModel?
    var limits: LimitsModel?
    var lifetimeSecondsMax: UInt64?
    var expiresAt: String?
    var delegationDepth: Int?
    var labels: [String: String]?
    /// What there is to know of a grant that was just made or changed.
    var warning: String?
    var createdAt: String
    var updatedAt: String?

    static let columns = ["NAME", "NODE", "RESOURCE", "RIGHTS", "RANGE", "LIMITS", "EXPIRES"]

    var row: [String] {
        [
            name, node, resource, rights.joined(separator: ","), range?.text ?? "", limits?.text ?? "",
            expiresAt ?? "",
        ]
    }

    var details: [(name: String, value: String)] {
        [
            ("Name", name), ("ID", id), ("Node", node), ("Resource", resource),
            ("Rights", rights.joined(separator: ",")), ("Range", range?.text ?? "all of it"),
            ("Limits", limits?.text ?? ""), ("Expires", expiresAt ?? "never"),
            ("Capabilities live", lifetimeSecondsMax.map { "at most \($0) s" } ?? ""),
            ("Delegation depth", delegationDepth.map(String.init) ?? ""), ("Labels", labelText(labels)),
            ("Created", createdAt), ("Updated", updatedAt ?? ""),
        ]
    }
}

/// The body that creates a grant; nil leaves a member to the server's default.
struct GrantCreation: Encodable {
    var name: String
    var node: String
    /// `volume/NAME`.
    var resource: String
    var rights: [String]
    var range: RangeModel?
    var limits: LimitsModel?
    var lifetimeSecondsMax: UInt64?
    /// RFC 3339.
    var expiresAt: String?
    var delegationDepth: Int?
    var labels: [String: String]?
}
