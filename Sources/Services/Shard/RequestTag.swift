import Core

/// Which request a completion belongs to, in the one word that a driver is given with it and returns.
///
/// Drivers and their hosts do not look into it, and may return anything: `init(echo:)` takes every word, and the fields
/// name nothing until `ServiceShard.complete` has found the channel, its slot and the request that runs there.
struct RequestTag: Hashable, Sendable {
    /// In place of a channel's number, for requests of the server's own: no channel has it.
    private static let own: UInt64 = 0xFF_FFFF

    /// The word: 24 bits for the channel, 8 for the slot and 32 for the sequence.
    let rawValue: UInt64

    /// The tag of the request in a slot of a channel of the shard.
    @inline(__always)
    init(channel: UInt32, slot: UInt16, sequence: UInt32) {
        assert(
            channel < Limits.channelsPerShardMax && slot < Limits.slotsPerChannelMax, "numbers fit the word")
        rawValue = UInt64(channel) << 40 | UInt64(slot) << 32 | UInt64(sequence)
    }

    /// The tag of a request that the server makes itself, by its number.
    init(own number: UInt64) {
        rawValue = RequestTag.own << 40 | number & 0xFF_FFFF_FFFF
    }

    /// What a driver has returned.
    @inline(__always)
    init(echo rawValue: UInt64) { self.rawValue = rawValue }

    /// The channel's number in its shard.
    @inline(__always)
    var channel: Int { Int(truncatingIfNeeded: rawValue >> 40) }

    /// The slot of the channel.
    @inline(__always)
    var slot: UInt16 { UInt16(truncatingIfNeeded: rawValue >> 32) & 0xFF }

    /// The sequence of the request in the slot.
    @inline(__always)
    var sequence: UInt32 { UInt32(truncatingIfNeeded: rawValue) }
}

extension ServiceChannel {
    /// The tag of the request in a slot.
    @inline(__always)
    func tag(_ slot: UInt16) -> RequestTag {
        RequestTag(channel: number, slot: slot, sequence: slots[slot].sequence)
    }
}
