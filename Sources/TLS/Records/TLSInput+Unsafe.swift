/// What `TLSInput.nextRecord` finds.
@safe
enum NextRecord {
    /// The record's first byte; valid until more input is lent or used.
    case complete(UnsafePointer<UInt8>, bodyBytes: Int)
    case incomplete
    case tooLong
}

/// The ciphertext that has arrived and was not yet used: what was carried over from before, then the region
/// that the owner lent.
///
/// The lent region belongs to somebody else (a receive buffer of a reactor), and is only looked at between
/// `lend` and `endLoan`; what is left of it then is copied into memory of our own. A record that begins in there and ends in the
/// next region is made one piece by copying the smaller part of it to the other: its beginning into the headroom of that
/// region, or its end behind the beginning.
@safe
final class TLSInput {
    private let pool: TLSBufferPool
    private var lent = unsafe UnsafeRawBufferPointer(start: nil, count: 0)
    private var lentStart = 0
    /// Bytes before the lent region that may be written to.
    private var headroom = 0
    private var carry = unsafe UnsafeMutableRawBufferPointer(start: nil, count: 0)
    private var carryStart = 0
    private var carryEnd = 0

    init(pool: TLSBufferPool) {
        self.pool = pool
    }

    deinit {
        unsafe pool.give(carry)
    }

    /// How many bytes have not been used yet.
    var count: Int { unsafe carryEnd - carryStart + lent.count - lentStart }

    /// Borrows `bytes` until `endLoan`, and the `headroom` before them, to write to.
    func lend(_ bytes: UnsafeRawBufferPointer, headroom: Int = 0) {
        endLoan()
        unsafe lent = unsafe bytes
        lentStart = 0
        self.headroom = headroom
    }

    /// Copies what is left of the borrowed bytes, and forgets them.
    func endLoan() {
        let left = unsafe lent.count - lentStart
        if left > 0 { carryOver(left) }
        unsafe lent = unsafe UnsafeRawBufferPointer(start: nil, count: 0)
        lentStart = 0
        headroom = 0
    }

    /// Forgets everything that was not used: nothing of it will be looked at.
    func discard() {
        unsafe lent = unsafe UnsafeRawBufferPointer(start: nil, count: 0)
        lentStart = 0
        if carryStart < carryEnd { useCarried(carryEnd - carryStart) }
    }

    /// Moves up to `buffer.count` bytes out, oldest first; 0 when there are none.
    func read(into buffer: UnsafeMutableRawBufferPointer) -> Int {
        if carryStart < carryEnd {
            let count = min(buffer.count, carryEnd - carryStart)
            unsafe buffer.copyMemory(
                from: UnsafeRawBufferPointer(rebasing: carry[carryStart..<carryStart + count]))
            useCarried(count)
            return count
        }
        let count = unsafe min(buffer.count, lent.count - lentStart)
        guard count > 0 else { return 0 }
        unsafe buffer.copyMemory(from: UnsafeRawBufferPointer(rebasing: lent[lentStart..<lentStart + count]))
        lentStart += count
        return count
    }

    /// The next record when all of it is here, contiguous, with its header; `use` must follow. Throws away
    /// nothing. `bodyBytesMax` bounds what a header may announce.
    func nextRecord(bodyBytesMax: Int) -> NextRecord {
        if carryStart < carryEnd { return carriedRecord(bodyBytesMax) }
        let available = unsafe lent.count - lentStart
        guard available >= RecordCipher.headerBytes, let base = unsafe lent.baseAddress else {
            return .incomplete
        }
        let record = unsafe (base + lentStart).assumingMemoryBound(to: UInt8.self)
        let body = unsafe Int(record[3]) << 8 | Int(record[4])
        guard body <= bodyBytesMax else { return .tooLong }
        guard available >= RecordCipher.headerBytes + body else { return .incomplete }
        return unsafe .complete(record, bodyBytes: body)
    }

    /// Notes that the record that `nextRecord` returned was used.
    func use(_ count: Int) {
        if carryStart < carryEnd { useCarried(count) } else { lentStart += count }
    }

    /// Completes a record that began in the carried bytes with as few borrowed bytes as it needs.
    private func carriedRecord(_ bodyBytesMax: Int) -> NextRecord {
        guard topUp(to: RecordCipher.headerBytes) else { return .incomplete }
        let body = unsafe Int(carry[carryStart + 3]) << 8 | Int(carry[carryStart + 4])
        guard body <= bodyBytesMax else { return .tooLong }
        let whole = RecordCipher.headerBytes + body
        if let record = unsafe prepend(toBe: whole) { return unsafe .complete(record, bodyBytes: body) }
        guard topUp(to: whole), let base = unsafe carry.baseAddress else { return .incomplete }
        let record = unsafe UnsafePointer((base + carryStart).assumingMemoryBound(to: UInt8.self))
        return unsafe .complete(record, bodyBytes: body)
    }

    /// Moves what is carried before the borrowed bytes, if that is less to copy than what lacks of the record, there is room, and
    /// the record is whole then.
    private func prepend(toBe whole: Int) -> UnsafePointer<UInt8>? {
        let carried = carryEnd - carryStart
        let missing = whole - carried
        guard unsafe carried < missing && missing <= lent.count - lentStart && carried <= headroom,
            let base = unsafe lent.baseAddress
        else { return nil }
        // SAFETY: the owner has lent the headroom to write to, and what was used of the region lies behind it.
        let start = unsafe UnsafeMutableRawPointer(mutating: base) + lentStart - carried
        unsafe start.copyMemory(from: carry.baseAddress! + carryStart, byteCount: carried)
        let count = unsafe lent.count - lentStart + carried
        headroom += lentStart - carried
        unsafe lent = unsafe UnsafeRawBufferPointer(start: start, count: count)
        lentStart = 0
        useCarried(carried)
        return unsafe UnsafePointer(start.assumingMemoryBound(to: UInt8.self))
    }

    /// Carries borrowed bytes over until `count` are carried; false when there are not enough.
    private func topUp(to count: Int) -> Bool {
        let missing = count - (carryEnd - carryStart)
        if missing > 0 { carryOver(unsafe min(missing, lent.count - lentStart)) }
        return carryEnd - carryStart >= count
    }

    /// Copies `count` borrowed bytes behind the carried ones.
    private func carryOver(_ count: Int) {
        let carried = carryEnd - carryStart
        if unsafe carry.count - carryEnd < count {
            let larger = unsafe pool.take(max(carried + count, carried > 0 ? 2 * carried : 0))
            unsafe larger.copyMemory(from: UnsafeRawBufferPointer(rebasing: carry[carryStart..<carryEnd]))
            unsafe pool.give(carry)
            unsafe carry = unsafe larger
            carryStart = 0
            carryEnd = carried
        }
        let target = unsafe UnsafeMutableRawBufferPointer(rebasing: carry[carryEnd...])
        unsafe target.copyMemory(from: UnsafeRawBufferPointer(rebasing: lent[lentStart..<lentStart + count]))
        carryEnd += count
        lentStart += count
    }

    /// Notes that `count` carried bytes were used; gives the memory back with the last of them.
    private func useCarried(_ count: Int) {
        carryStart += count
        guard carryStart == carryEnd else { return }
        unsafe pool.give(carry)
        unsafe carry = unsafe UnsafeMutableRawBufferPointer(start: nil, count: 0)
        carryStart = 0
        carryEnd = 0
    }
}
