import Core
import Wire

/// What a frame that is no I/O completion had to say.
enum ChannelNotice: Sendable {
    case hello(HelloReply)
    /// The reply to OPEN, STAT or RENEW.
    case state(handle: UInt32, ResourceState)
    /// The reply to CLOSE or PING.
    case done(Opcode)
    case refused(Opcode, Status, message: String)
    case event(ChannelEvent)
    /// A request that was given up is answered: its slot is free, and changes may be sent again if it was the last one.
    case settled
    /// Requests were refused because the capability has ended: `takeExpired` has them.
    case expired
}

/// The client's half of the protocol without I/O: slots, sequences, and the stream of replies.
///
/// Plaintext goes to where `room` points, then `received` says how much it was. Everything that a server
/// sends is held against the request that it claims to answer; the first thing that does not fit throws, and
/// the connection is finished. The core outlives it where the session does: see `suspend`. One thread.
/// Nothing is allocated between HELLO and the end but for control requests, events and error messages.
@safe
final class ChannelCore {
    /// Where plaintext is gathered; more than the ciphertext of one receive buffer holds.
    static let stagingBytes = 64 << 10
    /// The rest of a payload is decrypted straight into the caller's buffer if a whole record of it is
    /// missing.
    static let directBytesMin = 16 << 10

    /// Where the request of a slot is.
    enum Phase: UInt8 {
        /// The slot is free; its sequence is that of its last request.
        case free
        /// It was sent on this connection.
        case awaited
        /// It was sent on a connection that was lost, and must be sent again.
        case unanswered
    }

    /// What a slot holds: all that it takes to send its request once more.
    @unsafe
    struct Flight {
        var tag: UInt64 = 0
        var buffer: UnsafeMutableRawPointer?
        var offset: UInt64 = 0
        /// Of a FLUSH: how many changes were acknowledged when it was submitted.
        var covered: UInt64 = 0
        var count: UInt32 = 0
        var sequence: UInt32 = 0
        var opcode = Opcode.ping
        var flags = RequestFlags()
        var phase = Phase.free
        /// BLOCK_STATUS: the marker's id follows the extents in the buffer.
        var namesMarker = false
        /// Its owner was told that it failed; only the slot waits.
        var isGivenUp = false
        /// It may still change something, so no other change may be sent.
        var isUnsettled = false
        /// It was sent to a server that was restarted since.
        var isOfOldServer = false

        /// Where the bytes that are sent with it begin.
        var payload: UnsafeMutableRawPointer? {
            unsafe namesMarker ? buffer.map { unsafe $0 + Limits.blockStatusBytesMax } : buffer
        }
    }

    /// I/O requests without a completion.
    var inFlight = 0
    /// Requests that were given up and whose slots are not free yet.
    var givenUp = 0
    /// Slots for I/O.
    private(set) var depth = 0
    /// The longest payload, either way.
    private(set) var payloadBytesMax = UInt32(Limits.helloBytesMax)
    /// What HELLO said last.
    private(set) var greeting: HelloReply?
    /// What the last refused I/O request's reply said, where it said anything.
    private(set) var lastMessage = ""
    /// Completions that are ready; `takeCompletions` hands them out.
    private(set) var completionCount = 0
    /// Notices that are ready, oldest first.
    var notices: [ChannelNotice] = []

    /// Requests wait for another capability when theirs has ended, in place of failing.
    var holdsExpired = false
    /// Those that do, and that nobody has taken yet.
    var expired: [ChannelRequest] = unsafe []

    /// What the cores of one session know together.
    let ledger: SessionLedger
    /// HELLO is answered on this connection.
    var isGreeted = false
    /// What HELLO asked for on this connection: the answer grants no more.
    var asked: Hello?
    /// The connection was lost and HELLO must ask for this channel's slots.
    var isSuspended = false
    /// I/O requests may begin: nothing is left to be sent again.
    var isOpen = false
    /// The first slot that was not looked at for its repeat.
    var repeatCursor = 0
    private(set) var slots = 0
    let flights: UnsafeMutablePointer<Flight>
    private let free: UnsafeMutablePointer<UInt16>
    private var freeCount = 0
    private let completions: UnsafeMutablePointer<ChannelCompletion>
    private var completionsTaken = 0

