import Core
import Wire

/// A request as a front end hands it to the services: read and judged as far as that goes without a handle, a slot or a
/// clock. How it came is no matter.
@frozen
public struct ResourceRequest: Sendable, Hashable {
    /// The number of what is asked; the answer bears it too. One that no `Opcode` has is refused.
    public var opcode: UInt16
    /// What is asked; nil for a number that no opcode has.
    public var operation: Opcode?
    /// What the front end found: `ok`, or why the request is refused, which uses up its sequence all the same.
    public var verdict: Status
    /// Modifiers.
    public var flags: RequestFlags
    /// The slot that the request occupies until its answer.
    public var slot: UInt16
    /// The slot's next, or what a resumed channel repeats.
    public var sequence: UInt32
    /// What OPEN returned; 0 where the operation uses none.
    public var handle: UInt32
    /// Bytes that the operation covers.
    public var count: UInt32
    /// Bytes of payload that follow the request.
    public var payloadBytes: UInt32
    /// The first byte that the operation covers.
    public var offset: UInt64

    /// A request from its fields.
    @inlinable
    public init(
        opcode: UInt16, operation: Opcode?, verdict: Status = .ok, flags: RequestFlags = [], slot: UInt16 = 0,
        sequence: UInt32 = 0, handle: UInt32 = 0, count: UInt32 = 0, payloadBytes: UInt32 = 0,
        offset: UInt64 = 0
    ) {
        self.opcode = opcode
        self.operation = operation
        self.verdict = verdict
        self.flags = flags
        self.slot = slot
        self.sequence = sequence
        self.handle = handle
        self.count = count
        self.payloadBytes = payloadBytes
        self.offset = offset
    }
}

/// What a request is answered with, but for its payload.
@frozen
public struct RequestAnswer: Sendable, Hashable {
    /// The request's slot.
    public let slot: UInt16
    /// The request's opcode.
    public let opcode: UInt16
    /// The request's sequence.
    public let sequence: UInt32
    /// What became of it.
    public let status: Status
    /// A result that depends on the opcode.
    public let value: UInt64
    /// A further result that depends on the opcode.
    public let detail: UInt64
}

extension RequestAnswer {
    /// The answer to a request.
    init(to request: ResourceRequest, _ status: Status, value: UInt64 = 0, detail: UInt64 = 0) {
        self.init(
            slot: request.slot, opcode: request.opcode, sequence: request.sequence, status: status,
            value: value, detail: detail)
    }
}

/// What comes with the answer of a control request.
public enum AnswerBody: Sendable {
    /// Nothing.
    case nothing
    /// Of HELLO that was accepted.
    case hello(HelloReply)
    /// What a handle stands for.
    case state(ResourceState)
    /// Why a request was refused, for a person.
    case text(String)
}

/// What a channel is sent beside the answers of slots.
public enum ChannelMessage: Sendable {
    /// The answer of a request that occupies no slot any more, or never did.
    case answer(RequestAnswer, AnswerBody)
    /// Something that nobody asked for. Events have numbers on the channel, in the order in which they are sent.
    case event(ChannelEvent)
}
