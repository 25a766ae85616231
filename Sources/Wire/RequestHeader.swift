import Core

/// The 32 bytes, little-endian, that start every request.
///
/// | bytes | field |
/// |---|---|
/// | 0..<4 | length: payload bytes after the header |
/// | 4..<6 | opcode |
/// | 6..<8 | flags |
/// | 8..<10 | slot |
/// | 10..<12 | reserved, 0 |
/// | 12..<16 | sequence |
/// | 16..<20 | handle |
/// | 20..<24 | count: bytes that the operation covers |
/// | 24..<32 | offset: where they start |
@frozen
public struct RequestHeader: Sendable, Hashable {
    /// Payload bytes after the header.
    public var length: UInt32
    /// The opcode as sent, known or not.
    public var opcode: UInt16
    /// Modifiers.
    public var flags: RequestFlags
    /// The slot that the request occupies until its reply.
    public var slot: UInt16
    /// Must be 0.
    public var reserved: UInt16
    /// `successor(of:)` the slot's previous request's; a slot's first is 1.
    public var sequence: UInt32
    /// What OPEN returned; 0 where the opcode uses none.
    public var handle: UInt32
    /// Bytes that the operation covers.
    public var count: UInt32
    /// The first byte that the operation covers.
    public var offset: UInt64

    /// A header from its fields.
    @inlinable
    public init(
        length: UInt32 = 0, opcode: UInt16, flags: RequestFlags = [], slot: UInt16 = 0, reserved: UInt16 = 0,
        sequence: UInt32 = 0, handle: UInt32 = 0, count: UInt32 = 0, offset: UInt64 = 0
    ) {
        self.length = length
        self.opcode = opcode
        self.flags = flags
        self.slot = slot
        self.reserved = reserved
        self.sequence = sequence
        self.handle = handle
        self.count = count
        self.offset = offset
    }

    /// The opcode, if it is known.
    @inlinable
    public var knownOpcode: Opcode? { Opcode(rawValue: opcode) }

    /// The sequence of the request that follows on the same slot: from 1 up, leaving out 0 when it wraps.
    @inlinable
    public static func successor(of sequence: UInt32) -> UInt32 {
        SlotSequence.successor(of: sequence)
    }

    /// Whether the header may be acted on: everything that can be said without a handle, a slot or a clock.
    ///
    /// After `protocolViolation` the reply is the channel's last (`Status.endsChannel`). For every other
    /// failure the receiver skips `length` bytes, which are within the limit, and answers. It looks at slot
    /// and sequence in between, so that a request which is refused for another reason still uses up its
    /// sequence.
    @inlinable
    public func validate(_ limits: FrameLimits) -> Status {
        guard length <= limits.payloadBytesMax, (opcode == Opcode.hello.rawValue) == limits.expectsHello
        else {
            return .protocolViolation
        }
        guard reserved == 0 else { return .badFrame }
        guard let known = Opcode(rawValue: opcode) else { return .unknownOpcode }
        let rule = known.rule
        guard flags.isSubset(of: rule.flags), rule.usesHandle || handle == 0 else { return .badFrame }
        switch rule.covers {
        case .nothing:
            guard count == 0, offset == 0 else { return .badFrame }
        case .transfer:
            guard count > 0 else { return .badLength }
            guard count <= limits.payloadBytesMax else { return .tooLarge }
        case .range:
            guard count > 0 else { return .badLength }
            guard count <= rule.countMax else { return .tooLarge }
        }
        switch rule.payload {
        case .none: guard length == 0 else { return .badLength }
        case .covered: guard length == count else { return .badLength }
        case .coveredTwice: guard UInt64(length) == 2 * UInt64(count) else { return .badLength }
        case .body:
            guard length > 0 else { return .badLength }
            guard length <= rule.bodyBytesMax else { return .tooLarge }
        case .structure: guard length == rule.bodyBytesMax else { return .badLength }
        case .optionalBody: guard length == 0 || length == rule.bodyBytesMax else { return .badLength }
        }
        guard !offset.addingReportingOverflow(UInt64(count)).overflow else { return .outOfRange }
        guard !limits.expectsHello || (slot == 0 && sequence == 0) else { return .badFrame }
        return .ok
    }
}

/// What a receiver of requests accepts at this moment.
@frozen
public struct FrameLimits: Sendable, Hashable {
    /// The longest payload, in bytes.
    public let payloadBytesMax: UInt32
    /// Whether the next request must be HELLO; if not, it must not be.
    public let expectsHello: Bool

    /// Before HELLO is answered.
    public static let greeting = FrameLimits(
        payloadBytesMax: UInt32(Limits.helloBytesMax), expectsHello: true)

    /// After HELLO, with the maximum payload that it negotiated.
    public static func established(payloadBytesMax: UInt32) -> FrameLimits {
        FrameLimits(payloadBytesMax: payloadBytesMax, expectsHello: false)
    }

    @usableFromInline
    init(payloadBytesMax: UInt32, expectsHello: Bool) {
        self.payloadBytesMax = payloadBytesMax
        self.expectsHello = expectsHello
    }
}

extension Status {
    /// Whether a reply to a frame with this status is the channel's last: the stream cannot be trusted any
    /// more.
    @inlinable
    public var endsChannel: Bool { self == .protocolViolation }
}
