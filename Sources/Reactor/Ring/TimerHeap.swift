/// Timers ordered by deadline: a binary heap over slots that know their place, so that cancelling is cheap.
struct TimerHeap {
    struct Entry {
        var deadline: UInt64
        var slot: UInt32
    }

    struct Slot {
        var target: TargetID
        var token: UInt32
        var generation: UInt32
        /// Place in the heap, or -1 when the slot is free.
        var place: Int32
        var nextFree: Int32
    }

    private var heap: ContiguousArray<Entry> = []
    private var slots: ContiguousArray<Slot> = []
    private var freeHead: Int32 = -1

    init(capacity: Int) {
        heap.reserveCapacity(capacity)
        slots.reserveCapacity(capacity)
    }

    var count: Int { heap.count }
    /// When the next timer is due; nil without timers.
    var nextDeadline: UInt64? { heap.first?.deadline }

    mutating func insert(deadline: UInt64, target: TargetID, token: UInt32) -> TimerID {
        let index: Int32
        if freeHead >= 0 {
            index = freeHead
            freeHead = slots[Int(index)].nextFree
            slots[Int(index)].target = target
            slots[Int(index)].token = token
        } else {
            index = Int32(slots.count)
            slots.append(Slot(target: target, token: token, generation: 1, place: -1, nextFree: -1))
        }
        let place = heap.count
        heap.append(Entry(deadline: deadline, slot: UInt32(index)))
        slots[Int(index)].place = Int32(place)
        siftUp(place)
        return TimerID(index: UInt32(index), generation: slots[Int(index)].generation)
    }

    /// Removes a timer; false when it has fired or was cancelled already.
    @discardableResult
    mutating func cancel(_ id: TimerID) -> Bool {
        guard Int(id.index) < slots.count else { return false }
        let slot = slots[Int(id.index)]
        guard slot.generation == id.generation, slot.place >= 0 else { return false }
        remove(at: Int(slot.place))
        return true
    }

    /// Takes the next timer that is due at `now`.
    mutating func takeDue(_ now: UInt64) -> (target: TargetID, token: UInt32)? {
        guard let first = heap.first, first.deadline <= now else { return nil }
        let slot = slots[Int(first.slot)]
        remove(at: 0)
        return (slot.target, slot.token)
    }

    mutating func removeAll() {
        while !heap.isEmpty { remove(at: heap.count - 1) }
    }

    private mutating func remove(at place: Int) {
        let freed = Int(heap[place].slot)
        slots[freed].place = -1
        slots[freed].generation &+= 1
        slots[freed].nextFree = freeHead
        freeHead = Int32(freed)
        let last = heap.removeLast()
        if place < heap.count {
            heap[place] = last
            slots[Int(last.slot)].place = Int32(place)
            siftDown(place)
            siftUp(place)
        }
    }

    private mutating func siftUp(_ start: Int) {
        var place = start
        while place > 0 {
            let parent = (place - 1) / 2
            if heap[parent].deadline <= heap[place].deadline { return }
            exchange(place, parent)
            place = parent
        }
    }

    private mutating func siftDown(_ start: Int) {
        var place = start
        while true {
            let left = 2 * place + 1
            if left >= heap.count { return }
            var least = left
            if left + 1 < heap.count && heap[left + 1].deadline < heap[left].deadline { least = left + 1 }
            if heap[place].deadline <= heap[least].deadline { return }
            exchange(place, least)
            place = least
        }
    }

    private mutating func exchange(_ first: Int, _ second: Int) {
        heap.swapAt(first, second)
        slots[Int(heap[first].slot)].place = Int32(first)
        slots[Int(heap[second].slot)].place = Int32(second)
    }
}
