import Core
import DriverKit

// SAFETY: `entries` and `claims` hold `capacity` values from init to deinit; every index into them comes from
// this object's own lists or was compared with `capacity`, never taken from a host as it stands.
/// The server's own record of what one queue gave to a driver host; confined to the queue's reactor.
///
/// A host is never believed: what it says is done counts only where it names, once, a request that was given
/// to this very host. When the host is lost, the record says what the next one must be given.
///
/// ## Why repeating is right
/// Nobody knows how much of an unfinished request the lost host has done. Reads and flushes can be repeated
/// at will. A mutation (write, zeroes, discard) can be repeated as long as no other mutation of the same
/// bytes came between: its effect is then either new or there already. Were two mutations of one block with a
/// host at once, a reader could have seen both, in an order that only the device knows; whichever is repeated
/// after that may bring back bytes that were seen to be overwritten, and whichever is left out may be lost.
/// So mutations that overlap never are with a host at once: the later one is *held* until the earlier ones
/// are finished. Consumers cannot tell, as mutations that run at once have no order. Then every unfinished
/// mutation is the only one of its bytes, and all can be repeated, whole and in any order.
///
/// The rule holds within one ledger. Mutations of the same bytes that go through two reactors at once, with a
/// reader that saw both, are the one case where a lost host may show an older value again.
///
/// ## What is not repeated
/// Where a user was cut off, nothing of theirs may be done after that was answered. Their requests are withdrawn:
/// the host may finish what it has, the next one is not given it. Each of its blocks is then old or new, and
/// stays so, as the consumer is answered only when no host can touch it. A host that keeps one for too long is
/// overdue.
///
/// ## What FLUSH and FUA promise after a loss
/// A write is acknowledged when the driver's system call has returned, so it is in the device (direct files),
/// in the page cache (other files) or in a memfd that the server keeps open: none of them dies with the host.
/// A repeated FLUSH therefore covers all that the first one did, and a FUA write is repeated with its flag.
/// What does die is news: Linux tells of a failed write-back once for each open file, so a host that is lost
/// between hearing of it and saying so takes it along. So the keeper asks the witness of each volume, an open file
/// that no host ever syncs, before the next host opens it (`HostKeeper`).
///
/// No call allocates.
@safe
final class RequestLedger {
    /// What became of a consumer's request.
    enum Admission {
        /// Give this to the host.
        case submit(DriverRequest)
        /// It is on record and comes out of `nextReleased()` later.
        case held
        /// There is no room; nothing changed. Try again after the next completion.
        case full
    }

    /// What a host's completion is worth.
    enum Judgement {
        /// The consumer's answer, with the consumer's tag. The record of the request is gone.
        case deliver(DriverCompletion)
        /// The host lies: end it. Nothing changed.
        case violation(HostViolation)
    }

    /// The most requests on record.
    let capacity: Int
    private enum State: UInt8 {
        case free
        case held
        /// Nothing overlaps any more; not yet fetched by `nextReleased()`.
        case released
        case given
        /// Given to a host that is lost.
        case lost
    }

    private struct Entry {
        var request: DriverRequest
        /// What the host knows it by; 0 while no host has it.
        var tag: UInt64 = 0
        var givenAt: UInt64 = 0
        /// Neighbours in the order of admission, or the next free entry.
        var previous: Int32 = -1
        var next: Int32 = -1
        /// Where its bytes are claimed; -1 for what changes nothing.
        var claim: Int32 = -1
        /// How many earlier mutations it waits for.
        var blockers: Int32 = 0
        /// What its consumer is told in place of a repetition; `ok` for what may be repeated.
        var withdrawnStatus = Status.ok
        var withdrawnAt: UInt64 = 0
        var state = State.free
    }

    /// The bytes of an unfinished mutation.
    private struct Claim {
        var start: UInt64
        var end: UInt64
        var volume: UInt32
        var entry: Int32

