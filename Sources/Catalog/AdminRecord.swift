import Core

/// Somebody who may do everything. Their certificates count as long as this is there.
public struct AdminRecord: Record, Hashable {
    /// `admins/`
    public static let prefix = "admins/"
    /// The name.
    public var recordKey: String { name }

    /// The id: a new one of an old name has another.
    public let id: Identifier
    /// The name, a DNS label.
    public let name: String
    /// SHA-256 of the key's SubjectPublicKeyInfo; nil for the one of a folder that was made before administrators had
    /// records, and whose bundle was moved away: for whoever has the one certificate that was made then.
    public var keyThumbprint: Digest32?
    /// Unix seconds; when the present certificate ends. Nil where it is not known.
    public var certificateExpiresAt: UInt64?
    /// Unix seconds.
    public let createdAt: UInt64
    /// When it last changed, Unix seconds.
    public var updatedAt: UInt64

    /// A new administrator.
    public init(
        id: Identifier, name: String, keyThumbprint: Digest32?, certificateExpiresAt: UInt64?,
        createdAt: UInt64
    ) {
        self.id = id
        self.name = name
        self.keyThumbprint = keyThumbprint
        self.certificateExpiresAt = certificateExpiresAt
        self.createdAt = createdAt
        updatedAt = createdAt
    }
}
