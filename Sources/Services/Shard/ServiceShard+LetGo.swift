import Core
import Wire

/// What authority that ends gives back at once: buffers that wait for a client to read, or to go on writing.
extension ServiceShard {
    /// Gives back the buffers that requests on a handle hold without the driver having them. A request that has not
    /// arrived whole is answered, data that was read is not sent any more, and a connection that is sending some is
    /// told to hurry.
    func letGo(_ channel: ServiceChannel, _ position: UInt8) {
        guard !channel.isDetached else { return }
        let (denial, generation) = (
            channel.handles[position].authority.denial, channel.handles[position].generation
        )
        for index in 0..<UInt16(channel.slots.count) {
            let slot = channel.slots[index]
            guard slot.bufferBytes > 0, slot.handle == position, slot.handleGeneration == generation else {
                continue
            }
            switch slot.state {
            case .receiving:
                channel.owner?.channelMustSkip(slot: index)
                answer(channel, index, denial)
            case .replied:
                channel.slots.retract(index, status: denial)
                freeBuffer(channel, index)
            case .sending: channel.owner?.channelMustHurry()
            case .idle, .delayed, .held, .running, .deciding: break
            }
        }
        // What waits for room on such a handle is refused when it is offered again.
        endStall(channel)
    }
}
