import Core
import DriverKit
import Wire

/// The way of one request on a handle, whatever the kind of its resource: admission, driver, answer.
extension ServiceShard {
    /// Offers the next request of an established channel.
    public func accept(_ channel: ServiceChannel, _ request: ResourceRequest) -> Intake {
        if request.verdict.endsChannel { return end(channel, request) }
        if channel.messages.count >= Limits.waitingFramesPause { return stall(channel, .own) }
        if channel.slots.recalls > 0, channel.slots.replay(index: request.slot, sequence: request.sequence) {
            channel.announceOutput()
            return request.payloadBytes > 0 ? .skip : .done
        }
        guard request.verdict == .ok, let operation = request.operation, !operation.kind.isControl else {
            return acceptOther(channel, request)
        }
        let rule = operation.rule
        guard let position = channel.handles.find(request.handle) else {
            return refuse(channel, request, .badHandle)
        }
        let verdict = channel.handles[position].check(
            RequestDemand(operation, rule, offset: request.offset, count: request.count), now: lifeNow)
        guard verdict == .ok, let port = ports.borrow(Int(channel.handles[position].port)) else {
            return refuse(channel, request, verdict == .ok ? .driverFailed : verdict)
        }
        if !suspects.isEmpty, isSuspect(channel, request, position) {
            return refuse(channel, request, .internalError)
        }
        note(.takingUp, channel, request, position)
        return port.with { admit(channel, request, rule, position, $0) }
    }

    /// Refuses a request after which nothing more of the channel can be understood.
    @inline(never)
    private func end(_ channel: ServiceChannel, _ request: ResourceRequest) -> Intake {
        channel.push(RequestAnswer(to: request, request.verdict))
        return .end
    }

    /// Gives a request that its handle allows its slot and its part of the arena, if there is room.
    private func admit(
        _ channel: ServiceChannel, _ request: ResourceRequest, _ rule: OpcodeRule, _ position: UInt8,
        _ port: DriverPort
    ) -> Intake {
        // All channels of the session count together, since each of them may have little.
        let held = port.held(flow: channel.flow) / Limits.gentleBytes
        activity.touch(channel.flow, underWay: max(channel.slots.underWay, held), now: reactor.now)
        var buffer = ArenaBuffer(offset: 0, bytes: 0)
        let room = RequestRoom.bytes(rule, count: Int(request.count))
        if room > 0 {
            let total = channel.chargedBytes + room
            if total > Limits.channelBudgetBytes, channel.chargedBytes > 0 { return stall(channel, .own) }
            guard let allocated = port.allocate(room, for: channel) else {
                return stall(channel, at: port, bytes: room)
            }
            buffer = allocated
        }
        let status = begin(channel, request)
        guard status == .ok else {
            if buffer.bytes > 0 { port.free(buffer, of: channel) }
            refuseSlot(channel, request, status)
            return .skip
        }
        channel.slots[request.slot].handle = position
        channel.slots[request.slot].handleGeneration = channel.handles[position].generation
        channel.slots[request.slot].port = port.number
        channel.slots[request.slot].count = request.count
        channel.slots[request.slot].offset = request.offset
        channel.slots[request.slot].bufferOffset = buffer.offset
        channel.slots[request.slot].bufferBytes = buffer.bytes
        channel.chargedBytes += Int(buffer.bytes)
        switch rule.payload {
        case .covered, .coveredTwice: return .payload(slot: request.slot)
        case .body, .structure: return .body
        case .optionalBody where request.payloadBytes > 0: return .body
        case .none, .optionalBody:
            submit(channel, request.slot)
            return .done
        }
    }

    /// Says that the payload of the request in `slot` is complete in its buffer.
    public func payloadArrived(_ channel: ServiceChannel, slot: UInt16) {
        submit(channel, slot)
    }

    @inline(__always)
    private func begin(_ channel: ServiceChannel, _ request: ResourceRequest) -> Status {
        channel.requests &+= 1
        return channel.slots.begin(
            index: request.slot, sequence: request.sequence, opcode: request.opcode,
            flags: request.flags.rawValue)
    }

    /// Requests that are not data requests in order: control requests, and those that the front end refuses.
    private func acceptOther(_ channel: ServiceChannel, _ request: ResourceRequest) -> Intake {
        guard request.verdict == .ok else { return refuse(channel, request, request.verdict) }
        let status = begin(channel, request)
        guard status == .ok else {
            refuseSlot(channel, request, status)
            return .skip
        }
        statistics.controls &+= 1
        if request.payloadBytes > 0 { return .body }
        control(channel, request, .nothing)
        return .done
    }

    /// Answers a request that is refused; it uses up its sequence unless its slot or sequence is wrong too.
    private func refuse(_ channel: ServiceChannel, _ request: ResourceRequest, _ status: Status) -> Intake {
        let slotStatus = begin(channel, request)
        if slotStatus == .ok {
            answer(channel, request.slot, status)
        } else {
            refuseSlot(channel, request, slotStatus)
        }
        return request.payloadBytes > 0 ? .skip : .done
    }

