import Core

/// A pool, as the control API describes it.
struct Pool: Presentable {
    /// Space, in bytes.
    struct Capacity: Codable, Sendable {
        var total: UInt64
        var used: UInt64
        var free: UInt64
        /// What its volumes come to; nil where the server does not say.
        var provisioned: UInt64?
    }

    /// Whether it has the space that was promised.
    struct Space: Codable, Sendable {
        var state: String
        var since: String
        /// Writes that found no space.
        var refusals: UInt64?
        var lastRefusal: String?
    }

    var id: String
    var name: String
    var driver: String
    var settings: [String: String]?
    /// Where its driver runs from the next start of the server on.
    var isolation: String?
    var labels: [String: String]?
    var capacity: Capacity?
    var space: Space?
    /// What writes do when it is full.
    var whenFull: String?
    /// What its driver wants an operator to know.
    var notes: [String]?
    /// The number of its volumes.
    var volumes: Int?
    var state: String?
    /// Since when it is in it; nil for one that is well.
    var since: String?
    /// What there is to say about the state.
    var message: String?
    var createdAt: String
    var updatedAt: String?

    static let columns = [
        "NAME", "DRIVER", "STATE", "VOLUMES", "PROVISIONED", "USED", "FREE", "TOTAL", "LABELS",
    ]

    var row: [String] {
        [
            name, driver, condition, volumes.map(String.init) ?? "", size(capacity?.provisioned),
            size(capacity?.used),
            size(capacity?.free),
            size(capacity?.total), labelText(labels),
        ]
    }

    var details: [(name: String, value: String)] {
        let policy = whenFull.map { "writes \($0)" } ?? ""
        let remarks: [(name: String, value: String)] = (notes ?? []).map { ("Note", $0) }
        let facts: [(name: String, value: String)] = [
            ("Name", name), ("ID", id), ("State", condition), ("Since", since ?? ""),
            ("Message", message ?? ""),
            ("Driver", driver),
            ("Settings", labelText(settings)), ("Isolation", isolation ?? ""),
            ("When full", policy),
            ("Volumes", volumes.map(String.init) ?? ""), ("Provisioned", size(capacity?.provisioned)),
            ("Used", size(capacity?.used)),
            ("Free", size(capacity?.free)), ("Total", size(capacity?.total)), ("Labels", labelText(labels)),
            ("Created", createdAt), ("Updated", updatedAt ?? ""),
        ]
        return facts + remarks
    }

    /// Its state, with that of its space where that is not well.
    private var condition: String {
        let words = ["near-full": "nearly full", "full": "full"]
        return [state, space.flatMap { words[$0.state] }].compactMap { $0 }.joined(separator: ", ")
    }

    private func size(_ bytes: UInt64?) -> String { bytes.map { ByteCount($0).description } ?? "" }
}

/// The body that creates a pool.
struct PoolCreation: Encodable {
    var name: String
    var driver: String
    var settings: [String: String]?
    var isolation: String?
    var whenFull: String?
    var labels: [String: String]?
}

/// The body that changes a pool; what is nil stays, a member that is nil goes away.
struct PoolChange: Encodable {
    var settings: [String: String?]?
    var isolation: String?
    var whenFull: String?
    var labels: [String: String?]?
}

/// Where a pool's driver runs.
enum Isolation: String, CaseIterable {
    case isolated, inline
}

/// What writes do when a pool is full.
enum WhenFull: String, CaseIterable {
    case wait, fail
}
