// Where payload lies in the arena: the data plane decrypts into it and encrypts from it.
import Core
import DriverKit

/// A reply that is ready to be sent, and where its payload lies.
@unsafe
public struct ReadyReply {
    /// What is answered; its slot is to be released when the payload has been used.
    public let answer: RequestAnswer
    /// The payload; valid until `ServiceShard.release`. Empty for most.
    public let payload: UnsafeRawBufferPointer
}

extension ServiceShard {
    /// Where the payload of the request in `slot` goes: exactly as many bytes as it has. Valid until
    /// `payloadArrived`, or `detach`.
    public func payloadBuffer(_ channel: ServiceChannel, slot: UInt16) -> UnsafeMutableRawBufferPointer {
        let request = channel.slots[slot]
        let place = RequestRoom.payload(request)
        guard let port = ports.borrow(Int(request.port)), place.upperBound <= Int(request.bufferBytes) else {
            preconditionFailure("a request that receives its payload has a buffer for it")
        }
        // SAFETY: the allocator gave out these bytes for this request, and the payload ends within them.
        let base = unsafe port.with { unsafe $0.arena.base }
        return unsafe UnsafeMutableRawBufferPointer(
            start: base + Int(request.bufferOffset) + place.lowerBound, count: place.count)
    }

    /// The next message to send, before any reply; nil when there is none.
    public func takeMessage(_ channel: ServiceChannel) -> ChannelMessage? {
        guard let message = channel.messages.popFirst() else { return nil }
        roomWasMade(of: channel)
        return message
    }

    /// The next reply to send; nil when there is none, and the owner will be told of the next. After sending, or
    /// copying, it must be released.
    @inline(__always)
    public func takeReply(_ channel: ServiceChannel) -> ReadyReply? {
        guard let index = channel.slots.popReply() else {
            channel.isOutputAnnounced = !channel.messages.isEmpty
            return nil
        }
        note(.sending, channel, index)
        let request = channel.slots[index]
        let answer = RequestAnswer(
            slot: index, opcode: request.opcode, sequence: request.sequence, status: request.status,
            value: request.value, detail: request.detail)
        guard request.replyBytes > 0, let port = ports.borrow(Int(request.port)) else {
            return unsafe ReadyReply(
                answer: answer, payload: UnsafeRawBufferPointer(start: nil, count: 0))
        }
        // SAFETY: the buffer belongs to the slot until it is released, and holds at least `replyBytes`.
        let base = unsafe port.with { unsafe $0.arena.base }
        let payload = unsafe UnsafeRawBufferPointer(
            start: base + Int(request.bufferOffset), count: Int(request.replyBytes))
        return unsafe ReadyReply(answer: answer, payload: payload)
    }

    /// Gives back the buffer of a reply that `takeReply` returned; its slot can be used again.
    public func release(_ channel: ServiceChannel, slot: UInt16) {
        freeBuffer(channel, slot)
        channel.slots.release(slot)
    }
}