    /// Answers a request whose slot or sequence is wrong, so that it has no slot of its own to be answered from.
    private func refuseSlot(_ channel: ServiceChannel, _ request: ResourceRequest, _ status: Status) {
        statistics.refusals[status, default: 0] += 1
        channel.push(RequestAnswer(to: request, status))
    }

    // MARK: To the driver

    /// Runs the request in `slot`, or has it wait for its handle's rate limit.
    func submit(_ channel: ServiceChannel, _ slot: UInt16) {
        let position = channel.slots[slot].handle
        if channel.handles[position].isLimited, mustWait(channel, slot, position) { return }
        run(channel, slot, position)
    }

    /// Hands the request to the driver, unless the handle's authority ended while it waited.
    func run(_ channel: ServiceChannel, _ slot: UInt16, _ position: UInt8) {
        let request = channel.slots[slot]
        var denial = channel.handles[position].authority.denial
        if denial == .ok, lifeNow >= channel.handles[position].authority.terms.deadline { denial = .expired }
        guard denial == .ok, let port = ports.borrow(Int(request.port)) else {
            answer(channel, slot, denial == .ok ? .driverFailed : denial)
            return
        }
        if !exclusions.isEmpty, isExcluded(channel, slot) { return hold(channel, slot) }
        start(channel, slot, position, port)
    }

    // MARK: From the driver

    /// Answers the request that a completion belongs to. A completion of nothing that runs is the driver's fault
    /// and has no effect.
    func complete(_ completion: DriverCompletion, port: DriverPort) {
        let tag = RequestTag(echo: completion.tag)
        let isKnown = channels.borrow(tag.channel)?.with { complete(completion, tag, port, $0) } ?? false
        if !isKnown, !port.ownCompleted(completion) { noteUnknown(completion, port) }
    }

    @inline(never)
    private func noteUnknown(_ completion: DriverCompletion, _ port: DriverPort) {
        accessLog.warning(
            "the driver completed a request that it does not have",
            ["pool": "\(port.pool.descriptor.name)", "tag": "\(completion.tag)"])
    }

    /// Answers the request of `channel` that a completion belongs to; false when it has none such.
    private func complete(
        _ completion: DriverCompletion, _ tag: RequestTag, _ port: DriverPort, _ channel: ServiceChannel
    ) -> Bool {
        let slot = tag.slot
        guard Int(slot) < channel.slots.count, channel.slots[slot].state == .running,
            channel.slots[slot].port == port.number,
            channel.slots[slot].sequence == tag.sequence
        else { return false }
        note(.answering, channel, slot)
        port.completed(flow: channel.flow, bytes: channel.slots[slot].bufferBytes)
        switch channel.slots[slot].way {
        case .whole, .detailed: ended(channel, slot, completion)
        case .stepped: stepEnded(channel, slot, completion)
        }
        return true
    }

    /// Answers the request in `slot`, of which the driver has nothing any more.
    func ended(_ channel: ServiceChannel, _ slot: UInt16, _ completion: DriverCompletion) {
        if !exclusions.isEmpty { noteEnd(channel, slot) }
        if case .stepped = channel.slots[slot].way { endSource(channel, slot) }
        let position = channel.slots[slot].handle
        channel.handles[position].running -= 1
        finish(channel, slot, position, completion)
        settle(channel, position)
        if channel.isDetached { finishIfEnded(channel) }
    }

    /// Sets the answer of a request; only one with a payload keeps its buffer. Without a connection it is kept for
    /// a repeat.
    func answer(_ channel: ServiceChannel, _ slot: UInt16, _ status: Status, value: UInt64 = 0) {
        if status != .ok {
            statistics.refusals[status, default: 0] += 1
            if status.kind == .device { noteFailure(channel, slot, status) }
        }
        if channel.isDetached {
            freeBuffer(channel, slot)
            channel.slots.conclude(slot, status: status, value: value)
            return
        }
        if channel.slots[slot].replyBytes == 0 { freeBuffer(channel, slot) }
        channel.slots.answer(slot, status: status, value: value)
        channel.announceOutput()
    }

    /// Gives the buffer of `slot` back to its arena, if it has one.
    @inline(__always)
    func freeBuffer(_ channel: ServiceChannel, _ slot: UInt16) {
        let bytes = channel.slots[slot].bufferBytes
        guard bytes > 0 else { return }
        let buffer = ArenaBuffer(offset: channel.slots[slot].bufferOffset, bytes: bytes)
        ports.borrow(Int(channel.slots[slot].port))?.with { $0.free(buffer, of: channel) }
        channel.slots[slot].bufferBytes = 0
        channel.chargedBytes -= Int(bytes)
        roomWasMade(of: channel)
    }
}
