import Core

/// The requests of the kernel that are under way, each cut into pieces that the backend takes.
///
/// A value without I/O: it says which piece is next and when a request is finished. A request lives in an
/// entry, whose index is the tag of its pieces. Entries that still have pieces to send stand in one bounded
/// queue, in the order of their arrival.
struct RequestTable {
    /// A part of a request, at most as large as the backend takes.
    struct Piece: Equatable {
        var index: Int
        var operation: BlockOperation
        /// Bytes from the start of the volume.
        var offset: UInt64
        /// Where the piece starts in the request's own memory, in bytes.
        var position: UInt64
        var count: UInt32
    }

    private struct Entry {
        var operation = BlockOperation.flush
        var offset: UInt64 = 0
        var length: UInt64 = 0
        var sent: UInt64 = 0
        var isFlushSent = false
        var piecesInFlight = 0
        var status = Status.ok
        var isActive = false
        var isQueued = false
        var isParked = false

        var hasMore: Bool {
            guard status == .ok else { return false }
            return operation == .flush ? !isFlushSent : sent < length
        }
    }

    private var entries: [Entry]
    private var free: [Int]
    private var queue: [Int]
    private var queueHead = 0
    private var queueCount = 0
    /// Requests that wait for space, in the order in which they were told to.
    private var parked: [Int] = []
    /// The most bytes of one piece with a payload.
    var transferMax: UInt32
    /// The most bytes of one piece without a payload (discard, write zeroes).
    let rangeMax: UInt32

    /// A table for at most `capacity` requests; `transferMax` and `rangeMax` are above 0.
    init(capacity: Int, transferMax: UInt32, rangeMax: UInt32) {
        precondition(capacity > 0 && transferMax > 0 && rangeMax > 0)
        entries = Array(repeating: Entry(), count: capacity)
        free = Array((0..<capacity).reversed())
        queue = Array(repeating: 0, count: capacity)
        self.transferMax = transferMax
        self.rangeMax = rangeMax
    }

    var isFull: Bool { free.isEmpty }
    var activeCount: Int { entries.count - free.count }
    var capacity: Int { entries.count }

    /// Takes a request in and queues it; the table must not be full.
    mutating func begin(_ operation: BlockOperation, offset: UInt64, length: UInt64) -> Int {
        let index = free.removeLast()
        entries[index] = Entry(operation: operation, offset: offset, length: length, isActive: true)
        enqueue(index)
        return index
    }

    private mutating func enqueue(_ index: Int) {
        entries[index].isQueued = true
        queue[(queueHead + queueCount) % queue.count] = index
        queueCount += 1
    }

    /// The request that is first in the queue, if any still waits to be sent.
    var firstWaiting: Int? { queueCount == 0 ? nil : queue[queueHead] }

    /// The next piece of the first waiting request; nil when that request has none left.
    func nextPiece(of index: Int) -> Piece? {
        let entry = entries[index]
        guard entry.hasMore else { return nil }
        let most = entry.operation == .read || entry.operation == .write ? transferMax : rangeMax
        let count = UInt32(min(UInt64(most), entry.length - entry.sent))
        return Piece(
            index: index, operation: entry.operation, offset: entry.offset + entry.sent, position: entry.sent,
            count: count)
    }

    /// Notes that the piece was handed to the backend.
    mutating func sent(_ piece: Piece) {
        entries[piece.index].sent += UInt64(piece.count)
        entries[piece.index].isFlushSent = true
        entries[piece.index].piecesInFlight += 1
    }

    /// Takes the piece back that the backend had no slot for.
    mutating func refused(_ piece: Piece) {
        entries[piece.index].sent -= UInt64(piece.count)
        entries[piece.index].isFlushSent = false
        entries[piece.index].piecesInFlight -= 1
    }

    /// Takes the first waiting request, which has no pieces left, out of the queue.
    /// Returns its status when nothing of it is under way any more: it is finished and its entry free.
    mutating func advance() -> (index: Int, status: Status)? {
        let index = queue[queueHead]
        queueHead = (queueHead + 1) % queue.count
        queueCount -= 1
        entries[index].isQueued = false
        return entries[index].piecesInFlight == 0 ? finish(index) : nil
    }

    /// Notes a piece's completion. The first failure counts, and keeps the request's later pieces from being
    /// sent. Returns the request's status when it is finished; its entry is free then.
    mutating func completed(_ index: Int, _ status: Status) -> (index: Int, status: Status)? {
        precondition(
            entries[index].isActive && entries[index].piecesInFlight > 0, "completion without a request")
        entries[index].piecesInFlight -= 1
        if entries[index].status == .ok { entries[index].status = status }
        guard entries[index].piecesInFlight == 0, !entries[index].isQueued else { return nil }
        return finish(index)
    }

    /// Fails the pieces of a request that were not sent yet with `status`.
    mutating func failWaiting(_ index: Int, _ status: Status) {
        if entries[index].isParked { unpark(index) }
        if entries[index].status == .ok { entries[index].status = status }
    }

    /// How many requests wait for space.
    var parkedCount: Int { parked.count }

    /// Sends the request that waits longest for space once more, all of it; nil when none waits.
    mutating func unparkFirst() -> Int? {
        guard let index = parked.first else { return nil }
        unpark(index)
        return index
    }

    /// Sends all that wait for space once more.
    mutating func unparkAll() {
        while unparkFirst() != nil {}
    }

    private mutating func unpark(_ index: Int) {
        parked.removeAll { $0 == index }
        entries[index].isParked = false
        entries[index].status = .ok
        entries[index].sent = 0
        entries[index].isFlushSent = false
        enqueue(index)
    }

    /// The indices of every request that is under way.
    var active: [Int] { entries.indices.filter { entries[$0].isActive } }

    /// A request for which there is no space yet is not finished: it is parked, and keeps its entry.
    private mutating func finish(_ index: Int) -> (index: Int, status: Status) {
        if entries[index].status == .noSpaceYet {
            entries[index].isParked = true
            parked.append(index)
            return (index, .noSpaceYet)
        }
        entries[index].isActive = false
        free.append(index)
        return (index, entries[index].status)
    }
}
