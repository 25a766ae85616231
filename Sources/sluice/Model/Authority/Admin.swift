/// An administrator, as the control API describes it.
struct Admin: Presentable {
    var id: String
    var name: String
    var keyThumbprint: String?
    var certificateExpiresAt: String?
    var createdAt: String
    var updatedAt: String?

    static let columns = ["NAME", "CERTIFICATE EXPIRES", "CREATED", "KEY"]

    var row: [String] {
        [name, certificateExpiresAt ?? "", createdAt, String((keyThumbprint ?? "").prefix(16))]
    }

    var details: [(name: String, value: String)] {
        [
            ("Name", name), ("ID", id), ("Key thumbprint", keyThumbprint ?? ""),
            ("Certificate expires", certificateExpiresAt ?? ""), ("Created", createdAt),
            ("Updated", updatedAt ?? ""),
        ]
    }
}

/// The body that makes an administrator.
struct AdminCreation: Encodable {
    var name: String
    /// PEM.
    var csr: String
}

/// What a bundle was made of, or renewed to; printed as JSON or YAML.
struct AdminBundle: Encodable {
    var name: String
    /// The folder.
    var credentials: String
    /// When the certificate expires.
    var expiresAt: String
}
