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
}

/// The client's half of the protocol without I/O: slots, sequences, and the stream of replies.
///
/// Plaintext goes to where `room` points, then `received` says how much it was. Everything that a server
/// sends is held against the request that it claims to answer; the first thing that does not fit throws, and
/// the core is finished. One thread. Nothing is allocated between HELLO and the end but for control requests,
/// events and error messages.
@safe
final class ChannelCore {
    /// Where plaintext is gathered; more than the ciphertext of one receive buffer holds.
    static let stagingBytes = 64 << 10
    /// The rest of a payload is decrypted straight into the caller's buffer if a whole record of it is
    /// missing.
    static let directBytesMin = 16 << 10

    @unsafe
    private struct Flight {
        var tag: UInt64 = 0
        var buffer: UnsafeMutableRawPointer?
        var count: UInt32 = 0
        var sequence: UInt32 = 0
        var opcode = Opcode.ping
        var isBusy = false
    }

    /// I/O requests without a reply.
    private(set) var inFlight = 0
    /// Slots for I/O.
    private(set) var depth = 0
    /// The longest payload, either way.
    private(set) var payloadBytesMax = UInt32(Limits.helloBytesMax)
    /// What the last refused I/O request's reply said, where it said anything.
    private(set) var lastMessage = ""
    /// Completions that are ready; `takeCompletions` hands them out.
    private(set) var completionCount = 0
    /// Notices that are ready, oldest first.
    var notices: [ChannelNotice] = []

    private var isGreeted = false
    private var slots = 0
    private let flights: UnsafeMutablePointer<Flight>
    private let free: UnsafeMutablePointer<UInt16>
    private var freeCount = 0
    private let completions: UnsafeMutablePointer<ChannelCompletion>
    private var completionsTaken = 0

    private let staging: UnsafeMutableRawPointer
    private var staged = 0
    private let small: UnsafeMutableRawPointer
    private var header = ReplyHeader(opcode: 0)
    /// Where the payload of `header` goes; nil while a header is awaited.
    private var payload: UnsafeMutableRawPointer?
    private var payloadDone = 0
    private var isPayloadCallers = false

    init() {
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
        guard freeCount > 0 else { return nil }
        freeCount -= 1
        let slot = unsafe free[freeCount]
        inFlight += 1
        let sequence = unsafe occupy(
            slot, opcode: request.opcode, count: request.count, buffer: request.buffer, tag: request.tag)
        return unsafe RequestHeader(
            length: request.opcode == .write ? request.count : 0, opcode: request.opcode.rawValue,
            flags: request.flags, slot: slot, sequence: sequence, handle: request.handle,
            count: request.count,
            offset: request.offset)
    }

    /// The header of a control request; nil while the slot that is kept for them is taken.
    func beginControl(_ opcode: Opcode, handle: UInt32, bodyBytes: Int) -> RequestHeader? {
        let slot = UInt16(max(slots - 1, 0))
        guard isGreeted, unsafe !flights[Int(slot)].isBusy else { return nil }
        if depth == slots { freeCount -= 1 }
        let sequence = unsafe occupy(slot, opcode: opcode, count: 0, buffer: nil, tag: 0)
        return RequestHeader(
            length: UInt32(bodyBytes), opcode: opcode.rawValue, slot: slot, sequence: sequence, handle: handle
        )
    }

    private func occupy(
        _ slot: UInt16, opcode: Opcode, count: UInt32, buffer: UnsafeMutableRawPointer?, tag: UInt64
    ) -> UInt32 {
        let flight = unsafe flights + Int(slot)
        let sequence = unsafe RequestHeader.successor(of: flight.pointee.sequence)
        unsafe flight.pointee = unsafe Flight(
            tag: tag, buffer: buffer, count: count, sequence: sequence, opcode: opcode, isBusy: true)
        return sequence
    }

