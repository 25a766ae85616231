import Core

/// A pool's driver and its host, as the control API describes them.
struct Driver: Presentable {
    /// How a host ended.
    struct End: Codable, Sendable {
        var cause: String
        var message: String
        var at: String
    }

    var pool: String
    var driver: String
    /// Where it runs now: `isolated` or `inline`.
    var isolation: String?
    var state: String?
    /// What there is to say about the state.
    var message: String?
    /// The host's process.
    var pid: Int?
    /// The user that the host runs as.
    var user: UInt32?
    var since: String?
    /// Since when it is in its state; nil when it serves.
    var stateSince: String?
    var starts: UInt64?
    /// Hosts that ended, by cause.
    var ends: [String: UInt64]?
    var lastEnd: End?
    var lastPauseMilliseconds: Double?
    var replayed: UInt64?
    /// What the sandbox could not do.
    var sandboxGaps: [String]?

    static let columns = ["POOL", "DRIVER", "ISOLATION", "STATE", "PID", "STARTS", "LOST", "PAUSE", "SINCE"]

    var row: [String] {
        [
            pool, driver, isolation ?? "", state ?? "", pid.map(String.init) ?? "",
            isInline ? "" : count(starts), isInline ? "" : count(lost), pause, since ?? "",
        ]
    }

    var details: [(name: String, value: String)] {
        let counts = (ends ?? [:]).filter { $0.value > 0 }.sorted { $0.key < $1.key }
        var details: [(name: String, value: String)] = [
            ("Pool", pool), ("Driver", driver), ("Isolation", isolation ?? ""), ("State", state ?? ""),
            ("Message", message ?? ""), ("Process", pid.map(String.init) ?? ""),
            ("User", user.map(String.init) ?? ""), ("Since", since ?? stateSince ?? ""),
        ]
        guard !isInline else { return details }
        details += [
            ("Starts", count(starts)),
            ("Ends", counts.map { "\($0.key) \($0.value)" }.joined(separator: ", ")),
            ("Last end", lastEnd.map { "\($0.at) \($0.cause): \($0.message)" } ?? ""),
            ("Last pause", pause), ("Replayed", count(replayed)),
        ]
        return details + (sandboxGaps ?? []).map { (name: "Sandbox gap", value: $0) }
    }

    private var isInline: Bool { isolation == "inline" }

    /// Hosts that ended although nobody asked for it.
    private var lost: UInt64? {
        ends.map { ends in ["crash", "hang", "violation"].reduce(0) { $0.addingSaturated(ends[$1] ?? 0) } }
    }

    private var pause: String { lastPauseMilliseconds.map { "\($0) ms" } ?? "" }

    private func count(_ number: UInt64?) -> String { number.map(String.init) ?? "" }
}

/// What an upgrade answers.
struct DriverUpgrade: Codable {
    var pool: String
    /// How long users had to wait.
    var pauseMilliseconds: Double
}

/// The body of a request that needs none.
struct EmptyBody: Encodable {}
