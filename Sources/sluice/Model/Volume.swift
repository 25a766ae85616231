import Core

/// A volume, as the control API describes it.
struct Volume: Presentable {
    var id: String
    var name: String
    var pool: String
    /// Bytes.
    var size: UInt64
    var accessMode: String
    /// What all its users may use together; nil where the server does not say.
    var limits: RateLimitsModel?
    var labels: [String: String]?
    var state: String
    /// What there is to say about the state.
    var message: String?
    /// Who may write now; nil where the server does not say.
    var writers: [VolumeWriter]?
    var createdAt: String
    var updatedAt: String?

    static let columns = ["NAME", "SIZE", "POOL", "MODE", "STATE", "LABELS"]

    var row: [String] {
        [name, ByteCount(size).description, pool, accessMode, state, labelText(labels)]
    }

    var details: [(name: String, value: String)] {
        [
            ("Name", name), ("ID", id), ("Size", "\(ByteCount(size)) (\(size) bytes)"), ("Pool", pool),
            ("Access mode", accessMode), ("Limits", limits?.text ?? ""), ("State", state),
            ("Message", message ?? ""),
            ("Labels", labelText(labels)), ("Created", createdAt), ("Updated", updatedAt ?? ""),
        ]
            + (writers ?? []).map {
                ("Writer", "node \($0.node ?? "unknown"), session \($0.session.prefix(8)), since \($0.since)")
            }
    }
}

extension Volume {
    /// Its size, and that it is not what was asked for where the server rounded that up.
    func sizeText(asked: ByteCount) -> String {
        size == asked.bytes
            ? "\(ByteCount(size))" : "\(ByteCount(size)) (\(size) bytes: rounded up to whole blocks)"
    }
}

/// A session that may write to a volume.
struct VolumeWriter: Codable, Sendable {
    var session: String
    var node: String?
    var since: String
}

/// The body of a fence.
struct FenceRequest: Encodable {
    var reason: String?
}

/// What a fence answers.
struct FencedVolume: Codable {
    /// A session that was cut off.
    struct Session: Codable {
        var session: String
        var node: String?
        var wasWriting: Bool
    }

    var volume: String
    var epoch: UInt64
    var sessions: [Session]
}

/// The body that creates a volume; nil leaves a member to the server's default.
struct VolumeCreation: Encodable {
    var name: String
    /// Bytes.
    var size: UInt64
    var pool: String?
    var accessMode: String?
    var labels: [String: String]?
}

/// The merge patch of a volume; nil leaves a member as it is, a nil label takes it away.
struct VolumeChange: Encodable {
    /// Bytes.
    var size: UInt64?
    var accessMode: String?
    var limits: RateLimitsChange?
    var labels: [String: String?]?
}
