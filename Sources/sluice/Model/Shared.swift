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

/// `key=value` of every label, sorted.
func labelText(_ labels: [String: String]?) -> String {
    (labels ?? [:]).sorted { $0.key < $1.key }.map { "\($0.key)=\($0.value)" }.joined(separator: ",")
}
