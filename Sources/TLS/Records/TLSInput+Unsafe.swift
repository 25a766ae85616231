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
/// `lend` and `endLoan`; what is left of it then is copied into memory of our own.
@safe
final class TLSInput {
    private let pool: TLSBufferPool
    private var lent = unsafe UnsafeRawBufferPointer(start: nil, count: 0)
    private var lentStart = 0
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

    /// Borrows `bytes` until `endLoan`.
    func lend(_ bytes: UnsafeRawBufferPointer) {
        endLoan()
        unsafe lent = unsafe bytes
        lentStart = 0
    }

    /// Copies what is left of the borrowed bytes, and forgets them.
    func endLoan() {
        let left = unsafe lent.count - lentStart
        if left > 0 { carryOver(left) }
        unsafe lent = unsafe UnsafeRawBufferPointer(start: nil, count: 0)
        lentStart = 0
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
        guard topUp(to: RecordCipher.headerBytes + body), let base = unsafe carry.baseAddress else {
            return .incomplete
        }
        let record = unsafe UnsafePointer((base + carryStart).assumingMemoryBound(to: UInt8.self))
        return unsafe .complete(record, bodyBytes: body)
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