    private let staging: UnsafeMutableRawPointer
    private var staged = 0
    private let small: UnsafeMutableRawPointer
    private var header = ReplyHeader(opcode: 0)
    /// What becomes of the payload of `header`.
    private var destination = Destination.none
    /// Where the payload goes, unless it is dropped.
    private var payload: UnsafeMutableRawPointer?
    private var payloadDone = 0

    private enum Destination {
        /// A header is awaited.
        case none
        case small
        case callers
        case dropped
    }

    init(ledger: SessionLedger = SessionLedger()) {
        self.ledger = ledger
        unsafe flights = .allocate(capacity: Limits.slotsPerChannelMax)
        unsafe flights.initialize(repeating: Flight(), count: Limits.slotsPerChannelMax)
        unsafe free = .allocate(capacity: Limits.slotsPerChannelMax)
        unsafe completions = .allocate(capacity: 2 * Limits.slotsPerChannelMax)
        unsafe staging = .allocate(byteCount: ChannelCore.stagingBytes, alignment: 64)
        unsafe small = .allocate(byteCount: Limits.helloBytesMax, alignment: 8)
    }

    deinit {
        unsafe flights.deallocate()
        unsafe free.deallocate()
        unsafe completions.deallocate()
        unsafe staging.deallocate()
        unsafe small.deallocate()
    }

    // MARK: Requests

    /// The header of an I/O request, which occupies a slot from now on; nil when none is free.
    func begin(_ request: ChannelRequest) -> RequestHeader? {
        guard freeCount > 0, isOpen else { return nil }
        freeCount -= 1
        let slot = unsafe free[freeCount]
        inFlight += 1
        let flight = unsafe flights + Int(slot)
        let sequence = unsafe RequestHeader.successor(of: flight.pointee.sequence)
        unsafe flight.pointee = unsafe Flight(
            tag: request.tag, buffer: request.buffer, offset: request.offset, covered: ledger.acknowledged,
            count: request.count, sequence: sequence, opcode: request.opcode, flags: request.flags,
            phase: .awaited, namesMarker: request.namesMarker)
        return unsafe header(of: slot, handle: request.handle)
    }

    /// The header of a slot's I/O request.
    @inline(__always)
    func header(of slot: UInt16, handle: UInt32) -> RequestHeader {
        let flight = unsafe flights + Int(slot)
        return unsafe RequestHeader(
            length: flight.pointee.namesMarker
                ? UInt32(Identifier.byteCount)
                : flight.pointee.opcode.payloadBytes(count: flight.pointee.count),
            opcode: flight.pointee.opcode.rawValue, flags: flight.pointee.flags, slot: slot,
            sequence: flight.pointee.sequence, handle: handle, count: flight.pointee.count,
            offset: flight.pointee.offset)
    }

    /// The header of a control request; nil while the slot that is kept for them is taken.
    func beginControl(_ opcode: Opcode, handle: UInt32, bodyBytes: Int) -> RequestHeader? {
        let slot = UInt16(max(slots - 1, 0))
        let flight = unsafe flights + Int(slot)
        guard isGreeted, unsafe flight.pointee.phase == .free else { return nil }
        if depth == slots { freeCount -= 1 }
        let sequence = unsafe RequestHeader.successor(of: flight.pointee.sequence)
        unsafe flight.pointee = unsafe Flight(sequence: sequence, opcode: opcode, phase: .awaited)
        return RequestHeader(
            length: UInt32(bodyBytes), opcode: opcode.rawValue, slot: slot, sequence: sequence, handle: handle
        )
    }

