import Core
import Wire

/// The core between connections: `API/data-channel.md` §4, "Resume".
extension ChannelCore {
    /// Whether the session outlives the connection. OPEN needs a slot that no unanswered request occupies, so
    /// that a channel of one slot cannot be resumed.
    var canResume: Bool { slots > 1 && greeting?.features.contains(.resume) ?? false }

    /// The connection was lost: nothing completes, what had arrived in part is dropped, and the next HELLO must
    /// ask for this channel's slots.
    func suspend() {
        guard isGreeted else { return dropInput() }
        dropInput()
        for slot in 0..<slots {
            let flight = unsafe flights + slot
            guard unsafe flight.pointee.phase == .awaited else { continue }
            if slot < depth {
                unsafe flight.pointee.phase = .unanswered
            } else {
                // A control request of the new connection takes its place, with the same sequence.
                unsafe flight.pointee.phase = .free
                unsafe flight.pointee.sequence -= 1
            }
        }
        isGreeted = false
        isSuspended = true
        isOpen = false
    }

    /// Whether a server granted no more than it was asked for, in the session that it was asked for.
    func checkGranted(_ reply: HelloReply, _ asked: Hello) throws(ChannelError) {
        let payloadMax = max(asked.payloadBytesMax, UInt32(Limits.payloadBytesMin))
        guard asked.slots == 0 || reply.slots <= asked.slots,
            asked.payloadBytesMax == 0 || reply.payloadBytesMax <= payloadMax,
            reply.features.isSubset(of: asked.features)
        else { throw .violation("the server granted more than was asked for") }
        guard !asked.isJoining || reply.session == asked.session else {
            throw .violation("the server put the channel into another session than the one it was to join")
        }
        guard asked.isJoining || reply.secret.contains(where: { $0 != 0 }) else {
            throw .violation("the server began a session without a secret")
        }
    }

    /// Whether a server that resumed the channel granted what it had granted before.
    func checkResumed(_ reply: HelloReply) throws(ChannelError) {
        guard let greeting, reply.resumption != .fresh, reply.session == greeting.session,
            reply.channel == greeting.channel
        else { throw .violation("the server resumed something else than the channel that was asked for") }
        guard Int(reply.slots) == slots, reply.payloadBytesMax >= payloadBytesMax,
            reply.features.contains(.resume)
        else { throw .violation("the server resumed the channel with less than it had granted") }
    }

    /// The server was restarted since the unanswered requests were sent. It says so on the first connection only;
    /// that one may be lost before they are sent again.
    func noteRestart() {
        for slot in 0..<depth where unsafe flights[slot].phase == .unanswered {
            unsafe flights[slot].isOfOldServer = true
        }
    }

    /// The next request that must be sent again, in the order of the slots; nil when there is none left, and
    /// new requests may begin.
    ///
    /// PING goes in the place of a request that was given up. A request that a restarted server must not be asked twice
    /// ends with `outcomeUnknown` instead. `isShared`: others may write at the same time.
    func nextRepeat(handle: UInt32, isShared: Bool) -> (
        header: RequestHeader, payload: UnsafeRawBufferPointer?
    )? {
        while repeatCursor < depth {
            let slot = UInt16(repeatCursor)
            let flight = unsafe flights + repeatCursor
            repeatCursor += 1
            guard unsafe flight.pointee.phase == .unanswered else { continue }
            if unsafe flight.pointee.isGivenUp {
                // The server has fenced the lost connection: whatever the request did, it is over.
                if unsafe flight.pointee.isUnsettled { settle(Int(slot)) }
                unsafe flight.pointee.phase = .awaited
                return unsafe (
                    RequestHeader(
                        opcode: Opcode.ping.rawValue, slot: slot, sequence: flight.pointee.sequence), nil
                )
            }
            if unsafe flight.pointee.isOfOldServer,
                unsafe flight.pointee.opcode.isOutcomeLost(isShared: isShared)
            {
                release(slot)
                inFlight -= 1
                unsafe complete(tag: flight.pointee.tag, value: 0, status: .outcomeUnknown)
                continue
            }
            unsafe flight.pointee.phase = .awaited
            unsafe flight.pointee.isOfOldServer = false
            let header = header(of: slot, handle: handle)
            let payload =
                unsafe header.length == 0
                ? nil : UnsafeRawBufferPointer(start: flight.pointee.payload, count: Int(header.length))
            return unsafe (header, payload)
        }
        isOpen = true
        return nil
    }

    /// I/O requests that a lost connection left unanswered.
    var unansweredCount: Int {
        var count = 0
        for slot in 0..<depth where unsafe flights[slot].phase == .unanswered { count += 1 }
        return count
    }

    /// Completes the I/O requests with this tag with `timedOut`; their slots stay occupied until the server has
    /// answered, and their memory is not touched any more.
    func giveUp(tag: UInt64) {
        for slot in 0..<depth {
            let flight = unsafe flights + slot
            guard isBusy(slot), unsafe flight.pointee.tag == tag, unsafe !flight.pointee.isGivenUp else {
                continue
            }
            unsafe flight.pointee.isGivenUp = true
            unsafe flight.pointee.buffer = nil
            dropPayload(of: slot)
            if unsafe flight.pointee.opcode.isChange {
                unsafe flight.pointee.isUnsettled = true
                ledger.unsettle()
            }
            inFlight -= 1
            givenUp += 1
            complete(tag: tag, value: 0, status: .timedOut)
        }
        let held = unsafe expired.count
        unsafe expired.removeAll { unsafe $0.tag == tag }
        for _ in unsafe expired.count..<held { complete(tag: tag, value: 0, status: .timedOut) }
    }

    /// Notes that a given-up change was executed, or never will be.
    func settle(_ slot: Int) {
        unsafe flights[slot].isUnsettled = false
        ledger.settle()
        if ledger.unsettled == 0 { notices.append(.settled) }
    }

    /// The session is gone: returns the requests that change nothing, which a new session may execute, and ends
    /// all others with `ioError`. The core is as a new one afterwards. Handles in what is returned mean nothing.
    ///
    /// With `losesFlushes` a FLUSH fails too: it would have covered what is lost.
    func surrender(losesFlushes: Bool) -> [ChannelRequest] {
        var kept: [ChannelRequest] = unsafe []
        for slot in 0..<depth {
            let flight = unsafe flights[slot]
            guard isBusy(slot), unsafe !flight.isGivenUp, unsafe !flight.opcode.isChange,
                unsafe !(losesFlushes && flight.opcode == .flush)
            else { continue }
            unsafe kept.append(
                ChannelRequest(
                    flight.opcode, flags: flight.flags, handle: 0, offset: flight.offset, count: flight.count,
                    buffer: flight.buffer, namesMarker: flight.namesMarker, tag: flight.tag))
            unsafe flights[slot].phase = .free
        }
        abandon(.ioError)
        return unsafe kept
    }
}

extension Opcode {
    /// Whether the request changes bytes of a volume.
    var isChange: Bool { !kind.isControl && !rule.isIdempotent }

    /// Whether nobody can say, after the server was restarted, what became of an unanswered request, and doing it
    /// once more could do harm: a comparison would meet its own result, and where others write, too, a change would
    /// undo what they have written since.
    func isOutcomeLost(isShared: Bool) -> Bool {
        isChange && (isShared || self == .compareAndWrite)
    }
}
