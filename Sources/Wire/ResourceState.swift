import Core

/// What a handle stands for: the payload of the replies to OPEN, STAT and RENEW.
///
/// | bytes | field |
/// |---|---|
/// | 0..<16 | what only its kind has: `VolumeShape` for a volume |
/// | 16..<20 | rights of the handle |
/// | 20 | kind of resource |
/// | 21 | access mode: 0 single-writer, 1 multi-reader, 2 shared |
/// | 22..<24 | reserved, 0 |
/// | 24..<32, 32..<40 | range that the handle may touch: offset and length |
/// | 40..<48 | expiry of the capability, Unix seconds |
/// | 48..<64 | resource |
/// | 64..<80 | capability |
/// | 80..<88 | epoch of the resource |
/// | 88..<96 | operations per second, 0 without limit |
/// | 96..<104 | payload bytes per second, 0 without limit |
/// | 104..<112 | writer generation |
public struct ResourceState: Sendable, Hashable {
    /// The payload's length, in bytes.
    public static let byteCount = 112

    /// What only its kind has.
    public var shape: ResourceShape
    /// What the handle may do.
    public var rights: Rights
    /// How many sessions may write.
    public var accessMode: AccessMode
    /// The bytes that the handle may touch; it may end after the resource.
    public var range: ByteRange
    /// When the capability expires, in Unix seconds.
    public var expiry: UInt64
    /// The resource's identifier.
    public var resource: Identifier
    /// The capability's identifier.
    public var capability: Identifier
    /// The resource's epoch.
    public var epoch: UInt64
    /// Ceilings that the server enforces.
    public var limits: IOLimits
    /// Rises when the resource gets another writer than its last one; 0 before the first.
    public var writerGeneration: UInt64

    /// The kind of resource.
    public var kind: ResourceKind { shape.kind }

    /// A state from its fields.
    public init(
        shape: ResourceShape, rights: Rights, accessMode: AccessMode, range: ByteRange, expiry: UInt64,
        resource: Identifier, capability: Identifier, epoch: UInt64, limits: IOLimits = .none,
        writerGeneration: UInt64 = 0
    ) {
        self.shape = shape
        self.rights = rights
        self.accessMode = accessMode
        self.range = range
        self.expiry = expiry
        self.resource = resource
        self.capability = capability
        self.epoch = epoch
        self.limits = limits
        self.writerGeneration = writerGeneration
    }

    /// Parses a payload from a server, which a client does not trust to be well-formed.
    ///
    /// - Throws: `badFrame` for anything that no right server sends.
    public init(bytes: [UInt8]) throws(StatusError) {
        var reader = ByteReader(bytes)
        guard bytes.count == ResourceState.byteCount, let first = reader.read(UInt64.self),
            let second = reader.read(UInt64.self), let rights = reader.read(UInt32.self),
            let kind = reader.read(UInt8.self), let mode = reader.read(UInt8.self),
            let reserved = reader.read(UInt16.self), let start = reader.read(UInt64.self),
            let length = reader.read(UInt64.self), let expiry = reader.read(UInt64.self),
            let resource = reader.readIdentifier(), let capability = reader.readIdentifier(),
            let epoch = reader.read(UInt64.self), let iops = reader.read(UInt64.self),
            let bandwidth = reader.read(UInt64.self), let generation = reader.read(UInt64.self)
        else { throw StatusError(.badFrame, "the description of the resource is not 112 bytes long") }
        guard reserved == 0, let knownKind = ResourceKind(rawValue: kind),
            let knownMode = AccessMode(wire: mode), let range = ByteRange(offset: start, length: length)
        else { throw StatusError(.badFrame, "the description of the resource holds impossible values") }
        guard Rights(rawValue: rights).isSubset(of: .all) else {
            throw StatusError(.badFrame, "the description of the resource names a right that does not exist")
        }
        self.init(
            shape: try ResourceShape(knownKind, first, second), rights: Rights(rawValue: rights),
            accessMode: knownMode, range: range, expiry: expiry, resource: resource, capability: capability,
            epoch: epoch,
            limits: IOLimits(iops: iops == 0 ? nil : iops, bytesPerSecond: bandwidth == 0 ? nil : bandwidth),
            writerGeneration: generation)
    }

    /// The payload's bytes.
    public var bytes: [UInt8] {
        var writer = ByteWriter(capacity: ResourceState.byteCount)
        let (first, second) = shape.words
        writer.write(first)
        writer.write(second)
        writer.write(rights.rawValue)
        writer.write(kind.rawValue)
        writer.write(accessMode.wire)
        writer.write(UInt16(0))
        writer.write(range.offset)
        writer.write(range.length)
        writer.write(expiry)
        writer.write(resource)
        writer.write(capability)
        writer.write(epoch)
        writer.write(limits.iops ?? 0)
        writer.write(limits.bytesPerSecond ?? 0)
        writer.write(writerGeneration)
        return writer.bytes
    }
}