    /// Ends every I/O request with `status`: the channel is gone, and this core is as a new one.
    func abandon(_ status: Status) {
        for slot in 0..<depth {
            let flight = unsafe flights + slot
            guard isBusy(slot) else { continue }
            if unsafe flight.pointee.isUnsettled { settle(slot) }
            if unsafe !flight.pointee.isGivenUp {
                unsafe complete(tag: flight.pointee.tag, value: 0, status: status)
            }
        }
        unsafe flights.update(repeating: Flight(), count: Limits.slotsPerChannelMax)
        inFlight = 0
        givenUp = 0
        freeCount = 0
        isGreeted = false
        isSuspended = false
        isOpen = false
        dropInput()
    }

    /// Whether the slot holds an I/O request.
    func isBusy(_ slot: Int) -> Bool {
        unsafe flights[slot].phase != .free && !flights[slot].opcode.kind.isControl
    }

    /// Makes a slot free for the next request.
    @inline(__always)
    func release(_ slot: UInt16) {
        unsafe flights[Int(slot)].phase = .free
        unsafe free[freeCount] = slot
        freeCount += 1
    }

    /// Forgets what has arrived and is not a whole frame.
    func dropInput() {
        staged = 0
        unsafe payload = nil
        destination = .none
    }

    /// Keeps the payload that is arriving for a slot, if any is, out of its owner's memory.
    func dropPayload(of slot: Int) {
        guard destination == .callers, Int(header.slot) == slot else { return }
        destination = .dropped
        unsafe payload = nil
    }

    /// Lends the completions that came since the last call; false when there are none.
    func takeCompletions(_ body: (Span<ChannelCompletion>) -> Void) -> Bool {
        let start = completionsTaken
        let count = completionCount - start
        guard count > 0 else {
            completionCount = 0
            completionsTaken = 0
            return false
        }
        completionsTaken = completionCount
        let ready = unsafe UnsafeBufferPointer(start: completions + start, count: count)
        body(unsafe ready.span)
        return true
    }

    func complete(tag: UInt64, value: UInt64, status: Status) {
        precondition(completionCount < 2 * Limits.slotsPerChannelMax, "more completions than requests")
        unsafe completions[completionCount] = ChannelCompletion(tag: tag, value: value, status: status)
        completionCount += 1
    }

    // MARK: Replies

    /// Where the next plaintext goes; never empty.
    var room: UnsafeMutableRawBufferPointer {
        if isRoomDirect, let payload = unsafe payload {
            return unsafe UnsafeMutableRawBufferPointer(
                start: payload + payloadDone, count: Int(header.length) - payloadDone)
        }
        return unsafe UnsafeMutableRawBufferPointer(
            start: staging + staged, count: ChannelCore.stagingBytes - staged)
    }

    /// Takes in `count` bytes that were written to `room`.
    func received(_ count: Int, isDirect: Bool) throws(ChannelError) {
        if isDirect {
            payloadDone += count
            if payloadDone == Int(header.length) { try finishFrame() }
            return
        }
        let end = staged + count
        var start = 0
        while true {
            if destination == .none {
                guard end - start >= Limits.headerBytes else { break }
                header = unsafe ReplyHeader.load(staging + start)
                start += Limits.headerBytes
                try beginFrame()
            } else {
                let piece = min(Int(header.length) - payloadDone, end - start)
                guard piece > 0 else { break }
                if let payload = unsafe payload {
                    unsafe (payload + payloadDone).copyMemory(from: staging + start, byteCount: piece)
                }
                start += piece
                payloadDone += piece
                if payloadDone == Int(header.length) { try finishFrame() }
            }
        }
        staged = end - start
        if start > 0, staged > 0 { unsafe staging.copyMemory(from: staging + start, byteCount: staged) }
    }

    /// Whether `room` is a caller's buffer; tells `received` what was filled.
    var isRoomDirect: Bool {
        destination == .callers && staged == 0
            && Int(header.length) - payloadDone >= ChannelCore.directBytesMin
    }