        /// 1 when they overlap, 0 when not. Without a branch, as it could not be foretold; positions are
        /// below 2^63.
        @inline(__always)
        func overlap(_ other: Claim) -> UInt64 {
            let sameVolume = (UInt64(volume ^ other.volume) &- 1) >> 63
            return sameVolume & (((start &- other.end) & (other.start &- end)) >> 63)
        }
    }

    private let entries: UnsafeMutablePointer<Entry>
    private let claims: UnsafeMutablePointer<Claim>
    private var claimCount = 0
    private var recordCount = 0
    private var waitingCount = 0
    private var replayCount: UInt64 = 0
    private var head: Int32 = -1
    private var tail: Int32 = -1
    private var freeHead: Int32 = 0
    private var releasedCount = 0
    private var withdrawnCount = 0
    private var replayCursor: Int32 = -1
    /// Counts what was given to hosts; a tag is this number and the entry's index, so it never comes again.
    private var generation: UInt64 = 0
    /// The first generation of the host that serves.
    private var hostGeneration: UInt64 = 1

    private static let indexBits: UInt64 = 16

    /// A ledger for at most this many requests, at most 65,536; as many as the submission ring holds.
    init(capacity: Int) {
        precondition(capacity > 0 && capacity <= 1 << RequestLedger.indexBits, "not a ledger's capacity")
        self.capacity = capacity
        unsafe entries = .allocate(capacity: capacity)
        unsafe claims = .allocate(capacity: capacity)
        let none = DriverRequest(opcode: .flush, index: 0, tag: 0)
        for index in 0..<capacity {
            let next = index + 1 < capacity ? Int32(index + 1) : -1
            unsafe (entries + index).initialize(to: Entry(request: none, next: next))
        }
    }

    deinit {
        unsafe entries.deallocate()
        unsafe claims.deallocate()
    }

    /// Requests on record: with the host, or held.
    var inFlight: Int { recordCount }

    /// Requests that wait for others to finish before a host may see them.
    var heldCount: Int { waitingCount }

    /// Requests that were given to a host a second time, since the ledger was made.
    var replayed: UInt64 { replayCount }

    /// Whether another request can be taken.
    var hasRoom: Bool { freeHead >= 0 }

    /// Whether `nextReleased()` has something.
    var hasReleased: Bool { releasedCount > 0 }

    // MARK: Towards the host

    /// Takes a consumer's request, which was checked against the volume's geometry.
    ///
    /// - Parameter now: monotonic nanoseconds.
    func admit(_ request: DriverRequest, now: UInt64) -> Admission {
        let index = freeHead
        guard index >= 0 else { return .full }
        let entry = unsafe entries + Int(index)
        freeHead = unsafe entry.pointee.next
        unsafe entry.pointee = Entry(request: request, previous: tail)
        if tail >= 0 { unsafe entries[Int(tail)].next = index } else { head = index }
        tail = index
        recordCount += 1
        if RequestLedger.changesBytes(request) {
            let blockers = claim(index, request)
            if blockers > 0 {
                unsafe entry.pointee.blockers = blockers
                unsafe entry.pointee.state = .held
                waitingCount += 1
                return .held
            }
        }
        return .submit(give(index, now))
    }

    /// A held request that may go to the host now. Ask until nil after completions were delivered.
    func nextReleased(now: UInt64) -> DriverRequest? {
        guard releasedCount > 0 else { return nil }
        var index = head
        while index >= 0 {
            if unsafe entries[Int(index)].state == .released {
                releasedCount -= 1
                return give(index, now)
            }
            index = unsafe entries[Int(index)].next
        }
        preconditionFailure("a released request is on record")
    }

    /// The host is lost and surely gone: from here on nothing that it said counts, and `nextReplay` yields
    /// what the next host must be given. Also ends a replay that was under way.
    func beginReplay() {
        hostGeneration = generation + 1
        replayCursor = head
        var index = head
        while index >= 0 {
            let entry = unsafe entries + Int(index)
            if unsafe entry.pointee.state == .given {
                unsafe entry.pointee.state = .lost
                unsafe entry.pointee.tag = 0
            }
            index = unsafe entry.pointee.next
        }
    }

