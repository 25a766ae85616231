import Core

/// The payload of a reply to BLOCK_STATUS: extents that follow one another from the request's offset.
public struct BlockMap: Sendable, Hashable {
    /// The extents, in order; at least one, and none is empty.
    public var extents: [BlockExtent]

    /// A map from its extents.
    public init(extents: [BlockExtent]) {
        self.extents = extents
    }

    /// How many bytes the extents cover.
    public var covered: UInt64 { extents.reduce(0) { $0 + $1.length } }

    /// Parses a payload.
    ///
    /// - Parameter covered: what the reply says that it covers, in bytes.
    /// - Throws: `badFrame` for a length that is off, unknown or reserved bits, an empty extent, and extents that
    ///   do not add up.
    public init(bytes: [UInt8], covered: UInt64) throws(StatusError) {
        guard !bytes.isEmpty, bytes.count.isMultiple(of: BlockExtent.byteCount),
            bytes.count <= Limits.blockStatusBytesMax
        else { throw StatusError(.badFrame, "the reply to BLOCK_STATUS holds no whole extents") }
        var reader = ByteReader(bytes)
        var left = covered
        extents = []
        while let length = reader.read(UInt64.self), let flags = reader.read(UInt32.self),
            let reserved = reader.read(UInt32.self)
        {
            let extent = BlockExtent(length: length, flags: BlockFlags(rawValue: flags))
            guard reserved == 0, extent.flags.isSubset(of: .all), length > 0, length <= left else {
                throw StatusError(.badFrame, "the reply to BLOCK_STATUS has an impossible extent")
            }
            left -= length
            extents.append(extent)
        }
        guard left == 0 else {
            throw StatusError(.badFrame, "the reply to BLOCK_STATUS does not cover what it says")
        }
    }

    /// The payload's bytes.
    public var bytes: [UInt8] {
        var writer = ByteWriter(capacity: extents.count * BlockExtent.byteCount)
        for extent in extents {
            writer.write(extent.length)
            writer.write(extent.flags.rawValue)
            writer.write(UInt32(0))
        }
        return writer.bytes
    }
}