    /// A header arrived: everything that can be wrong with it is found here, before a byte of payload is
    /// taken.
    @inline(__always)
    private func beginFrame() throws(ChannelError) {
        if let fault = header.fault(payloadBytesMax: payloadBytesMax) { throw .violation(fault.message) }
        destination = .small
        if !header.isEvent {
            if isGreeted { try matchRequest() } else { try matchHello() }
        } else if !isGreeted {
            throw .violation("the server sent an event before it answered HELLO")
        }
        if header.length == 0 {
            try finishFrame()
        } else {
            payloadDone = 0
            if destination == .small { unsafe payload = unsafe small }
        }
    }

    @inline(__always)
    private func matchRequest() throws(ChannelError) {
        let slot = Int(header.slot)
        guard slot < slots, unsafe flights[slot].phase == .awaited else {
            throw .violation(ReplyFault.unknownSlot.message)
        }
        let flight = unsafe flights + slot
        if unsafe flight.pointee.isGivenUp { return try unsafe matchGivenUp(flight.pointee) }
        if let fault = unsafe header.fault(
            answering: flight.pointee.opcode, sequence: flight.pointee.sequence, count: flight.pointee.count)
        {
            throw .violation(fault.message)
        }
        if unsafe flight.pointee.opcode.fillsBuffer, header.status == Status.ok.rawValue {
            unsafe payload = unsafe flight.pointee.buffer
            destination = .callers
        }
    }

    /// The answer to a request that nobody waits for any more. What was sent in its place may be answered as
    /// the request itself was, so that any opcode will do.
    private func matchGivenUp(_ flight: Flight) throws(ChannelError) {
        guard unsafe header.sequence == flight.sequence else {
            throw .violation(ReplyFault.wrongSequence.message)
        }
        guard Opcode(rawValue: header.opcode) != nil else { throw .violation(ReplyFault.wrongOpcode.message) }
        destination = .dropped
        unsafe payload = nil
    }

    private func matchHello() throws(ChannelError) {
        guard header.slot == 0 else { throw .violation(ReplyFault.unknownSlot.message) }
        if let fault = header.fault(answering: .hello, sequence: 0, count: 0) {
            throw .violation(fault.message)
        }
    }

    /// A frame is complete: its request ends here.
    @inline(__always)
    private func finishFrame() throws(ChannelError) {
        unsafe payload = nil
        destination = .none
        if header.isEvent { return try finishEvent() }
        guard isGreeted else { return try finishHello() }
        let flight = unsafe flights + Int(header.slot)
        let opcode = unsafe flight.pointee.opcode
        if unsafe flight.pointee.isGivenUp { return finishGivenUp() }
        guard !opcode.kind.isControl else { return try finishControl(opcode) }
        guard let status = header.knownStatus else { throw .violation(ReplyFault.unknownStatus.message) }
        if status != .ok {
            if header.length > 0 { lastMessage = ErrorMessage.decode(smallBytes()) }
            if status == .expired, holdsExpired { return holdExpired(header.slot) }
        } else if opcode == .flush {
            unsafe ledger.flushed(flight.pointee.covered)
        } else if opcode == .blockStatus {
            try unsafe checkExtents(flight.pointee)
        } else if opcode != .read, opcode.isChange, unsafe !flight.pointee.flags.contains(.fua) {
            ledger.changed()
        }
        release(header.slot)
        inFlight -= 1
        unsafe complete(tag: flight.pointee.tag, value: header.value, status: status)
    }

    /// Whether the extents that arrived are what the reply says of them: whoever reads them later needs to know neither
    /// how many bytes came nor what a server may have put there.
    private func checkExtents(_ flight: Flight) throws(ChannelError) {
        let known: BlockFlags = unsafe flight.namesMarker ? .all : .ofDevices
        var left = header.value
        guard left > 0, unsafe left <= UInt64(flight.count), let bytes = unsafe flight.buffer else {
            throw .violation("the server described other bytes than it was asked about")
        }
        for start in stride(from: 0, to: Int(header.length), by: BlockExtent.byteCount) {
            guard let extent = unsafe BlockExtent.load(bytes + start), extent.length > 0,
                extent.length <= left,
                extent.flags.isSubset(of: known)
            else { throw .violation("the server described blocks that cannot be") }
            left -= extent.length
        }
        guard left == 0 else { throw .violation("the server's extents do not cover what it says") }
    }