    /// The next request of the replay, in the order of admission; nil at the end. New requests may be
    /// admitted and completions judged in between.
    func nextReplay(now: UInt64) -> DriverRequest? {
        while replayCursor >= 0 {
            let index = replayCursor
            replayCursor = unsafe entries[Int(index)].next
            switch unsafe entries[Int(index)].state {
            case .lost:
                replayCount += 1
                return give(index, now)
            case .released:
                releasedCount -= 1
                return give(index, now)
            case .free, .held, .given: continue
            }
        }
        return nil
    }

    // MARK: Withdrawing

    /// Leaves requests out of what the next host is given, because who asked was cut off. What the host has, it
    /// may still finish; the rest comes out of `nextWithdrawn` and is never done.
    ///
    /// - Parameters:
    ///   - tags: the consumer's; those that are not on record are ignored.
    ///   - status: what the consumer is told.
    ///   - now: monotonic nanoseconds; from here the host has `RequestDeadlines.withdrawn`.
    func withdraw(_ tags: Set<UInt64>, status: Status, now: UInt64) {
        var index = head
        while index >= 0 {
            let entry = unsafe entries + Int(index)
            if unsafe entry.pointee.withdrawnStatus == .ok, unsafe tags.contains(entry.pointee.request.tag) {
                unsafe entry.pointee.withdrawnStatus = status
                unsafe entry.pointee.withdrawnAt = now
                withdrawnCount += 1
            }
            index = unsafe entry.pointee.next
        }
    }

    /// The answer of a withdrawn request that no host can do any more; nil when there is none. Ask until nil
    /// after `withdraw` and after `beginReplay`.
    func nextWithdrawn() -> DriverCompletion? {
        guard withdrawnCount > 0 else { return nil }
        var index = head
        while index >= 0 {
            let entry = unsafe entries + Int(index)
            let status = unsafe entry.pointee.withdrawnStatus
            if status != .ok, unsafe entry.pointee.state != .given {
                let tag = unsafe entry.pointee.request.tag
                finish(index)
                return DriverCompletion(tag: tag, status: status.rawValue, value: 0)
            }
            index = unsafe entry.pointee.next
        }
        return nil
    }

    private func give(_ index: Int32, _ now: UInt64) -> DriverRequest {
        let entry = unsafe entries + Int(index)
        generation += 1
        let tag = generation << RequestLedger.indexBits | UInt64(index)
        unsafe entry.pointee.tag = tag
        unsafe entry.pointee.givenAt = now
        unsafe entry.pointee.state = .given
        var request = unsafe entry.pointee.request
        request.tag = tag
        // A flush covers no bytes: both sides agree on the value of its completion.
        if request.rawOpcode == DriverOpcode.flush.rawValue { request.length = 0 }
        return request
    }

    // MARK: From the host

    /// Judges a completion that was copied out of the host's memory.
    func judge(_ completion: DriverCompletion) -> Judgement {
        let index = Int(completion.tag & (1 << RequestLedger.indexBits - 1))
        guard index < capacity, unsafe entries[index].tag == completion.tag,
            unsafe entries[index].state == .given
        else { return .violation(disownedTag(completion.tag)) }
        let request = unsafe entries[index].request
        var answer = DriverCompletion(tag: request.tag, status: completion.status, value: 0)
        if completion.status == Status.ok.rawValue {
            if request.rawOpcode == DriverOpcode.blockStatus.rawValue {
                guard RequestLedger.isMap(completion, of: request) else {
                    return .violation(.badMap(completion.value, bytes: completion.mapBytes))
                }
                answer.mapBytes = completion.mapBytes
                answer.value = completion.value
            } else {
                let isFlush = request.rawOpcode == DriverOpcode.flush.rawValue
                let expected = isFlush ? 0 : request.length
                guard completion.value == expected else {
                    return .violation(.badValue(completion.value, expected: expected))
                }
                answer.value = expected
            }
        } else {
            guard let status = Status(rawValue: completion.status), status.isForDrivers else {
                return .violation(.badStatus(completion.status))
            }
        }
        finish(Int32(index))
        return .deliver(answer)
    }

