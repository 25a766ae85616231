import Core

/// A range of bytes in a request or an answer.
struct RangeModel: Codable, Sendable, Hashable {
    var offset: UInt64
    var length: UInt64

    /// `OFFSET:LENGTH`, as `--range` takes it.
    var text: String { "\(offset):\(ByteCount(length))" }
}

/// Ceilings in a request or an answer; nil for none.
struct LimitsModel: Codable, Sendable, Hashable {
    var iops: UInt64?
    var bytesPerSecond: UInt64?

    /// `1000 IOPS, 10MiB/s`; empty without a ceiling.
    var text: String {
        [iops.map { "\($0) IOPS" }, bytesPerSecond.map { "\(ByteCount($0))/s" }].compactMap { $0 }
            .joined(separator: ", ")
    }
}

/// Ceilings of a volume in an answer; nil for none.
struct RateLimitsModel: Codable, Sendable, Hashable {
    var iops: UInt64?
    var bytesPerSecond: UInt64?
    /// Nil: the server's default.
    var burstMilliseconds: UInt64?

    /// `1000 IOPS, 10MiB/s, bursts of 500 ms`; empty without a ceiling.
    var text: String {
        let ceilings = LimitsModel(iops: iops, bytesPerSecond: bytesPerSecond).text
        guard !ceilings.isEmpty, let burstMilliseconds else { return ceilings }
        return "\(ceilings), bursts of \(burstMilliseconds) ms"
    }
}

/// The merge patch of ceilings: nil leaves a member as it is, a nil within takes it away.
struct RateLimitsChange: Encodable {
    var iops: UInt64??
    var bytesPerSecond: UInt64??
    var burstMilliseconds: UInt64??

    private enum Key: String, CodingKey {
        case iops
        case bytesPerSecond
        case burstMilliseconds
    }

    func encode(to encoder: any Encoder) throws {
        var container = encoder.container(keyedBy: Key.self)
        if let iops { try container.encode(iops, forKey: .iops) }
        if let bytesPerSecond { try container.encode(bytesPerSecond, forKey: .bytesPerSecond) }
        if let burstMilliseconds { try container.encode(burstMilliseconds, forKey: .burstMilliseconds) }
    }
}

/// `key=value` of every label, sorted.
func labelText(_ labels: [String: String]?) -> String {
    (labels ?? [:]).sorted { $0.key < $1.key }.map { "\($0.key)=\($0.value)" }.joined(separator: ",")
}
