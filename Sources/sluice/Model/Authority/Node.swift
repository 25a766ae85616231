/// A compute node, as the control API describes it; a new one comes with its join token.
struct Node: Presentable {
    var id: String
    var name: String
    var labels: [String: String]?
    var state: String
    var keyThumbprint: String?
    var certificateExpiresAt: String?
    var createdAt: String
    var updatedAt: String?
    var enrolledAt: String?
    /// Works once; only in the answer to the request that made it.
    var token: String?
    var tokenExpiresAt: String?

    static let columns = ["NAME", "STATE", "ENROLLED", "CERTIFICATE EXPIRES", "LABELS"]

    var row: [String] {
        [name, state, enrolledAt ?? "", certificateExpiresAt ?? "", labelText(labels)]
    }

    var details: [(name: String, value: String)] {
        [
            ("Name", name), ("ID", id), ("State", state), ("Key thumbprint", keyThumbprint ?? ""),
            ("Certificate expires", certificateExpiresAt ?? ""), ("Labels", labelText(labels)),
            ("Created", createdAt), ("Updated", updatedAt ?? ""), ("Enrolled", enrolledAt ?? ""),
            ("Token", token ?? ""), ("Token expires", tokenExpiresAt ?? ""),
        ]
    }
}

/// The body that creates a node.
struct NodeCreation: Encodable {
    var name: String
    var labels: [String: String]?
}

/// The answer to a request for another join token.
struct NodeToken: Presentable {
    var node: String
    var token: String
    var tokenExpiresAt: String

    static let columns = ["NODE", "TOKEN", "EXPIRES"]

    var row: [String] { [node, token, tokenExpiresAt] }
}
