import Core

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
            "since \(since ?? ""), until \(until ?? ""): \((sessions ?? 0).counted("session")) with "
                + "\((channels ?? 0).counted("channel is left", "channels are left"))"
                + (redirect.map { ", to go to \($0)" } ?? "")
        }
    }

    /// A certificate that the server looks after, or an administrator's.
    struct WatchedCertificate: Codable, Sendable {
        var kind: String
        var name: String
        var expiresAt: String
        var state: String
        /// Why it cannot be renewed or kept; nil when all is well.
        var trouble: String?

        var title: String { kind == "admin" ? "Certificate of admin \(name)" : "Certificate of the \(kind)" }

        var text: String {
            var text = "until \(expiresAt)"
            if state != "valid" { text += ", \(state)" }
            if let trouble { text += ": \(trouble)" }
            return text
        }
    }

    /// DNS names that its certificate has.
    var names: [String]?
    /// IP addresses that its certificate has.
    var addresses: [String]?
    var certificates: [WatchedCertificate]?
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
    /// Nil when the server is not being drained.
    var drain: Drain?

    static let columns = ["NAME", "VERSION", "CLUSTER", "CONTROL", "CHANNEL"]

    var row: [String] {
        [name, version, clusterID, control.joined(separator: ","), channel.joined(separator: ",")]
    }

    var details: [(name: String, value: String)] {
        var all: [(name: String, value: String)] = [
            ("Name", name), ("Version", version), ("Cluster", clusterID),
            ("Certificate for", ((names ?? []) + (addresses ?? [])).joined(separator: ", ")),
            ("Control API", control.joined(separator: ", ")),
            ("Data channel", channel.joined(separator: ", ")), ("CA fingerprint", caFingerprint ?? ""),
            ("Started", startedAt ?? ""),
        ]
        for certificate in certificates ?? [] {
            all.append((name: certificate.title, value: certificate.text))
        }
        if let drain { all.append((name: "Draining", value: drain.text)) }
        for key in signingKeys ?? [] {
            all.append((name: "Signing key", value: "\(key.keyID) \(key.algorithm ?? "")"))
        }
        return all
    }
}
