import Core

/// What a request asks for. The raw values are part of the protocol; `rule` is the table of their properties.
@frozen
public enum Opcode: UInt16, Sendable, CaseIterable, Hashable {
    // `OpcodeKind.control`: every kind of resource.

    /// Negotiates the channel; its first request.
    case hello = 1
    /// Turns a capability into a handle.
    case open = 2
    /// Describes what a handle stands for.
    case stat = 3
    /// Puts a newer capability in the place of a handle's.
    case renew = 4
    /// Gives a handle back.
    case close = 5
    /// Does nothing: shows that both sides live.
    case ping = 6

    // `OpcodeKind.volume`.

    /// Reads bytes.
    case read = 0x100
    /// Writes bytes.
    case write = 0x101
    /// Makes bytes read as zero.
    case writeZeroes = 0x102
    /// Gives the space of bytes back: they read as zero from then on.
    case discard = 0x103
    /// Makes every write acknowledged in the session durable.
    case flush = 0x104
    /// Writes bytes if what is there is what the client expects.
    case compareAndWrite = 0x105
    /// Copies bytes from another place, of the same volume or of another one.
    case copyRange = 0x106
    /// Says what is known about bytes without reading them.
    case blockStatus = 0x107

    /// The name in documents and logs, such as `WRITE_ZEROES`.
    public var name: String {
        switch self {
        case .hello: "HELLO"
        case .open: "OPEN"
        case .stat: "STAT"
        case .renew: "RENEW"
        case .close: "CLOSE"
        case .ping: "PING"
        case .read: "READ"
        case .write: "WRITE"
        case .writeZeroes: "WRITE_ZEROES"
        case .discard: "DISCARD"
        case .flush: "FLUSH"
        case .compareAndWrite: "COMPARE_AND_WRITE"
        case .copyRange: "COPY_RANGE"
        case .blockStatus: "BLOCK_STATUS"
        }
    }

    /// What it is for: the family that its number lies in.
    @inlinable
    public var kind: OpcodeKind {
        switch self {
        case .hello, .open, .stat, .renew, .close, .ping: .control
        case .read, .write, .writeZeroes, .discard, .flush, .compareAndWrite, .copyRange, .blockStatus:
            .volume
        }
    }

    /// The opcode's line in the table of rights, payload, covered bytes and flags.
    @inlinable
    public var rule: OpcodeRule {
        switch self {
        case .hello:
            OpcodeRule(payload: .body, bodyBytesMax: UInt32(Limits.helloBytesMax), usesHandle: false)
        case .open:
            OpcodeRule(payload: .body, bodyBytesMax: UInt32(OpenRequest.byteCountMax), usesHandle: false)
        case .stat: OpcodeRule()
        case .renew:
            OpcodeRule(payload: .body, bodyBytesMax: UInt32(RenewRequest.byteCountMax), isIdempotent: false)
        case .close: OpcodeRule(isIdempotent: false)
        case .ping: OpcodeRule(usesHandle: false)
        case .read: OpcodeRule(rights: .read, covers: .transfer)
        case .write:
            OpcodeRule(rights: .write, payload: .covered, covers: .transfer, flags: .fua, isIdempotent: false)
        case .writeZeroes:
            OpcodeRule(rights: .write, covers: .range, flags: [.fua, .noUnmap], isIdempotent: false)
        case .discard: OpcodeRule(rights: .discard, covers: .range, isIdempotent: false)
        case .flush: OpcodeRule(rights: .flush)
        case .compareAndWrite:
            OpcodeRule(
                rights: [.read, .write], payload: .coveredTwice, covers: .range, flags: .fua,
                countMax: UInt32(Limits.compareAndWriteBytesMax), isIdempotent: false)
        case .copyRange:
            OpcodeRule(
                rights: .write, payload: .structure, covers: .range,
                bodyBytesMax: UInt32(CopySource.byteCount),
                countMax: UInt32(Limits.copyRangeBytesMax), isIdempotent: false)
        case .blockStatus:
            OpcodeRule(
                rights: .read, payload: .optionalBody, covers: .range,
                bodyBytesMax: UInt32(Identifier.byteCount),
                replyBytesMax: UInt32(Limits.blockStatusBytesMax))
        }
    }

    /// Whether the answer of a request for `count` bytes that succeeded may have a payload of so many bytes.
    @inlinable
    public func mayReply(bytes: UInt32, count: UInt32) -> Bool {
        switch self {
        case .read: bytes == count
        case .hello: bytes >= UInt32(HelloReply.byteCountMin) && bytes <= UInt32(HelloReply.byteCountMax)
        case .open, .stat, .renew: bytes == UInt32(ResourceState.byteCount)
        case .blockStatus:
            bytes > 0 && bytes <= UInt32(Limits.blockStatusBytesMax)
                && bytes % UInt32(BlockExtent.byteCount) == 0
        case .close, .ping, .write, .writeZeroes, .discard, .flush, .compareAndWrite, .copyRange: bytes == 0
        }
    }

