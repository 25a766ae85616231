import Core

/// What a slot's current request is doing.
enum SlotState: UInt8 {
    /// No request; the next sequence number may start one.
    case idle
    /// It was accepted and its payload is arriving.
    case receiving
    /// It waits for its handle's rate limit.
    case delayed
    /// It waits for a COMPARE_AND_WRITE of the same bytes to end, or is one and waits for its turn.
    case held
    /// The driver has it.
    case running
    /// A control request whose answer needs other threads.
    case deciding
    /// Answered; the reply waits in the reply queue.
    case replied
    /// Answered; the reply is being sent, so that its buffer is the connection's.
    case sending
}

/// What a slot whose connection was lost takes next, beside or in place of the next sequence.
///
/// The table of API/data-channel.md, "Resume", with *s* the last sequence that was taken up.
enum SlotRecall: UInt8, Sendable {
    /// The connection lives: nothing but the next sequence.
    case nothing
    /// *s* was executed and may not be again: *s* once more has the same answer.
    case answer
    /// *s* may be executed again.
    case again
    /// *s* was never executed: only *s* will do.
    case dropped
    /// The server was restarted and does not know *s*: any sequence will do.
    case anything
}

/// One request in flight and what is known of its answer.
struct Slot {
    /// The sequence number of the latest request; 0 before the first.
    var sequence: UInt32 = 0
    var opcode: UInt16 = 0
    var flags: UInt16 = 0
    var state = SlotState.idle
    /// What is taken beside the next sequence, on the first request after a connection was lost.
    var recall = SlotRecall.nothing
    /// How it is done.
    var way = RequestWay.whole
    /// Somebody waits for its end: it takes no further step.
    var isWithdrawn = false
    /// The position of its handle in the handle table.
    var handle: UInt8 = 0
    /// The generation of that handle: the position may be another's when the reply is sent.
    var handleGeneration: UInt32 = 0
    /// The pool that its buffer belongs to.
    var port: UInt8 = 0
    /// The position of the slot that follows in a queue (replies or delayed requests).
    var next: UInt16 = SlotTable.none
    /// Bytes the operation covers.
    var count: UInt32 = 0
    /// The reply's payload: its length within the buffer.
    var replyBytes: UInt32 = 0
    var offset: UInt64 = 0
    /// The buffer in the port's arena; `bufferBytes` 0 means none.
    var bufferOffset: UInt64 = 0
    var bufferBytes: UInt32 = 0
    var status = Status.ok
    var value: UInt64 = 0
    var detail: UInt64 = 0
}

/// A FIFO of slots, linked through `Slot.next`; a slot is in at most one.
struct SlotQueue {
    private(set) var first = SlotTable.none
    private var last = SlotTable.none
    private(set) var count = 0

    var isEmpty: Bool { first == SlotTable.none }

    fileprivate mutating func append(_ index: UInt16, in slots: inout [Slot]) {
        slots[Int(index)].next = SlotTable.none
        if last == SlotTable.none { first = index } else { slots[Int(last)].next = index }
        last = index
        count += 1
    }

    fileprivate mutating func pop(from slots: [Slot]) -> UInt16? {
        let index = first
        guard index != SlotTable.none else { return nil }
        first = slots[Int(index)].next
        if first == SlotTable.none { last = SlotTable.none }
        count -= 1
        return index
    }
}

/// The slots of one channel of one session: at most one request each, numbered without gaps.
///
/// The table is keyed by channel of a session, not by connection: it outlives the connection until the last
/// request that it started has ended, and a later connection can take it over.
struct SlotTable {
    /// "No slot" in a link.
    static let none = UInt16.max

    private var slots: [Slot]
    /// Slots whose answer is ready to be sent, oldest first.
    private(set) var replies = SlotQueue()
    /// Requests that have begun and are not answered yet.
    private(set) var unanswered = 0
    /// Requests that have begun and whose answer is not taken for sending yet.
    var underWay: Int { unanswered + replies.count }
    /// Slots that have not begun a request since their channel was resumed.
    private(set) var recalls = 0
    /// Whether the client has yet to learn that this server does not know what its last requests came to.
    private var isOfRestartedServer = false

    /// A table of `count` slots (1…`Limits.slotsPerChannelMax`), all idle.
    init(count: Int) {
        slots = Array(repeating: Slot(), count: SlotTable.bounded(count))
    }

    /// The table of a channel that goes on: what was kept of it, for the number of slots that HELLO grants.
    init(resuming kept: KeptSlots, count: Int) {
        let fresh = kept.resumption == .session ? Slot(recall: .anything) : Slot()
        slots = Array(repeating: fresh, count: SlotTable.bounded(count))
        for entry in kept.entries where Int(entry.index) < slots.count {
            slots[Int(entry.index)] = Slot(entry)
        }
        recalls = slots.count { $0.recall != .nothing }
        isOfRestartedServer = kept.resumption == .session
    }

