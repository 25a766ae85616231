/// What a request asks of what is open under its index: a volume, or whatever else of a pool has bytes at offsets. The
/// raw values are part of the driver ring's format.
public enum DriverOpcode: UInt8, Sendable, CaseIterable {
    /// Fills the buffer.
    case read = 1
    /// Writes the buffer.
    case write = 2
    /// Makes a range read as zeroes.
    case writeZeroes = 3
    /// Gives the space of a range back: it reads as zeroes from then on. A device that cannot do that answers
    /// `notSupported` and leaves the range as it is.
    case discard = 4
    /// Makes every write that was completed before durable.
    case flush = 5
    /// Puts into the buffer, of `Limits.blockStatusBytesMax` bytes, what is known about a range without reading
    /// it: extents from its start on, for at least one block.
    case blockStatus = 6
}

/// How a request is to be done.
@frozen
public struct DriverFlags: OptionSet, Sendable, Hashable {
    /// The bits.
    public let rawValue: UInt8

    /// Flags from bits.
    @inlinable
    public init(rawValue: UInt8) { self.rawValue = rawValue }

    /// The write is durable when it completes ("force unit access").
    public static let fua = DriverFlags(rawValue: 1)
    /// Zeroes keep their space allocated.
    public static let noUnmap = DriverFlags(rawValue: 2)
}

/// One request in a submission ring: 64 bytes, the same for every process that maps the ring.
///
/// Any 64 bytes are a value of this type: what comes from the other side of a ring is judged by
/// `RequestBounds.check(_:arenaBytes:)`.
@frozen
public struct DriverRequest: Sendable, BitwiseCopyable {
    /// A `DriverOpcode`, unless the other side is broken.
    public var rawOpcode: UInt8
    /// `DriverFlags` bits.
    public var rawFlags: UInt8
    /// Zero.
    public var reserved: UInt16 = 0
    /// Names what the driver has open under this index.
    public var index: UInt32
    /// Returned with the completion.
    public var tag: UInt64
    /// Where in that, in bytes.
    public var offset: UInt64
    /// How many bytes of that.
    public var length: UInt64
    /// Where in the arena, in bytes; for reads, writes and block statuses.
    public var buffer: UInt64
    /// Zero.
    public var reserved1: UInt64 = 0
    /// Zero.
    public var reserved2: UInt64 = 0
    /// Zero.
    public var reserved3: UInt64 = 0

    /// A request.
    @inlinable
    public init(
        opcode: DriverOpcode, flags: DriverFlags = [], index: UInt32, tag: UInt64, offset: UInt64 = 0,
        length: UInt64 = 0, buffer: UInt64 = 0
    ) {
        rawOpcode = opcode.rawValue
        rawFlags = flags.rawValue
        self.index = index
        self.tag = tag
        self.offset = offset
        self.length = length
        self.buffer = buffer
    }

    /// What is asked; nil when the other side is broken.
    @inlinable
    public var opcode: DriverOpcode? { DriverOpcode(rawValue: rawOpcode) }

    /// How it is to be done; unknown bits are ignored.
    @inlinable
    public var flags: DriverFlags { DriverFlags(rawValue: rawFlags) }
}

/// One completion in a completion ring: 32 bytes, the same for every process that maps the ring.
@frozen
public struct DriverCompletion: Sendable, BitwiseCopyable {
    /// The request's tag.
    public var tag: UInt64
    /// A `Status`, unless the other side is broken.
    public var status: UInt16
    /// Zero.
    public var reserved: UInt16 = 0
    /// How many bytes of extents the buffer holds after a block status; zero for all else.
    public var mapBytes: UInt32
    /// How many bytes were covered: all that was asked for, or what the extents cover.
    public var value: UInt64
    /// Zero.
    public var reserved1: UInt64 = 0

    /// A completion.
    @inlinable
    public init(tag: UInt64, status: UInt16, value: UInt64, mapBytes: UInt32 = 0) {
        self.tag = tag
        self.status = status
        self.value = value
        self.mapBytes = mapBytes
    }
}