    /// Whether an answer to a block status covers a part of what was asked, with whole extents that the buffer
    /// holds. What they say is the host's word, as what is read is.
    private static func isMap(_ completion: DriverCompletion, of request: DriverRequest) -> Bool {
        let bytes = Int(completion.mapBytes)
        return completion.value > 0 && completion.value <= request.length && bytes > 0
            && bytes <= Limits.blockStatusBytesMax && bytes.isMultiple(of: BlockExtent.byteCount)
    }

    /// What the host was asked under a tag of ours; nil for what it was not given.
    func request(given tag: UInt64) -> DriverRequest? {
        let index = Int(tag & (1 << RequestLedger.indexBits - 1))
        guard index < capacity, unsafe entries[index].tag == tag, unsafe entries[index].state == .given else {
            return nil
        }
        return unsafe entries[index].request
    }

    private func disownedTag(_ tag: UInt64) -> HostViolation {
        let number = tag >> RequestLedger.indexBits
        let index = tag & (1 << RequestLedger.indexBits - 1)
        if number == 0 || number > generation || index >= UInt64(capacity) { return .inventedTag(tag) }
        return number < hostGeneration ? .staleTag(tag) : .repeatedTag(tag)
    }

    /// The answer for the oldest request on record, with this status, until none is left: for a pool that
    /// gives up. The host is surely gone, as the consumer takes the buffer back. What was withdrawn has its own
    /// status.
    func failNext(_ status: Status) -> DriverCompletion? {
        guard head >= 0 else { return nil }
        let tag = unsafe entries[Int(head)].request.tag
        let withdrawn = unsafe entries[Int(head)].withdrawnStatus
        finish(head)
        let final = withdrawn == .ok ? status : withdrawn
        return DriverCompletion(tag: tag, status: final.rawValue, value: 0)
    }

    /// Takes a request off the record and releases what waited for it alone.
    private func finish(_ index: Int32) {
        let entry = unsafe entries + Int(index)
        let previous = unsafe entry.pointee.previous
        let next = unsafe entry.pointee.next
        let wasHeld = unsafe entry.pointee.state == .held
        if previous >= 0 { unsafe entries[Int(previous)].next = next } else { head = next }
        if next >= 0 { unsafe entries[Int(next)].previous = previous } else { tail = previous }
        if replayCursor == index { replayCursor = next }
        if wasHeld { waitingCount -= 1 }
        if unsafe entry.pointee.state == .released { releasedCount -= 1 }
        if unsafe entry.pointee.withdrawnStatus != .ok { withdrawnCount -= 1 }
        unsafe entry.pointee.state = .free
        unsafe entry.pointee.next = freeHead
        freeHead = index
        recordCount -= 1
        let claim = unsafe entry.pointee.claim
        guard claim >= 0 else { return }
        let own = unclaim(Int(claim))
        guard waitingCount > 0 else { return }
        if wasHeld { unblock(by: own, from: next) } else { unblock(by: own) }
    }

    // MARK: Bytes that mutations claim

    @inline(__always)
    private static func changesBytes(_ request: DriverRequest) -> Bool {
        request.rawOpcode != DriverOpcode.read.rawValue && request.rawOpcode != DriverOpcode.flush.rawValue
            && request.rawOpcode != DriverOpcode.blockStatus.rawValue
    }