    private static func bounded(_ count: Int) -> Int {
        min(max(count, 1), Limits.slotsPerChannelMax)
    }

    /// The number of slots.
    var count: Int { slots.count }

    /// The request of a slot; `index` comes from `begin` or a queue.
    subscript(index: UInt16) -> Slot {
        get { slots[Int(index)] }
        _modify { yield &slots[Int(index)] }
    }

    /// Starts a request in slot `index`, or says why not; a refused request changes nothing.
    mutating func begin(index: UInt16, sequence: UInt32, opcode: UInt16, flags: UInt16) -> Status {
        guard Int(index) < slots.count else { return .badSlot }
        let last = slots[Int(index)].sequence
        guard slots[Int(index)].state == .idle else { return .badSequence }
        if recalls > 0, slots[Int(index)].recall != .nothing {
            guard isRecalled(index, sequence) else { return .badSequence }
            recalls -= 1
            isOfRestartedServer = false
        } else {
            guard sequence == SlotSequence.successor(of: last) else { return .badSequence }
        }
        slots[Int(index)] = Slot(sequence: sequence, opcode: opcode, flags: flags, state: .receiving)
        unanswered += 1
        return .ok
    }

    /// Whether a slot that was kept begins with this sequence.
    private func isRecalled(_ index: UInt16, _ sequence: UInt32) -> Bool {
        let last = slots[Int(index)].sequence
        switch slots[Int(index)].recall {
        case .nothing, .answer: return sequence == SlotSequence.successor(of: last)
        case .again:
            return sequence != 0 && (sequence == last || sequence == SlotSequence.successor(of: last))
        case .dropped: return sequence != 0 && sequence == last
        case .anything: return sequence != 0
        }
    }

    /// Queues the kept answer of slot `index` once more if the request with this sequence has been executed and may
    /// not be again; false when it is to begin as any other.
    mutating func replay(index: UInt16, sequence: UInt32) -> Bool {
        guard Int(index) < slots.count, slots[Int(index)].state == .idle,
            slots[Int(index)].recall == .answer, slots[Int(index)].sequence == sequence
        else { return false }
        slots[Int(index)].state = .replied
        isOfRestartedServer = false
        replies.append(index, in: &slots)
        return true
    }

    /// Sets the answer of slot `index` and queues it for sending; the buffer stays with the slot.
    mutating func answer(_ index: UInt16, status: Status, value: UInt64 = 0, detail: UInt64 = 0) {
        slots[Int(index)].state = .replied
        slots[Int(index)].status = status
        slots[Int(index)].value = value
        slots[Int(index)].detail = detail
        unanswered -= 1
        replies.append(index, in: &slots)
    }

    /// Takes the oldest answer off the queue; the caller sends it and then calls `release`.
    mutating func popReply() -> UInt16? {
        guard let index = replies.pop(from: slots) else { return nil }
        slots[Int(index)].state = .sending
        return index
    }

    /// Puts another answer, without a payload, in the place of one that waits to be sent; the caller frees its buffer.
    mutating func retract(_ index: UInt16, status: Status) {
        slots[Int(index)].status = status
        slots[Int(index)].value = 0
        slots[Int(index)].detail = 0
        slots[Int(index)].replyBytes = 0
    }

    /// Makes an answered slot idle again; its buffer has been freed by the caller.
    mutating func release(_ index: UInt16) {
        slots[Int(index)].state = .idle
        slots[Int(index)].bufferBytes = 0
        slots[Int(index)].replyBytes = 0
    }

    /// Ends a request without an answer in the slot: it was answered by a frame of its own, or its channel is gone.
    mutating func abandon(_ index: UInt16) {
        unanswered -= 1
        release(index)
    }

    /// Ends a request that was not executed and never will be, because its connection is gone.
    mutating func drop(_ index: UInt16) {
        slots[Int(index)].recall = .dropped
        recalls += 1
        abandon(index)
    }

    /// Ends a request whose connection is gone with the answer that a repeat of it is given.
    mutating func conclude(_ index: UInt16, status: Status, value: UInt64 = 0, detail: UInt64 = 0) {
        slots[Int(index)].status = status
        slots[Int(index)].value = value
        slots[Int(index)].detail = detail
        abandon(index)
    }

    /// What has to be kept for the channel's next connection; nothing is in flight.
    var kept: KeptSlots {
        let entries = slots.indices.filter { slots[$0].sequence != 0 || slots[$0].recall != .nothing }.map {
            KeptSlots.Entry(index: UInt16($0), slots[$0])
        }
        return KeptSlots(
            entries: entries, count: slots.count, resumption: isOfRestartedServer ? .session : .slots)
    }

    /// Adds slot `index` at the end of `queue`, a queue of this table.
    mutating func append(_ index: UInt16, to queue: inout SlotQueue) {
        queue.append(index, in: &slots)
    }

    /// Removes and returns the first slot of `queue`, a queue of this table.
    func pop(from queue: inout SlotQueue) -> UInt16? {
        queue.pop(from: slots)
    }
}
