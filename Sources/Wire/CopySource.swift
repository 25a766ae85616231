import Core

/// The payload of COPY_RANGE: where the bytes come from.
///
/// | bytes | field |
/// |---|---|
/// | 0..<4 | handle, of the same channel |
/// | 4..<8 | reserved, 0 |
/// | 8..<16 | offset of the first byte |
public struct CopySource: Sendable, Hashable {
    /// The payload's length, in bytes.
    public static let byteCount = 16

    /// The handle that is read from.
    public var handle: UInt32
    /// Where the bytes begin.
    public var offset: UInt64

    /// A source from its fields.
    public init(handle: UInt32, offset: UInt64) {
        self.handle = handle
        self.offset = offset
    }

    /// Parses a payload.
    ///
    /// - Throws: `badFrame` for a length that is off or reserved bits.
    public init(bytes: [UInt8]) throws(StatusError) {
        var reader = ByteReader(bytes)
        guard let handle = reader.read(UInt32.self), let reserved = reader.read(UInt32.self),
            let offset = reader.read(UInt64.self), reader.remaining == 0
        else { throw StatusError(.badFrame, "COPY_RANGE is shorter or longer than its fields") }
        guard reserved == 0 else { throw StatusError(.badFrame, "COPY_RANGE has reserved bits set") }
        self.init(handle: handle, offset: offset)
    }

    /// The payload's bytes.
    public var bytes: [UInt8] {
        var writer = ByteWriter(capacity: CopySource.byteCount)
        writer.write(handle)
        writer.write(UInt32(0))
        writer.write(offset)
        return writer.bytes
    }
}
