import Core

/// A marker of a volume: from when on it is noted what is changed.
public struct MarkerRecord: Record, Hashable {
    /// `markers/`
    public static let prefix = "markers/"
    /// The volume's id and the name: a volume's markers lie together, in order of their names.
    public var recordKey: String { MarkerRecord.key(volume: volume, name: name) }

    /// The id: a new marker of an old name has another.
    public let id: Identifier
    /// The name, a DNS label.
    public let name: String
    /// The volume's id.
    public let volume: Identifier
    /// Unix seconds.
    public let createdAt: UInt64

    /// A new marker.
    public init(id: Identifier, name: String, volume: Identifier, createdAt: UInt64) {
        self.id = id
        self.name = name
        self.volume = volume
        self.createdAt = createdAt
    }

    /// The record key of a volume's marker.
    public static func key(volume: Identifier, name: String) -> String { "\(volume.hex)/\(name)" }
}
