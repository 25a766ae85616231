import Core

/// Stands in free slots of the table; nothing is ever delivered to it.
private final class NoTarget: CompletionTarget {
    func completed(token: UInt32, result: Int32, flags: CompletionFlags) {
        preconditionFailure("a completion came for a free target")
    }
}

// SAFETY: `object` is retained by the table as long as it is set.
/// One registered target. Holds no reference that Swift counts: the table retains and releases by hand.
@safe struct TargetSlot {
    var object: UnsafeRawPointer?
    var type: any CompletionTarget.Type
    var generation: UInt32
    /// Operations that have not had their last completion, and deliveries that are running.
    var operations: UInt32
    /// Head of the list of the target's multishot records, -1 for none.
    var firstMultishot: Int32
    var nextFree: Int32
    var isClosing: Bool
}

// SAFETY: the memory is this table's own; slots are retained from `insert` until freed, and freed only
// without operations.
/// Targets by index. A slot is free for reuse only when nothing of the kernel's can name it any more.
@safe struct TargetTable {
    private(set) var slots: UnsafeMutablePointer<TargetSlot>
    private var capacity: Int
    private var freeHead: Int32 = -1
    private var used = 0

    init(capacity: Int) {
        self.capacity = capacity
        unsafe slots = UnsafeMutablePointer<TargetSlot>.allocate(capacity: capacity)
        initializeSlots(from: 0)
    }

    func deallocate() {
        for index in 0..<capacity {
            if let object = unsafe slots[index].object {
                unsafe Unmanaged<AnyObject>.fromOpaque(object).release()
            }
        }
        unsafe slots.deallocate()
    }

    private mutating func initializeSlots(from first: Int) {
        for index in stride(from: capacity - 1, through: first, by: -1) {
            unsafe (slots + index).initialize(
                to: TargetSlot(
                    object: nil, type: NoTarget.self, generation: 1, operations: 0, firstMultishot: -1,
                    nextFree: freeHead, isClosing: false))
            freeHead = Int32(index)
        }
    }

    private mutating func grow() {
        precondition(capacity < Limits.reactorTargetsMax, "too many targets on one reactor")
        let larger = UnsafeMutablePointer<TargetSlot>.allocate(capacity: capacity * 2)
        unsafe larger.moveInitialize(from: slots, count: capacity)
        unsafe slots.deallocate()
        unsafe slots = unsafe larger
        let first = capacity
        capacity *= 2
        initializeSlots(from: first)
    }

    /// Retains the target and gives it a slot.
    mutating func insert(_ target: any CompletionTarget) -> TargetID {
        if freeHead < 0 { grow() }
        let index = freeHead
        let slot = unsafe slots + Int(index)
        freeHead = unsafe slot.pointee.nextFree
        unsafe slot.pointee.object = unsafe UnsafeRawPointer(
            Unmanaged<AnyObject>.passRetained(target).toOpaque())
        unsafe slot.pointee.type = type(of: target)
        unsafe slot.pointee.operations = 0
        unsafe slot.pointee.firstMultishot = -1
        unsafe slot.pointee.isClosing = false
        used += 1
        return unsafe TargetID(index: UInt32(index), generation: slot.pointee.generation)
    }

    /// The slot of a target that must be registered.
    @inline(__always)
    func slot(_ id: TargetID) -> UnsafeMutablePointer<TargetSlot> {
        precondition(Int(id.index) < capacity, "not a target of this reactor")
        let slot = unsafe slots + Int(id.index)
        unsafe precondition(slot.pointee.generation == id.generation, "the target is no longer registered")
        return unsafe slot
    }

    /// Whether the target is registered, not closing.
    func isRegistered(_ id: TargetID) -> Bool {
        guard Int(id.index) < capacity else { return false }
        let slot = unsafe slots[Int(id.index)]
        return unsafe slot.generation == id.generation && slot.object != nil && !slot.isClosing
    }

    /// Ends one operation or delivery of the slot at `index`, and frees the slot when it was the last of a
    /// closing one.
    @inline(__always)
    mutating func endOperation(_ index: Int) {
        let slot = unsafe slots + index
        unsafe slot.pointee.operations &-= 1
        if unsafe slot.pointee.isClosing && slot.pointee.operations == 0 { free(index) }
    }

    /// Marks the slot; it is freed at once when nothing of it is left.
    mutating func close(_ id: TargetID) {
        let slot = unsafe slot(id)
        unsafe precondition(!slot.pointee.isClosing, "the target was unregistered twice")
        unsafe slot.pointee.isClosing = true
        if unsafe slot.pointee.operations == 0 { free(Int(id.index)) }
    }

    @inline(never)
    private mutating func free(_ index: Int) {
        let slot = unsafe slots + index
        let object = unsafe slot.pointee.object
        unsafe slot.pointee.object = nil
        unsafe slot.pointee.type = NoTarget.self
        unsafe slot.pointee.isClosing = false
        unsafe slot.pointee.generation &+= 1
        unsafe slot.pointee.nextFree = freeHead
        freeHead = Int32(index)
        used -= 1
        if let object = unsafe object { unsafe Unmanaged<AnyObject>.fromOpaque(object).release() }
    }

    /// Releases every target that is still registered. Only when the kernel holds no operation any more.
    mutating func releaseAll() {
        for index in 0..<capacity where unsafe slots[index].object != nil { free(index) }
    }
}