    /// Whether an answer that succeeded fills the buffer of who asked.
    @inlinable
    public var fillsBuffer: Bool {
        switch self {
        case .read, .blockStatus: true
        case .hello, .open, .stat, .renew, .close, .ping, .write, .writeZeroes, .discard, .flush,
            .compareAndWrite, .copyRange:
            false
        }
    }

    /// Whether the value of an answer that succeeded is the request's count.
    @inlinable
    public var repliesCount: Bool {
        switch self {
        case .read, .write, .writeZeroes, .discard, .compareAndWrite, .copyRange: true
        case .hello, .open, .stat, .renew, .close, .ping, .flush, .blockStatus: false
        }
    }

    /// The bytes of payload that a valid request of this opcode carries where they follow from `count`; 0 where
    /// there is none, or a structure.
    @inlinable
    public func payloadBytes(count: UInt32) -> UInt32 {
        switch rule.payload {
        case .covered: count
        case .coveredTwice: 2 * count
        case .none, .body, .structure, .optionalBody: 0
        }
    }
}

/// What opcodes are for: a family for the channel itself, and one for each kind of resource.
@frozen
public enum OpcodeKind: UInt8, Sendable, CaseIterable, Hashable {
    /// The channel, and handles of whatever kind: HELLO, OPEN, STAT, RENEW, CLOSE, PING.
    case control = 0
    /// Volumes.
    case volume = 1

    /// The numbers that opcodes of the family may have.
    public var numbers: ClosedRange<UInt16> {
        let first = UInt16(rawValue) << 8
        return max(first, 1)...first + 0xff
    }

    /// Whether it is of the channel, and of handles of whatever kind.
    @inlinable
    public var isControl: Bool {
        switch self {
        case .control: true
        case .volume: false
        }
    }

    /// The kind of resource whose handles take these requests; nil where that is no matter.
    @inlinable
    public var resource: ResourceKind? {
        switch self {
        case .control: nil
        case .volume: .volume
        }
    }
}

/// The properties of one opcode: what it needs, what its header and payload may hold.
@frozen
public struct OpcodeRule: Sendable, Hashable {
    /// What follows the header.
    @frozen
    public enum Payload: UInt8, Sendable {
        /// Nothing: the length is 0.
        case none
        /// Exactly the `count` bytes that the operation covers.
        case covered
        /// The covered bytes as they are expected, then as they are to be: twice `count` bytes.
        case coveredTwice
        /// A structure of 1 to `bodyBytesMax` bytes.
        case body
        /// A structure of exactly `bodyBytesMax` bytes.
        case structure
        /// Nothing, or a structure of exactly `bodyBytesMax` bytes.
        case optionalBody
    }

    /// What `offset` and `count` mean.
    @frozen
    public enum Cover: UInt8, Sendable {
        /// Nothing: both are 0.
        case nothing
        /// Bytes that travel: `count` is 1 up to the negotiated maximum payload.
        case transfer
        /// Bytes that need not travel: `count` is 1 up to `countMax`.
        case range
    }

    /// The rights that the handle must have.
    public let rights: Rights
    /// What follows the header.
    public let payload: Payload
    /// What `offset` and `count` mean.
    public let covers: Cover
    /// The flags that may be set.
    public let flags: RequestFlags
    /// The longest payload where it is a structure, in bytes; otherwise 0.
    public let bodyBytesMax: UInt32
    /// The most bytes that a range may cover.
    public let countMax: UInt32
    /// The longest payload of the reply where it is a structure of varying length, in bytes; otherwise 0.
    public let replyBytesMax: UInt32
    /// Whether `handle` names an open resource; where not, it is 0.
    public let usesHandle: Bool
    /// Whether executing the request twice does what once does, even when others execute requests in between.
    public let isIdempotent: Bool

    /// A line of the table.
    @inlinable
    public init(
        rights: Rights = [], payload: Payload = .none, covers: Cover = .nothing, flags: RequestFlags = [],
        bodyBytesMax: UInt32 = 0, countMax: UInt32 = .max, replyBytesMax: UInt32 = 0, usesHandle: Bool = true,
        isIdempotent: Bool = true
    ) {
        self.rights = rights
        self.payload = payload
        self.covers = covers
        self.flags = flags
        self.bodyBytesMax = bodyBytesMax
        self.countMax = countMax
        self.replyBytesMax = replyBytesMax
        self.usesHandle = usesHandle
        self.isIdempotent = isIdempotent
    }
}

/// Modifiers of a request; each opcode's rule says which may be set.
@frozen
public struct RequestFlags: OptionSet, Sendable, Hashable {
    /// The bits as on the wire.
    public let rawValue: UInt16

    /// Flags from bits; bits without a name are kept, and refused by `RequestHeader.validate`.
    @inlinable
    public init(rawValue: UInt16) {
        self.rawValue = rawValue
    }

    /// Force unit access: the reply says that these bytes are durable.
    @inlinable public static var fua: RequestFlags { RequestFlags(rawValue: 1 << 0) }
    /// WRITE_ZEROES keeps the space allocated.
    @inlinable public static var noUnmap: RequestFlags { RequestFlags(rawValue: 1 << 1) }
}
