/// The I/O server, as the control API describes it.
struct ServerInfo: Presentable {
    /// A key that signs capabilities.
    struct SigningKey: Codable, Sendable {
        var keyID: String
        /// Base64url.
        var publicKey: String?
        var algorithm: String?
        var createdAt: String?
        /// When the last capability that it signed has expired; nil while it signs.
        var verifiesUntil: String?
    }

    /// A drain that is under way.
    struct Drain: Codable, Sendable {
        var since: String?
        var until: String?
        var redirect: String?
        var sessions: UInt64?
        var channels: UInt64?

        var text: String {
            "since \(since ?? ""), until \(until ?? ""): \(sessions ?? 0) sessions with \(channels ?? 0) channels are left"
                + (redirect.map { ", to go to \($0)" } ?? "")
        }
    }

    var clusterID: String
    var name: String
    var version: String
    /// Names and addresses that the server's certificate is for.
    var names: [String]?
    /// `ADDR:PORT` of the control API.
    var control: [String]
    /// `ADDR:PORT` of the data channel.
    var channel: [String]
    var caFingerprint: String?
    var signingKeys: [SigningKey]?
    var startedAt: String?
    /// Nil when the server is not being drained.
    var drain: Drain?

    static let columns = ["NAME", "VERSION", "CLUSTER", "CONTROL", "CHANNEL"]

    var row: [String] {
        [name, version, clusterID, control.joined(separator: ","), channel.joined(separator: ",")]
    }

    var details: [(name: String, value: String)] {
        [
            ("Name", name), ("Version", version), ("Cluster", clusterID),
            ("Certificate for", (names ?? []).joined(separator: ", ")),
            ("Control API", control.joined(separator: ", ")),
            ("Data channel", channel.joined(separator: ", ")), ("CA fingerprint", caFingerprint ?? ""),
            ("Started", startedAt ?? ""),
        ]
            + (drain.map { [(name: "Draining", value: $0.text)] } ?? [])
            + (signingKeys ?? []).map { key in
                (name: "Signing key", value: "\(key.keyID) \(key.algorithm ?? "")")
            }
    }
}
