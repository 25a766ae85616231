import Core
import Wire

/// What OPEN made: the checked authority that every request on it is held against.
struct Handle {
    /// `ok` while requests may run; otherwise what every further request is answered with.
    var denial = Status.badHandle
    /// Bits of the id that change with every reuse of the entry.
    var generation: UInt32 = 0
    /// Whether the client has closed it; it is freed when nothing is in flight.
    var isClosing = false
    /// The CLOSE that is to be answered then.
    var closeRequest: RequestHeader?

    var rights: Rights = []
    /// The capability's byte range; the whole resource where it names none.
    var rangeStart: UInt64 = 0
    var rangeEnd: UInt64 = .max
    /// The volume's size in bytes.
    var size: UInt64 = 0
    /// The smallest unit of I/O in bytes, a power of two.
    var blockSize: UInt32 = 1
    /// The most bytes of one READ or WRITE.
    var maximumTransfer: UInt32 = 0
    /// Unix seconds at which the capability ends, for people and clients.
    var expiry: UInt64 = 0
    /// When it ends here, in nanoseconds of the monotonic clock.
    var deadline: UInt64 = 0
    /// When the client is told that the end is near, likewise.
    var noticeDue: UInt64 = 0
    /// Ceilings that the limiter enforces.
    var limits = IOLimits.none
    /// Whether the client has been told that the end is near.
    var expiryAnnounced = false

    var port: UInt8 = 0
    var volumeIndex: UInt32 = 0
    var volume = Identifier.zero
    var accessMode = AccessMode.singleWriter
    var capability = Identifier.zero
    var subject = Identifier.zero
    var resourceEpoch: UInt64 = 0
    var nodeEpoch: UInt64 = 0
    /// The volume's when the handle was opened or renewed.
    var writerGeneration: UInt64 = 0

    /// Where its requests wait for the ceilings of its capability and of its volume, in `ServiceShard.gates`.
    var capabilityGate = RateGates.none
    var volumeGate = RateGates.none
    /// Requests that wait for the rate limit.
    var delayed = SlotQueue()
    /// Requests that wait for a COMPARE_AND_WRITE.
    var held: UInt32 = 0
    /// Requests that the driver has, of copies also those that only read here.
    var running: UInt32 = 0
    /// What it has of its session's claim to be the volume's writer.
    var claim = Claim.none

    /// What a handle has of a claim.
    enum Claim {
        case none
        /// It counts among the writers.
        case held
        /// Its capability has ended: the claim stands until somebody else asks, and the handle does not count.
        case lapsed
    }

    /// Whether this handle counts in its session's claim to be the volume's writer.
    var holdsClaim: Bool { claim == .held }
}

extension Handle {
    /// Whether requests can name it. By `switch`: `!=` would count a reference to the table.
    @inline(__always)
    var isOpen: Bool {
        switch denial {
        case .badHandle: false
        default: !isClosing
        }
    }

    /// Whether a request may run: rights first, then place, then shape.
    ///
    /// - Parameters:
    ///   - needed: the rights that the opcode declares.
    ///   - covers: whether the operation covers `count` bytes at `offset` (FLUSH does not).
    ///   - moves: whether those bytes travel as payload.
    ///   - now: nanoseconds of the clock that `deadline` is of.
    @inline(__always)
    func check(
        needed: Rights, offset: UInt64, count: UInt32, covers: Bool, moves: Bool, now: UInt64
    ) -> Status {
        guard denial == .ok else { return denial }
        guard now < deadline else { return .expired }
        guard rights.isSuperset(of: needed) else { return .denied }
        guard covers else { return .ok }
        guard count > 0 else { return .badLength }
        let (end, overflow) = offset.addingReportingOverflow(UInt64(count))
        guard !overflow, end <= size else { return .outOfRange }
        guard offset >= rangeStart, end <= rangeEnd else { return .denied }
        let mask = UInt64(blockSize) - 1
        guard (offset | UInt64(count)) & mask == 0 else { return .unaligned }
        guard !moves || count <= maximumTransfer else { return .tooLarge }
        return .ok
    }
}

/// The open handles of one channel.
///
/// An id is the entry's position in the low byte and its generation above, so that an id of a closed handle
/// names nothing, even after its entry was used again.
struct HandleTable {
    private var entries: [Handle] = []
    private let capacity: Int

    init(capacity: Int = Limits.handlesPerChannelMax) {
        self.capacity = min(capacity, 256)
    }

    /// Entries that have ever been used; positions are below this.
    var count: Int { entries.count }

    /// The handle at a position that `find` or `insert` returned.
    subscript(position: UInt8) -> Handle {
        get { entries[Int(position)] }
        _modify { yield &entries[Int(position)] }
    }

    /// Stores a handle; nil when the table is full.
    mutating func insert(_ handle: Handle) -> (id: UInt32, position: UInt8)? {
        let position: Int
        if let free = entries.firstIndex(where: { $0.isFree }) {
            position = free
        } else if entries.count < capacity {
            position = entries.count
            entries.append(Handle())
        } else {
            return nil
        }
        let generation = entries[position].generation % 0xFF_FFFF + 1
        entries[position] = handle
        entries[position].generation = generation
        return (generation << 8 | UInt32(position), UInt8(position))
    }

    /// The position of the open handle with this id.
    @inline(__always)
    func find(_ id: UInt32) -> UInt8? {
        let position = Int(id & 0xFF)
        guard position < entries.count, entries[position].generation == id >> 8,
            entries[position].isOpen
        else { return nil }
        return UInt8(position)
    }

    /// The position of the handle with this id, also of one that only waits for requests to end.
    func holder(of id: UInt32) -> UInt8? {
        let position = Int(id & 0xFF)
        guard position < entries.count, entries[position].generation == id >> 8, !entries[position].isFree
        else { return nil }
        return UInt8(position)
    }

    /// The id of the handle at `position`.
    func id(_ position: UInt8) -> UInt32 {
        entries[Int(position)].generation << 8 | UInt32(position)
    }

    /// Frees the entry at `position`; nothing of it is in flight.
    mutating func remove(_ position: UInt8) {
        let generation = entries[Int(position)].generation
        entries[Int(position)] = Handle()
        entries[Int(position)].generation = generation
    }

    /// The positions of handles that are in use, also of those that only wait for requests to end.
    func positions(where matches: (Handle) -> Bool) -> [UInt8] {
        entries.indices.filter { !entries[$0].isFree && matches(entries[$0]) }.map { UInt8($0) }
    }
}

extension Handle {
    /// Whether the entry can be used for another handle.
    fileprivate var isFree: Bool {
        denial == .badHandle && isQuiet && !isClosing
    }

    /// Whether its client may still use it.
    var isUsable: Bool { denial == .ok && !isClosing }

    /// Whether nothing of it will reach the device any more.
    var isQuiet: Bool { running == 0 && held == 0 && delayed.isEmpty }
}