/// What a resource has that others of its kind have, and other kinds have not: two words of its state.
public enum ResourceShape: Sendable, Hashable {
    case volume(VolumeShape)
    /// The words of another kind, for what knows that kind to read.
    case words(ResourceKind, UInt64, UInt64)

    /// The kind of resource.
    public var kind: ResourceKind {
        switch self {
        case .volume: .volume
        case .words(let kind, _, _): kind
        }
    }

    fileprivate init(_ kind: ResourceKind, _ first: UInt64, _ second: UInt64) throws(StatusError) {
        self = kind == .volume ? .volume(try VolumeShape(first, second)) : .words(kind, first, second)
    }

    fileprivate var words: (UInt64, UInt64) {
        switch self {
        case .volume(let shape): shape.words
        case .words(_, let first, let second): (first, second)
        }
    }
}

/// The shape of a volume.
///
/// | bytes | field |
/// |---|---|
/// | 0..<8 | size, in bytes |
/// | 8..<12 | block size: offsets and counts are multiples of it |
/// | 12..<16 | largest transfer of one READ or WRITE, in bytes |
public struct VolumeShape: Sendable, Hashable {
    /// Bytes.
    public var size: UInt64
    /// Offsets and counts of requests are multiples of this: a power of two, in bytes.
    public var blockSize: UInt32
    /// The most bytes of one READ or WRITE.
    public var transferBytesMax: UInt32

    /// A shape.
    public init(size: UInt64, blockSize: UInt32, transferBytesMax: UInt32) {
        self.size = size
        self.blockSize = blockSize
        self.transferBytesMax = transferBytesMax
    }

    fileprivate init(_ first: UInt64, _ second: UInt64) throws(StatusError) {
        size = first
        blockSize = UInt32(truncatingIfNeeded: second)
        transferBytesMax = UInt32(truncatingIfNeeded: second >> 32)
        guard size <= Limits.volumeBytesMax else {
            throw StatusError(.badFrame, "the description of the volume holds an impossible size")
        }
        guard blockSize >= 1, blockSize <= 65536, blockSize & (blockSize - 1) == 0,
            transferBytesMax >= blockSize, transferBytesMax <= UInt32(Limits.payloadBytesMax),
            size.isMultiple(of: UInt64(blockSize))
        else { throw StatusError(.badFrame, "the volume's block size or largest transfer is impossible") }
    }

    fileprivate var words: (UInt64, UInt64) { (size, UInt64(transferBytesMax) << 32 | UInt64(blockSize)) }
}

extension ResourceState {
    /// The state of a volume's handle from its fields.
    public init(
        size: UInt64, blockSize: UInt32, transferBytesMax: UInt32, rights: Rights, accessMode: AccessMode,
        range: ByteRange, expiry: UInt64, resource: Identifier, capability: Identifier, epoch: UInt64,
        limits: IOLimits = .none, writerGeneration: UInt64 = 0
    ) {
        self.init(
            shape: .volume(
                VolumeShape(size: size, blockSize: blockSize, transferBytesMax: transferBytesMax)),
            rights: rights, accessMode: accessMode, range: range, expiry: expiry, resource: resource,
            capability: capability, epoch: epoch, limits: limits, writerGeneration: writerGeneration)
    }

    /// The shape of the volume that it is of; of another kind of resource, one without any bytes. Setting it does nothing
    /// then.
    public var volume: VolumeShape {
        get {
            if case .volume(let shape) = shape { return shape }
            return VolumeShape(size: 0, blockSize: 1, transferBytesMax: 1)
        }
        set { if case .volume = shape { shape = .volume(newValue) } }
    }

    /// The volume's size, in bytes.
    public var size: UInt64 {
        get { volume.size }
        set { volume.size = newValue }
    }

    /// The volume's block size: offsets and counts of requests are multiples of it, in bytes.
    public var blockSize: UInt32 {
        get { volume.blockSize }
        set { volume.blockSize = newValue }
    }

    /// The most bytes of one READ or WRITE of the volume.
    public var transferBytesMax: UInt32 {
        get { volume.transferBytesMax }
        set { volume.transferBytesMax = newValue }
    }
}

extension AccessMode {
    /// The mode's number on the wire.
    public var wire: UInt8 {
        switch self {
        case .singleWriter: 0
        case .multiReader: 1
        case .shared: 2
        }
    }

    /// The mode with this number; nil when there is none.
    public init?(wire: UInt8) {
        guard let mode = AccessMode.allCases.first(where: { $0.wire == wire }) else { return nil }
        self = mode
    }
}
