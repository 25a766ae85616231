import Core

/// A marker of a volume, as the control API describes it.
struct Marker: Presentable {
    var id: String
    var name: String
    var volume: String
    /// Bytes; nil, as the next two, while the volume cannot be used.
    var granularity: UInt64?
    /// Bytes.
    var changedBytes: UInt64?
    var complete: Bool?
    var createdAt: String

    static let columns = ["NAME", "CHANGED", "UNIT", "COMPLETE", "CREATED"]

    var row: [String] {
        [
            name, changedBytes.map { ByteCount($0).description } ?? "unknown",
            granularity.map { ByteCount($0).description } ?? "unknown",
            complete.map { $0 ? "yes" : "no" } ?? "unknown", createdAt,
        ]
    }
}

/// The body that sets a marker.
struct MarkerCreation: Encodable {
    var name: String
}
