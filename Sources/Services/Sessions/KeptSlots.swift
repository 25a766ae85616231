import Core
import Wire

/// What is kept of a lost channel: for each slot that was used the last sequence and what a repeat of it means.
struct KeptSlots: Sendable, Hashable {
    struct Entry: Sendable, Hashable {
        let index: UInt16
        let opcode: UInt16
        let status: Status
        let recall: SlotRecall
        let sequence: UInt32
        let value: UInt64
        let detail: UInt64
    }

    let entries: [Entry]
    /// The slots that the channel has, used or not; 0 when the server was restarted and does not know.
    let count: Int
    /// What the client is told that the server still has.
    let resumption: Resumption

    /// Of a channel that a server had before it was restarted.
    static let ofRestartedServer = KeptSlots(entries: [], count: 0, resumption: .session)
}

extension KeptSlots.Entry {
    /// What is kept of a slot that has nothing in flight.
    init(index: UInt16, _ slot: Slot) {
        self.index = index
        opcode = slot.opcode
        status = slot.status
        recall = slot.recall == .nothing ? .after(slot.opcode) : slot.recall
        sequence = slot.sequence
        value = slot.value
        detail = slot.detail
    }
}

extension SlotRecall {
    /// What a repeat of an answered request means. Control requests may all be repeated: handles do not outlive a
    /// connection, so that nothing is left of what they did.
    static func after(_ opcode: UInt16) -> SlotRecall {
        guard let known = Opcode(rawValue: opcode), !known.kind.isControl, !known.rule.isIdempotent else {
            return .again
        }
        return .answer
    }
}

extension Slot {
    /// The slot of a resumed channel.
    init(_ entry: KeptSlots.Entry) {
        sequence = entry.sequence
        opcode = entry.opcode
        recall = entry.recall
        status = entry.status
        value = entry.value
        detail = entry.detail
    }
}
