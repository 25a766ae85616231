import Core

/// What a multishot record does when it is armed.
enum MultishotKind: UInt8 {
    case accept
    case receive
    case poll
}

/// One multishot operation over its whole life, through every time that the kernel ends it and it is armed
/// again.
struct MultishotRecord {
    enum State: UInt8 {
        case free
        /// The kernel has it.
        case armed
        /// Waits for a receive buffer, or is being delivered.
        case parked
    }

    var kind: MultishotKind
    var state: State
    var isCancelled: Bool
    var fd: Int32
    var events: UInt32
    var token: UInt32
    var generation: UInt32
    var target: UInt32
    /// Next record of the same target, or next free record; -1 ends the list.
    var next: Int32
}

// SAFETY: the memory is this table's own; an index is used only after `record(_:)` or `insert` vouched for
// it.
/// Multishot records by index; completions name them by index and generation.
@safe struct MultishotTable {
    private(set) var records: UnsafeMutablePointer<MultishotRecord>
    private(set) var capacity: Int
    private var freeHead: Int32 = -1

    init(capacity: Int) {
        self.capacity = capacity
        unsafe records = UnsafeMutablePointer<MultishotRecord>.allocate(capacity: capacity)
        initializeRecords(from: 0)
    }

    func deallocate() { unsafe records.deallocate() }

    private mutating func initializeRecords(from first: Int) {
        for index in stride(from: capacity - 1, through: first, by: -1) {
            unsafe (records + index).initialize(
                to: MultishotRecord(
                    kind: .poll, state: .free, isCancelled: false, fd: -1, events: 0, token: 0, generation: 1,
                    target: 0, next: freeHead))
            freeHead = Int32(index)
        }
    }

    private mutating func grow() {
        precondition(capacity < Limits.reactorMultishotsMax, "too many multishot operations on one reactor")
        let larger = UnsafeMutablePointer<MultishotRecord>.allocate(capacity: capacity * 2)
        unsafe larger.moveInitialize(from: records, count: capacity)
        unsafe records.deallocate()
        unsafe records = unsafe larger
        let first = capacity
        capacity *= 2
        initializeRecords(from: first)
    }

    /// A parked record, first in its target's list.
    mutating func insert(
        kind: MultishotKind, fd: Int32, events: UInt32, token: UInt32, target: UInt32,
        slot: UnsafeMutablePointer<TargetSlot>
    ) -> Int {
        if freeHead < 0 { grow() }
        let index = Int(freeHead)
        let record = unsafe records + index
        freeHead = unsafe record.pointee.next
        unsafe record.pointee.kind = kind
        unsafe record.pointee.state = .parked
        unsafe record.pointee.isCancelled = false
        unsafe record.pointee.fd = fd
        unsafe record.pointee.events = events
        unsafe record.pointee.token = token
        unsafe record.pointee.target = target
        unsafe record.pointee.next = unsafe slot.pointee.firstMultishot
        unsafe slot.pointee.firstMultishot = Int32(index)
        return index
    }

    /// Takes the record out of its target's list and frees it.
    mutating func remove(_ index: Int, slot: UnsafeMutablePointer<TargetSlot>) {
        let record = unsafe records + index
        if unsafe slot.pointee.firstMultishot == Int32(index) {
            unsafe slot.pointee.firstMultishot = unsafe record.pointee.next
        } else {
            var place = unsafe slot.pointee.firstMultishot
            while place >= 0 {
                let following = unsafe records[Int(place)].next
                if following == Int32(index) {
                    unsafe records[Int(place)].next = unsafe record.pointee.next
                    break
                }
                place = following
            }
        }
        unsafe record.pointee.state = .free
        unsafe record.pointee.generation &+= 1
        unsafe record.pointee.next = freeHead
        freeHead = Int32(index)
    }

    /// The record that a completion names.
    @inline(__always)
    func record(_ userData: UInt64) -> UnsafeMutablePointer<MultishotRecord>? {
        let index = UserData.index(userData)
        guard index < capacity else { return nil }
        let record = unsafe records + index
        guard unsafe record.pointee.generation == UserData.token(userData),
            unsafe record.pointee.state != .free
        else { return nil }
        return unsafe record
    }
}

/// How a submission is named: bit 63 tells a multishot record from a target, then 31 bits of index and 32 of
/// token (of a target) or generation (of a record).
enum UserData {
    static let multishotBit: UInt64 = 1 << 63

    @inline(__always)
    static func target(_ index: UInt32, _ token: UInt32) -> UInt64 { UInt64(index) << 32 | UInt64(token) }

    @inline(__always)
    static func multishot(_ index: Int, generation: UInt32) -> UInt64 {
        multishotBit | UInt64(index) << 32 | UInt64(generation)
    }

    @inline(__always)
    static func index(_ userData: UInt64) -> Int {
        Int(truncatingIfNeeded: userData >> 32 & 0x7fff_ffff)
    }

    @inline(__always)
    static func token(_ userData: UInt64) -> UInt32 { UInt32(truncatingIfNeeded: userData) }
}
