import Core

/// A pool, as the control API describes it.
struct Pool: Presentable {
    /// Space, in bytes.
    struct Capacity: Codable, Sendable {
        var total: UInt64
        var used: UInt64
        var free: UInt64
    }

    var id: String
    var name: String
    var driver: String
    var settings: [String: String]?
    /// Where its driver runs from the next start of the server on.
    var isolation: String?
    var labels: [String: String]?
    var capacity: Capacity?
    /// The number of its volumes.
    var volumes: Int?
    var state: String?
    /// What there is to say about the state.
    var message: String?
    var createdAt: String
    var updatedAt: String?

    static let columns = ["NAME", "DRIVER", "STATE", "VOLUMES", "USED", "FREE", "TOTAL", "LABELS"]

    var row: [String] {
        [
            name, driver, state ?? "", volumes.map(String.init) ?? "", size(capacity?.used),
            size(capacity?.free),
            size(capacity?.total), labelText(labels),
        ]
    }

    var details: [(name: String, value: String)] {
        [
            ("Name", name), ("ID", id), ("State", state ?? ""), ("Message", message ?? ""),
            ("Driver", driver),
            ("Settings", labelText(settings)), ("Isolation", isolation ?? ""),
            ("Volumes", volumes.map(String.init) ?? ""), ("Used", size(capacity?.used)),
            ("Free", size(capacity?.free)), ("Total", size(capacity?.total)), ("Labels", labelText(labels)),
            ("Created", createdAt), ("Updated", updatedAt ?? ""),
        ]
    }

    private func size(_ bytes: UInt64?) -> String { bytes.map { ByteCount($0).description } ?? "" }
}

/// The body that creates a pool.
struct PoolCreation: Encodable {
    var name: String
    var driver: String
    var settings: [String: String]?
    var isolation: String?
    var labels: [String: String]?
}

/// The body that changes a pool; what is nil stays, a member that is nil goes away.
struct PoolChange: Encodable {
    var settings: [String: String?]?
    var isolation: String?
    var labels: [String: String?]?
}

/// Where a pool's driver runs.
enum Isolation: String, CaseIterable {
    case isolated, inline
}
