import Core
import Services
import Wire

// The data channel's frames, as services take them and as what services say: the only place that knows both.

extension ResourceRequest {
    /// The request that a header begins, judged by what may come now.
    @inline(__always)
    init(_ header: RequestHeader, _ limits: FrameLimits) {
        self.init(
            opcode: header.opcode, operation: header.knownOpcode, verdict: header.validate(limits),
            flags: header.flags, slot: header.slot, sequence: header.sequence, handle: header.handle,
            count: header.count, payloadBytes: header.length, offset: header.offset)
    }
}

extension ReplyHeader {
    /// The header of an answer that is followed by `length` bytes.
    @inline(__always)
    init(_ answer: RequestAnswer, length: Int) {
        self.init(
            length: UInt32(truncatingIfNeeded: length), status: answer.status.rawValue, slot: answer.slot,
            opcode: answer.opcode, sequence: answer.sequence, value: answer.value, detail: answer.detail)
    }
}

extension AnswerBody {
    /// The bytes as on the wire.
    fileprivate var bytes: [UInt8] {
        switch self {
        case .nothing: []
        case .hello(let reply): reply.bytes
        case .state(let state): state.bytes
        case .text(let text): ErrorMessage.encode(text)
        }
    }
}

/// Makes the frames of one channel that are not the answers of slots, in the order in which they are sent.
struct MessageFrames {
    /// Of the last event.
    private var eventNumber: UInt32 = 0

    /// The whole frame of a message.
    mutating func frame(_ message: ChannelMessage) -> [UInt8] {
        switch message {
        case .answer(let answer, let body):
            let payload = body.bytes
            return ReplyHeader(answer, length: payload.count).bytes + payload
        case .event(let event):
            eventNumber = SlotSequence.successor(of: eventNumber)
            return event.frame(number: eventNumber)
        }
    }
}
