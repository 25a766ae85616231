/// What is known about the bytes of an extent.
@frozen
public struct BlockFlags: OptionSet, Sendable, Hashable {
    /// The bits as on the wire.
    public let rawValue: UInt32

    /// Flags from bits.
    @inlinable
    public init(rawValue: UInt32) { self.rawValue = rawValue }

    /// The device holds the bytes. Where the flag is not set, reading them costs nothing; the device may have
    /// reserved space all the same.
    @inlinable public static var allocated: BlockFlags { BlockFlags(rawValue: 1 << 0) }
    /// The bytes read as zero. Where the flag is not set, they may be zero all the same.
    @inlinable public static var zero: BlockFlags { BlockFlags(rawValue: 1 << 1) }
    /// The bytes were changed since the marker that the client asked about, or may have been.
    @inlinable public static var changed: BlockFlags { BlockFlags(rawValue: 1 << 2) }
    /// What devices can say.
    @inlinable public static var ofDevices: BlockFlags { [.allocated, .zero] }
    /// All that have a meaning.
    @inlinable public static var all: BlockFlags { [.allocated, .zero, .changed] }
}

/// Bytes that follow one another and of which the same is known: 16 bytes, little-endian, on the wire and in an
/// arena.
///
/// | bytes | field |
/// |---|---|
/// | 0..<8 | length |
/// | 8..<12 | flags |
/// | 12..<16 | reserved, 0 |
@frozen
public struct BlockExtent: Sendable, Hashable {
    /// The extent's own size, in bytes.
    @inlinable public static var byteCount: Int { 16 }

    /// How many bytes it covers.
    public var length: UInt64
    /// What is known about them.
    public var flags: BlockFlags

    /// An extent from its fields.
    @inlinable
    public init(length: UInt64, flags: BlockFlags) {
        self.length = length
        self.flags = flags
    }

    /// The extent in the 16 bytes at `source`, of any alignment; nil when its reserved bits are set.
    ///
    /// - Safety: `source` points at 16 readable bytes.
    @unsafe
    public static func load(_ source: UnsafeRawPointer) -> BlockExtent? {
        let length = unsafe UInt64(littleEndian: source.loadUnaligned(as: UInt64.self))
        let second = unsafe UInt64(littleEndian: source.loadUnaligned(fromByteOffset: 8, as: UInt64.self))
        guard second >> 32 == 0 else { return nil }
        return BlockExtent(length: length, flags: BlockFlags(rawValue: UInt32(truncatingIfNeeded: second)))
    }

    /// Writes the extent to the 16 bytes at `target`, of any alignment.
    ///
    /// - Safety: `target` points at 16 writable bytes.
    @unsafe
    public func store(_ target: UnsafeMutableRawPointer) {
        unsafe target.storeBytes(of: length.littleEndian, as: UInt64.self)
        unsafe target.storeBytes(of: UInt64(flags.rawValue).littleEndian, toByteOffset: 8, as: UInt64.self)
    }
}
