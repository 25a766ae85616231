import Core

/// Who has a volume for writing, or had it last: what tells a client that was away whether somebody else did meanwhile.
public struct WriterRecord: Record, Hashable {
    /// `writers/`
    public static let prefix = "writers/"
    /// The volume's id.
    public var recordKey: String { volume.hex }

    /// The volume's id.
    public let volume: Identifier
    /// Rises with each change of the holder.
    public let generation: UInt64
    /// SHA-256 of the holder's SubjectPublicKeyInfo; nil for nobody, and for all those who write to a shared volume.
    public let thumbprint: Digest32?
    /// The holder's instance; nil where `thumbprint` is.
    public let instance: Identifier?

    /// A record.
    public init(volume: Identifier, generation: UInt64, thumbprint: Digest32?, instance: Identifier?) {
        self.volume = volume
        self.generation = generation
        self.thumbprint = thumbprint
        self.instance = instance
    }
}
