import Core

/// What OPEN made: a resource, and the authority that every request on it is held against.
struct Handle {
    var authority = HandleAuthority()
    var opened = OpenResource.nothing
    /// The resource's id.
    var resource = Identifier.zero
    /// The number that the driver knows the resource by.
    var index: UInt32 = 0
    /// The number of the pool that the resource is in.
    var port: UInt8 = 0
    /// Whether the client has closed it; it is freed when nothing is in flight.
    var isClosing = false
    /// What the handle has of its session's claim to be the resource's writer.
    var claim = Claim.none
    var accessMode = AccessMode.singleWriter
    /// Bits of the id that change with every reuse of the entry.
    var generation: UInt32 = 0
    /// The resource's when the handle was opened or renewed.
    var writerGeneration: UInt64 = 0
    /// The slot of the CLOSE that is to be answered when nothing is in flight.
    var closeRequest: UInt16?

    /// Where its requests wait for the ceilings of its capability and of its resource, in `ServiceShard.gates`.
    var capabilityGate = RateGates.none
    var resourceGate = RateGates.none
    /// Requests that wait for the rate limit.
    var delayed = SlotQueue()
    /// Requests that wait for a COMPARE_AND_WRITE.
    var held: UInt32 = 0
    /// Requests that the driver has, those of copies that only read here included.
    var running: UInt32 = 0

    /// What a handle has of a claim.
    enum Claim {
        case none
        /// It counts among the writers.
        case held
        /// Its capability has ended: the claim stands until somebody else asks, and the handle does not count.
        case lapsed
    }

    /// Whether this handle counts in its session's claim to be the resource's writer.
    var holdsClaim: Bool { claim == .held }
}

extension Handle {
    /// Whether requests can name it. This is a `switch`, since `!=` would count a reference to the table.
    @inline(__always)
    var isOpen: Bool {
        switch authority.denial {
        case .badHandle: false
        default: !isClosing
        }
    }

    /// Whether a request may run: rights first, then place, then shape; `now` is of the clock of its terms.
    @inline(__always)
    func check(_ demand: RequestDemand, now: UInt64) -> Status {
        let status = authority.check(needed: demand.rights, now: now)
        return status == .ok ? opened.check(demand, authority) : status
    }

    /// Whether its client may still use it.
    var isUsable: Bool { authority.denial == .ok && !isClosing }

    /// Whether nothing of it will reach the device any more.
    var isQuiet: Bool { running == 0 && held == 0 && delayed.isEmpty }

    /// Whether the entry can be used for another handle.
    fileprivate var isFree: Bool { authority.denial == .badHandle && isQuiet && !isClosing }
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
