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

/// The merge patch of a grant: nil leaves a member as it is, a nil within takes it away.
struct GrantChange: Encodable {
    var rights: [String]?
    var range: RangeModel??
    var limits: RateLimitsChange?
    var lifetimeSecondsMax: UInt64?
    /// RFC 3339.
    var expiresAt: String??
    var delegationDepth: Int?
    var labels: [String: String?]?

    /// Whether it changes nothing.
    var isEmpty: Bool {
        rights == nil && range == nil && limits == nil && lifetimeSecondsMax == nil && expiresAt == nil
            && delegationDepth == nil && labels == nil
    }

    private enum Key: String, CodingKey {
        case rights, range, limits, lifetimeSecondsMax, expiresAt, delegationDepth, labels
    }

    func encode(to encoder: any Encoder) throws {
        var container = encoder.container(keyedBy: Key.self)
        try container.encodeIfPresent(rights, forKey: .rights)
        if let range { try container.encode(range, forKey: .range) }
        try container.encodeIfPresent(limits, forKey: .limits)
        try container.encodeIfPresent(lifetimeSecondsMax, forKey: .lifetimeSecondsMax)
        if let expiresAt { try container.encode(expiresAt, forKey: .expiresAt) }
        try container.encodeIfPresent(delegationDepth, forKey: .delegationDepth)
        try container.encodeIfPresent(labels, forKey: .labels)
    }
}
