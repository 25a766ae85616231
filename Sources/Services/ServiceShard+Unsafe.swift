// Where payload lies in the arena: the data plane decrypts into it and encrypts from it.
import Core
import DriverKit
import Wire

/// A reply that is ready to be sent, and where its payload lies.
@unsafe
public struct ReadyReply {
    /// The header, its `length` being the payload's.
    public let header: ReplyHeader
    /// The payload; valid until `ServiceShard.release`. Empty for most.
    public let payload: UnsafeRawBufferPointer
    /// The slot to release when the payload has been used.
    public let slot: UInt16
}

extension ServiceShard {
    /// Where the payload of the request in `slot` goes: exactly as many bytes as it has. Valid until
    /// `payloadArrived`, or `detach`.
    public func payloadBuffer(_ channel: ServiceChannel, slot: UInt16) -> UnsafeMutableRawBufferPointer {
        let request = channel.slots[slot]
        guard let port = ports[Int(request.port)], request.count <= request.bufferBytes else {
            preconditionFailure("a request that receives its payload has a buffer for it")
        }
        // SAFETY: the allocator gave out these bytes for this request, and `count` is not more than it gave.
        return unsafe UnsafeMutableRawBufferPointer(
            start: port.arena.base + Int(request.bufferOffset), count: Int(request.count))
    }

    /// The next whole frame to send (control replies, events), before any reply; nil when there is none.
    public func takeFrame(_ channel: ServiceChannel) -> [UInt8]? {
        guard let frame = channel.frames.popFirst() else { return nil }
        roomWasMade()
        return frame
    }

    /// The next reply to send; nil when there is none, and the owner will be told of the next. After sending, or
    /// copying, it must be released.
    @inline(__always)
    public func takeReply(_ channel: ServiceChannel) -> ReadyReply? {
        guard let index = channel.slots.popReply() else {
            channel.isOutputAnnounced = !channel.frames.isEmpty
            return nil
        }
        let request = channel.slots[index]
        let header = ReplyHeader(
            length: request.replyBytes, status: request.status, slot: index, opcode: request.opcode,
            sequence: request.sequence, value: request.value, detail: request.detail)
        guard request.replyBytes > 0, let port = ports[Int(request.port)] else {
            return unsafe ReadyReply(
                header: header, payload: UnsafeRawBufferPointer(start: nil, count: 0), slot: index)
        }
        // SAFETY: the buffer belongs to the slot until it is released, and holds at least `replyBytes`.
        let payload = unsafe UnsafeRawBufferPointer(
            start: port.arena.base + Int(request.bufferOffset), count: Int(request.replyBytes))
        return unsafe ReadyReply(header: header, payload: payload, slot: index)
    }

    /// Gives back the buffer of a reply that `takeReply` returned; its slot can be used again.
    public func release(_ channel: ServiceChannel, slot: UInt16) {
        freeBuffer(channel, slot)
        channel.slots.release(slot)
    }
}