    /// Ends every I/O request with `status`: the channel is gone.
    func abandon(_ status: Status) {
        for slot in 0..<depth {
            let flight = unsafe flights + slot
            guard unsafe flight.pointee.isBusy, unsafe flight.pointee.opcode.rawValue >= Opcode.read.rawValue
            else {
                continue
            }
            unsafe flight.pointee.isBusy = false
            unsafe complete(tag: flight.pointee.tag, value: 0, status: status)
        }
        inFlight = 0
        freeCount = 0
        isGreeted = false
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

    private func complete(tag: UInt64, value: UInt64, status: Status) {
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
            if unsafe payload == nil {
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
        unsafe isPayloadCallers && staged == 0 && payload != nil
            && Int(header.length) - payloadDone >= ChannelCore.directBytesMin
    }

    /// A header arrived: everything that can be wrong with it is found here, before a byte of payload is
    /// taken.
    @inline(__always)
    private func beginFrame() throws(ChannelError) {
        if let fault = header.fault(payloadBytesMax: payloadBytesMax) { throw .violation(fault.message) }
        isPayloadCallers = false
        if !header.isEvent {
            if isGreeted { try matchRequest() } else { try matchHello() }
        } else if !isGreeted {
            throw .violation("the server sent an event before it answered HELLO")
        }
        if header.length == 0 {
            try finishFrame()
        } else {
            payloadDone = 0
            if !isPayloadCallers { unsafe payload = unsafe small }
        }
    }

    @inline(__always)
    private func matchRequest() throws(ChannelError) {
        let slot = Int(header.slot)
        guard slot < slots, unsafe flights[slot].isBusy else {
            throw .violation(ReplyFault.unknownSlot.message)
        }
        let flight = unsafe flights + slot
        if let fault = unsafe header.fault(
            answering: flight.pointee.opcode, sequence: flight.pointee.sequence, count: flight.pointee.count)
        {
            throw .violation(fault.message)
        }
        if unsafe flight.pointee.opcode == .read, header.status == Status.ok.rawValue {
            unsafe payload = unsafe flight.pointee.buffer
            isPayloadCallers = true
        }
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
        if header.isEvent { return try finishEvent() }
        guard isGreeted else { return try finishHello() }
        let flight = unsafe flights + Int(header.slot)
        let opcode = unsafe flight.pointee.opcode
        unsafe flight.pointee.isBusy = false
        guard opcode.rawValue >= Opcode.read.rawValue else { return try finishControl(opcode) }
        guard let status = header.knownStatus else { throw .violation(ReplyFault.unknownStatus.message) }
        if status != .ok, header.length > 0 { lastMessage = ErrorMessage.decode(smallBytes()) }
        unsafe free[freeCount] = header.slot
        freeCount += 1
        inFlight -= 1
        unsafe complete(tag: flight.pointee.tag, value: header.value, status: status)
    }

    private func finishControl(_ opcode: Opcode) throws(ChannelError) {
        if depth == slots {
            unsafe free[freeCount] = header.slot
            freeCount += 1
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
            do throws(WireError) {
                notices.append(.state(handle: handle, try ResourceState(bytes: smallBytes())))
            } catch {
                throw .violation(error.message)
            }
        default: notices.append(.done(opcode))
        }
    }

    private func finishHello() throws(ChannelError) {
        guard let status = header.knownStatus, status == .ok else {
            throw .refused(
                .hello, header.knownStatus ?? .internalError, message: ErrorMessage.decode(smallBytes()))
        }
        let reply: HelloReply
        do throws(WireError) {
            reply = try HelloReply(bytes: smallBytes())
        } catch {
            throw .violation(error.message)
        }
        payloadBytesMax = reply.payloadBytesMax
        slots = Int(reply.slots)
        depth = slots > 1 ? slots - 1 : 1
        for slot in 0..<depth { unsafe free[slot] = UInt16(depth - 1 - slot) }
        freeCount = depth
        isGreeted = true
        notices.append(.hello(reply))
    }

    private func finishEvent() throws(ChannelError) {
        do throws(WireError) {
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