    /// The server has refused the request before it did anything of it: with another capability it is a new one.
    private func holdExpired(_ slot: UInt16) {
        let flight = unsafe flights[Int(slot)]
        if unsafe expired.isEmpty { notices.append(.expired) }
        unsafe expired.append(
            ChannelRequest(
                flight.opcode, flags: flight.flags, handle: 0, offset: flight.offset, count: flight.count,
                buffer: flight.buffer, namesMarker: flight.namesMarker, tag: flight.tag))
        release(slot)
        inFlight -= 1
    }

    /// Gives up the requests that were refused because the capability has ended; their owner sends them once more.
    func takeExpired() -> [ChannelRequest] {
        defer { unsafe expired.removeAll() }
        return unsafe expired
    }

    private func finishGivenUp() {
        let slot = Int(header.slot)
        if unsafe flights[slot].isUnsettled {
            settle(slot)
        } else if ledger.unsettled == 0 {
            // No completion says that there is room.
            notices.append(.settled)
        }
        givenUp -= 1
        unsafe flights[slot].isGivenUp = false
        release(header.slot)
    }

    private func finishControl(_ opcode: Opcode) throws(ChannelError) {
        if depth == slots {
            release(header.slot)
        } else {
            unsafe flights[Int(header.slot)].phase = .free
        }
        guard let status = header.knownStatus, status == .ok else {
            let text = ErrorMessage.decode(smallBytes())
            notices.append(.refused(opcode, header.knownStatus ?? .internalError, message: text))
            return
        }
        switch opcode {
        case .open, .stat, .renew:
            guard let handle = UInt32(exactly: header.value), opcode != .open || handle != 0 else {
                throw .violation("the server gave an impossible handle")
            }
            let state: ResourceState
            do throws(StatusError) {
                state = try ResourceState(bytes: smallBytes())
            } catch {
                throw .violation(error.message)
            }
            // A transfer is a payload: what is submitted by the one must fit into the other.
            guard state.transferBytesMax <= payloadBytesMax else {
                throw .violation("the server takes larger transfers than payloads")
            }
            notices.append(.state(handle: handle, state))
        default: notices.append(.done(opcode))
        }
    }

    private func finishHello() throws(ChannelError) {
        guard let status = header.knownStatus, status == .ok else {
            throw .refused(
                .hello, header.knownStatus ?? .internalError, message: ErrorMessage.decode(smallBytes()))
        }
        let reply: HelloReply
        do throws(StatusError) {
            reply = try HelloReply(bytes: smallBytes())
        } catch {
            throw .violation(error.message)
        }
        if let asked { try checkGranted(reply, asked) }
        if isSuspended {
            try checkResumed(reply)
            if reply.resumption == .session { noteRestart() }
            repeatCursor = 0
        } else {
            guard reply.resumption == .fresh else {
                throw .violation("the server resumed a channel that nobody asked for")
            }
            slots = Int(reply.slots)
            depth = slots > 1 ? slots - 1 : 1
            for slot in 0..<depth { unsafe free[slot] = UInt16(depth - 1 - slot) }
            freeCount = depth
            isOpen = true
        }
        payloadBytesMax = reply.payloadBytesMax
        greeting = reply
        isGreeted = true
        isSuspended = false
        notices.append(.hello(reply))
    }

    private func finishEvent() throws(ChannelError) {
        do throws(StatusError) {
            if let event = try ChannelEvent.decode(header, payload: smallBytes()) {
                notices.append(.event(event))
            }
        } catch {
            throw .violation(error.message)
        }
    }

    /// The payload that went to the small buffer.
    private func smallBytes() -> [UInt8] {
        unsafe Array(UnsafeRawBufferPointer(start: small, count: Int(header.length)))
    }
}
