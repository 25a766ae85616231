import Core

/// The 32 bytes, little-endian, that start every reply and every event.
///
/// | bytes | reply | event |
/// |---|---|---|
/// | 0..<4 | length: payload bytes after the header | the same |
/// | 4..<6 | status | the reason, or 0 |
/// | 6..<8 | flags: 0 | 0x8000 |
/// | 8..<10 | slot of the request | 0xffff |
/// | 10..<12 | opcode of the request | event kind |
/// | 12..<16 | sequence of the request | the event's number on this channel, from 1 |
/// | 16..<24 | value | value |
/// | 24..<32 | detail | detail |
@frozen
public struct ReplyHeader: Sendable, Hashable {
    /// The only flag: this is an event.
    @inlinable public static var eventFlag: UInt16 { 0x8000 }
    /// The slot field of an event.
    @inlinable public static var eventSlot: UInt16 { 0xffff }

    /// Payload bytes after the header.
    public var length: UInt32
    /// The status as sent, known or not.
    public var status: UInt16
    /// 0, or `eventFlag`.
    public var flags: UInt16
    /// The request's slot.
    public var slot: UInt16
    /// The request's opcode, or the event's kind.
    public var opcode: UInt16
    /// The request's sequence, or the event's number.
    public var sequence: UInt32
    /// A result that depends on the opcode.
    public var value: UInt64
    /// A further result that depends on the opcode.
    public var detail: UInt64

    /// A header from its fields.
    @inlinable
    public init(
        length: UInt32 = 0, status: UInt16 = 0, flags: UInt16 = 0, slot: UInt16 = 0, opcode: UInt16,
        sequence: UInt32 = 0, value: UInt64 = 0, detail: UInt64 = 0
    ) {
        self.length = length
        self.status = status
        self.flags = flags
        self.slot = slot
        self.opcode = opcode
        self.sequence = sequence
        self.value = value
        self.detail = detail
    }

    /// The reply to `request`: slot, opcode and sequence are its own.
    @inlinable
    public init(
        to request: RequestHeader, status: Status, length: UInt32 = 0, value: UInt64 = 0, detail: UInt64 = 0
    ) {
        self.init(
            length: length, status: status.rawValue, slot: request.slot, opcode: request.opcode,
            sequence: request.sequence, value: value, detail: detail)
    }

    /// Whether this starts an event.
    @inlinable
    public var isEvent: Bool { flags == ReplyHeader.eventFlag }

    /// The status, if it is known.
    @inlinable
    public var knownStatus: Status? { Status(rawValue: status) }

    /// What a client checks of a header before it looks up the slot; nil when nothing is wrong.
    ///
    /// - Parameter payloadBytesMax: the negotiated maximum.
    @inlinable
    public func fault(payloadBytesMax: UInt32) -> ReplyFault? {
        guard flags == 0 || flags == ReplyHeader.eventFlag else { return .reservedBits }
        guard length <= payloadBytesMax else { return .oversize }
        guard let known = Status(rawValue: status) else { return .unknownStatus }
        if flags == ReplyHeader.eventFlag {
            guard slot == ReplyHeader.eventSlot else { return .reservedBits }
            return length <= UInt32(Limits.eventBytesMax) ? nil : .oversize
        }
        if known != .ok, length > UInt32(Limits.errorMessageBytesMax) { return .oversize }
        return nil
    }

    /// What a client checks of a reply against the request that occupies its slot; nil when nothing is wrong.
    @inlinable
    public func fault(answering opcode: Opcode, sequence: UInt32, count: UInt32) -> ReplyFault? {
        guard self.sequence == sequence else { return .wrongSequence }
        guard self.opcode == opcode.rawValue else { return .wrongOpcode }
        guard status == Status.ok.rawValue else { return nil }
        guard opcode.mayReply(bytes: length, count: count) else { return .wrongLength }
        return opcode.repliesCount && value != UInt64(count) ? .wrongValue : nil
    }
}

/// Why a client closes the channel on a reply that no right server sends.
public enum ReplyFault: Sendable, Hashable, CaseIterable {
    /// A flag or field without meaning is set.
    case reservedBits
    /// The payload is longer than its kind allows.
    case oversize
    /// The status has no meaning.
    case unknownStatus
    /// No request occupies the slot.
    case unknownSlot
    /// The sequence is not that of the slot's request.
    case wrongSequence
    /// The opcode is not that of the slot's request.
    case wrongOpcode
    /// The payload's length is not what the request asked for.
    case wrongLength
    /// The value is not the count that was asked for.
    case wrongValue

    /// A sentence for the user.
    public var message: String {
        switch self {
        case .reservedBits: "the server set a reserved bit in a reply"
        case .oversize: "the server sent a reply that is longer than allowed"
        case .unknownStatus: "the server sent an unknown status code"
        case .unknownSlot: "the server answered a request that was not sent"
        case .wrongSequence: "the server answered with another sequence than the request's"
        case .wrongOpcode: "the server answered with another opcode than the request's"
        case .wrongLength: "the server's reply is not as long as the request asked for"
        case .wrongValue: "the server answered another count than the request's"
        }
    }
}
