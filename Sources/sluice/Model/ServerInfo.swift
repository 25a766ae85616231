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

    var clusterID: String
    var name: String
    var version: String
    /// `ADDR:PORT` of the control API.
    var control: [String]
    /// `ADDR:PORT` of the data channel.
    var channel: [String]
    var caFingerprint: String?
    var signingKeys: [SigningKey]?
    var startedAt: String?

    static let columns = ["NAME", "VERSION", "CLUSTER", "CONTROL", "CHANNEL"]

    var row: [String] {
        [name, version, clusterID, control.joined(separator: ","), channel.joined(separator: ",")]
    }

    var details: [(name: String, value: String)] {
        [
            ("Name", name), ("Version", version), ("Cluster", clusterID),
            ("Control API", control.joined(separator: ", ")),
            ("Data channel", channel.joined(separator: ", ")), ("CA fingerprint", caFingerprint ?? ""),
            ("Started", startedAt ?? ""),
        ]
            + (signingKeys ?? []).map { key in
                (name: "Signing key", value: "\(key.keyID) \(key.algorithm ?? "")")
            }
    }
}
