import Core

/// A volume, as the control API describes it.
struct Volume: Presentable {
    var id: String
    var name: String
    var pool: String
    /// Bytes.
    var size: UInt64
    var accessMode: String
    /// Bytes; nil for volumes of versions that did not note it.
    var blockSize: UInt32?
    /// What it takes of its pool, in bytes; nil where the server does not say.
    var used: UInt64?
    /// How far the work is that is under way on it; nil when there is none.
    var progress: VolumeProgress?
    /// The id of that work.
    var operation: String?
    /// What there is to know of a volume that was just made.
    var warning: String?
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

    static let columns = ["NAME", "SIZE", "USED", "POOL", "MODE", "STATE", "LABELS"]

    var row: [String] {
        [name, ByteCount(size).description, usedText, pool, accessMode, condition, labelText(labels)]
    }

    private var usedText: String { used.map { ByteCount($0).description } ?? "" }

    /// Its state, and how far what is under way on it is.
    private var condition: String {
        guard let progress, progress.total > 0 else { return state }
        return "\(state == "ready" ? "ready, growing" : state) (\(progress.percentText))"
    }

    var details: [(name: String, value: String)] {
        [
            ("Name", name), ("ID", id), ("Size", "\(ByteCount(size)) (\(size) bytes)"),
            ("Used", usedText), ("Block size", blockSize.map { "\($0)" } ?? ""), ("Pool", pool),
            ("Access mode", accessMode), ("Limits", limits?.text ?? ""), ("State", condition),
            ("Message", message ?? ""), ("Operation", operation ?? ""),
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

/// How far long work on a volume is.
struct VolumeProgress: Codable, Sendable {
    /// Bytes.
    var done: UInt64
    /// Bytes.
    var total: UInt64
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
    /// Bytes.
    var blockSize: UInt32?
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