    /// Claims the bytes of a mutation; how many earlier ones overlap it.
    private func claim(_ index: Int32, _ request: DriverRequest) -> Int32 {
        // A volume ends far below; what is beyond, the driver refuses.
        let limit = UInt64(Int64.max)
        let start = min(request.offset, limit - 1)
        let own = Claim(
            start: start, end: start + min(request.length, limit - start), volume: request.index,
            entry: index)
        var blockers: Int32 = 0
        for other in 0..<claimCount {
            blockers &+= unsafe Int32(truncatingIfNeeded: claims[other].overlap(own))
        }
        unsafe (claims + claimCount).initialize(to: own)
        unsafe entries[Int(index)].claim = Int32(claimCount)
        claimCount += 1
        return blockers
    }

    private func unclaim(_ position: Int) -> Claim {
        let own = unsafe claims[position]
        claimCount -= 1
        if position != claimCount {
            unsafe claims[position] = unsafe claims[claimCount]
            unsafe entries[Int(claims[position].entry)].claim = Int32(position)
        }
        return own
    }

    /// A mutation that was not held is finished: whatever is held and overlaps came later, or it would be held.
    private func unblock(by own: Claim) {
        for other in 0..<claimCount where unsafe claims[other].overlap(own) == 1 {
            unblock(unsafe claims[other].entry)
        }
    }

    /// A held mutation was taken off the record: those from `first` on waited for it, those before it did not.
    private func unblock(by own: Claim, from first: Int32) {
        var index = first
        while index >= 0 {
            let claim = unsafe entries[Int(index)].claim
            if claim >= 0, unsafe claims[Int(claim)].overlap(own) == 1 { unblock(index) }
            index = unsafe entries[Int(index)].next
        }
    }

    private func unblock(_ index: Int32) {
        let entry = unsafe entries + Int(index)
        guard unsafe entry.pointee.state == .held else { return }
        unsafe entry.pointee.blockers -= 1
        if unsafe entry.pointee.blockers == 0 {
            unsafe entry.pointee.state = .released
            waitingCount -= 1
            releasedCount += 1
        }
    }

    // MARK: Watching

    typealias Deadlines = RequestDeadlines

    /// A request that the host has had for too long.
    struct Overdue: Sendable, Hashable, CustomStringConvertible {
        /// What was asked.
        var opcode: DriverOpcode
        /// Index of the volume.
        var volume: UInt32
        /// How long the host has had it, in nanoseconds.
        var waited: UInt64
        /// Whether somebody waits for its end because who asked was cut off.
        var isWithdrawn = false

        var description: String {
            "a \(opcode) on volume \(volume)\(isWithdrawn ? " of a user who was cut off" : "") has taken "
                + "\(waited / 1_000_000) ms"
        }
    }

    /// The first request that is past its deadline; a walk over what is in flight.
    ///
    /// - Parameter now: monotonic nanoseconds.
    func overdue(now: UInt64, deadlines: RequestDeadlines) -> Overdue? {
        var index = head
        while index >= 0 {
            let entry = unsafe entries + Int(index)
            if unsafe entry.pointee.state == .given, let opcode = unsafe entry.pointee.request.opcode {
                let limit =
                    switch opcode {
                    case .read, .write, .blockStatus: deadlines.transfer
                    case .flush: deadlines.flush
                    case .writeZeroes, .discard:
                        unsafe deadlines.space
                            + min(entry.pointee.request.length >> 20, 1 << 16) * deadlines.spaceMebibyte
                    }
                let given = unsafe entry.pointee.givenAt
                let isWithdrawn = unsafe entry.pointee.withdrawnStatus != .ok
                let since = unsafe max(entry.pointee.withdrawnAt, given)
                let isLate = now > given && now - given > limit
                let keepsWaiting = isWithdrawn && now > since && now - since > deadlines.withdrawn
                if isLate || keepsWaiting {
                    return unsafe Overdue(
                        opcode: opcode, volume: entry.pointee.request.index, waited: now - given,
                        isWithdrawn: isWithdrawn)
                }
            }
            index = unsafe entry.pointee.next
        }
        return nil
    }
}
