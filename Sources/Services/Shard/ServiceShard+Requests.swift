import Core
import DriverKit
import Wire

/// The way of one request on a handle: admission, driver, answer.
extension ServiceShard {
    /// Offers the header of the next request of an established channel.
    public func accept(_ channel: ServiceChannel, _ header: RequestHeader) -> Intake {
        let validity = header.validate(.established(payloadBytesMax: channel.payloadBytesMax))
        if validity.endsChannel {
            channel.push(ReplyHeader(to: header, status: validity))
            return .end
        }
        if channel.frames.count >= Limits.waitingFramesPause { return stall(channel, .own) }
        if channel.slots.recalls > 0, channel.slots.replay(index: header.slot, sequence: header.sequence) {
            channel.announceOutput()
            return header.length > 0 ? .skip : .done
        }
        guard validity == .ok, let opcode = Opcode(rawValue: header.opcode), header.opcode >= 0x100 else {
            return acceptOther(channel, header, validity: validity)
        }
        let rule = opcode.rule
        guard let position = channel.handles.find(header.handle) else {
            return refuse(channel, header, .badHandle)
        }
        let verdict = channel.handles[position].check(
            needed: rule.rights, offset: header.offset, count: header.count, covers: rule.covers != .nothing,
            moves: rule.covers == .transfer || rule.payload == .coveredTwice, now: lifeNow)
        guard verdict == .ok, let port = ports.borrow(Int(channel.handles[position].port)) else {
            return refuse(channel, header, verdict == .ok ? .driverFailed : verdict)
        }
        if !suspects.isEmpty, isSuspect(channel, header, position) {
            return refuse(channel, header, .internalError)
        }
        note(.takingUp, channel, header, position)
        return port.with { admit(channel, header, rule, position, $0) }
    }

    /// Gives a request that its handle allows its slot and its part of the arena, if there is room.
    private func admit(
        _ channel: ServiceChannel, _ header: RequestHeader, _ rule: OpcodeRule, _ position: UInt8,
        _ port: DriverPort
    ) -> Intake {
        // Of all channels of the session together, of which each may have little.
        let held = port.held(flow: channel.flow) / Limits.gentleBytes
        activity.touch(channel.flow, underWay: max(channel.slots.underWay, held), now: reactor.now)
        var buffer = ArenaBuffer(offset: 0, bytes: 0)
        let room = RequestRoom.bytes(rule, count: Int(header.count))
        if room > 0 {
            let total = channel.chargedBytes + room
            if total > Limits.channelBudgetBytes, channel.chargedBytes > 0 { return stall(channel, .own) }
            guard let allocated = port.allocate(room, for: channel) else {
                return stall(channel, at: port, bytes: room)
            }
            buffer = allocated
        }
        let status = begin(channel, header)
        guard status == .ok else {
            if buffer.bytes > 0 { port.free(buffer, of: channel) }
            refuseSlot(channel, header, status)
            return .skip
        }
        channel.slots[header.slot].handle = position
        channel.slots[header.slot].handleGeneration = channel.handles[position].generation
        channel.slots[header.slot].port = port.number
        channel.slots[header.slot].count = header.count
        channel.slots[header.slot].offset = header.offset
        channel.slots[header.slot].bufferOffset = buffer.offset
        channel.slots[header.slot].bufferBytes = buffer.bytes
        channel.chargedBytes += Int(buffer.bytes)
        switch rule.payload {
        case .covered, .coveredTwice: return .payload(slot: header.slot)
        case .body, .structure: return .body
        case .optionalBody where header.length > 0: return .body
        case .none, .optionalBody:
            submit(channel, header.slot)
            return .done
        }
    }

    /// Says that the payload of the request in `slot` is complete in its buffer.
    public func payloadArrived(_ channel: ServiceChannel, slot: UInt16) {
        submit(channel, slot)
    }

    @inline(__always)
    private func begin(_ channel: ServiceChannel, _ header: RequestHeader) -> Status {
        channel.requests &+= 1
        return channel.slots.begin(
            index: header.slot, sequence: header.sequence, opcode: header.opcode,
            flags: header.flags.rawValue)
    }

    /// Requests that are not data requests in order: control requests, and those that the codec refuses.
    private func acceptOther(
        _ channel: ServiceChannel, _ header: RequestHeader, validity: Status
    ) -> Intake {
        guard validity == .ok else { return refuse(channel, header, validity) }
        let status = begin(channel, header)
        guard status == .ok else {
            refuseSlot(channel, header, status)
            return .skip
        }
        statistics.controls &+= 1
        if header.length > 0 { return .body }
        control(channel, header, body: [])
        return .done
    }

    /// Answers a request that is refused; it uses up its sequence unless its slot or sequence is wrong too.
    private func refuse(_ channel: ServiceChannel, _ header: RequestHeader, _ status: Status) -> Intake {
        let slotStatus = begin(channel, header)
        if slotStatus == .ok {
            answer(channel, header.slot, status)
        } else {
            refuseSlot(channel, header, slotStatus)
        }
        return header.length > 0 ? .skip : .done
    }

    /// Answers a request whose slot or sequence is wrong, so that it has no slot of its own to be answered from.
    private func refuseSlot(_ channel: ServiceChannel, _ header: RequestHeader, _ status: Status) {
        statistics.refusals[status, default: 0] += 1
        channel.push(ReplyHeader(to: header, status: status))
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
        var denial = channel.handles[position].denial
        if denial == .ok, lifeNow >= channel.handles[position].deadline { denial = .expired }
        guard denial == .ok, let port = ports.borrow(Int(request.port)) else {
            answer(channel, slot, denial == .ok ? .driverFailed : denial)
            return
        }
        if !exclusions.isEmpty, isExcluded(channel, slot) { return hold(channel, slot) }
        guard let opcode = Opcode(rawValue: request.opcode), let operation = DriverOpcode(opcode) else {
            return runSteps(channel, slot)
        }
        channel.handles[position].running += 1
        channel.slots[slot].state = .running
        let tag = ServiceShard.tag(channel: channel.number, slot: slot, sequence: request.sequence)
        let asked = DriverRequest(
            opcode: operation, flags: DriverFlags(rawValue: UInt8(truncatingIfNeeded: request.flags)),
            volume: channel.handles[position].volumeIndex, tag: tag, offset: request.offset,
            length: UInt64(request.count), buffer: request.bufferOffset)
        port.with { $0.submit(asked, flow: channel.flow, bytes: request.bufferBytes) }
    }

    /// Channel, slot and sequence in one word: what the driver returns with a completion.
    static func tag(channel: UInt32, slot: UInt16, sequence: UInt32) -> UInt64 {
        UInt64(channel) << 40 | UInt64(slot) << 32 | UInt64(sequence)
    }

    /// In place of a channel's number, in tags of requests of the server's own; no channel has it.
    static let ownChannel: UInt32 = 0xFF_FFFF

    /// The slot in a tag.
    static func slot(of tag: UInt64) -> UInt16 {
        UInt16(truncatingIfNeeded: tag >> 32) & 0xFF
    }

    // MARK: From the driver

    /// Answers the request that a completion belongs to. A completion of nothing that runs is the driver's fault
    /// and has no effect.
    func complete(_ completion: DriverCompletion, port: DriverPort) {
        let channel = channels.borrow(Int(completion.tag >> 40))
        let isKnown = channel?.with { complete(completion, port, $0) } ?? false
        if isKnown || port.ownCompleted(completion) { return }
        accessLog.warning(
            "the driver completed a request that it does not have",
            ["pool": "\(port.pool.descriptor.name)", "tag": "\(completion.tag)"])
    }

    /// Answers the request of `channel` that a completion belongs to; false when it has none such.
    private func complete(
        _ completion: DriverCompletion, _ port: DriverPort, _ channel: ServiceChannel
    ) -> Bool {
        let slot = ServiceShard.slot(of: completion.tag)
        guard Int(slot) < channel.slots.count, channel.slots[slot].state == .running,
            channel.slots[slot].port == port.number,
            channel.slots[slot].sequence == UInt32(truncatingIfNeeded: completion.tag)
        else { return false }
        note(.answering, channel, slot)
        port.completed(flow: channel.flow, bytes: channel.slots[slot].bufferBytes)
        if channel.slots[slot].step != .whole {
            stepEnded(channel, slot, completion)
        } else {
            ended(channel, slot, completion)
        }
        return true
    }

    /// Answers the request in `slot`, of which the driver has nothing any more.
    func ended(_ channel: ServiceChannel, _ slot: UInt16, _ completion: DriverCompletion) {
        if !exclusions.isEmpty { noteEnd(channel, slot) }
        if channel.slots[slot].step != .whole { endSource(channel, slot) }
        let position = channel.slots[slot].handle
        channel.handles[position].running -= 1
        finish(channel, slot, position, completion)
        settle(channel, position)
        if channel.isDetached { finishIfEnded(channel) }
    }

    private func finish(
        _ channel: ServiceChannel, _ slot: UInt16, _ position: UInt8, _ completion: DriverCompletion
    ) {
        let count = channel.slots[slot].count
        let status = Status(rawValue: completion.status) ?? .driverFailed
        if status == .miscompare { return answer(channel, slot, status, value: completion.value) }
        if status == .noSpace { return answer(channel, slot, noSpace(channel, slot)) }
        if channel.slots[slot].opcode == Opcode.blockStatus.rawValue {
            let isSinceMarker = channel.slots[slot].marker != .zero
            if isSinceMarker, status == .ok || status == .notSupported {
                return finishMarkedMap(channel, slot, position, completion, isKnown: status == .ok)
            }
            if status == .ok { return finishMap(channel, slot, position, completion) }
        }
        let isRead = channel.slots[slot].opcode == Opcode.read.rawValue
        // Data read for a handle that was revoked meanwhile does not leave; a write is answered as it happened.
        let denial = channel.handles[position].denial
        let final = isRead && status == .ok ? denial : status
        if final == .ok {
            switch Opcode(rawValue: channel.slots[slot].opcode) {
            case .read:
                channel.slots[slot].replyBytes = count
                channel.bytesRead &+= UInt64(count)
                statistics.reads &+= 1
                statistics.bytesRead &+= UInt64(count)
            case .write, .compareAndWrite, .copyRange:
                channel.bytesWritten &+= UInt64(count)
                statistics.writes &+= 1
                statistics.bytesWritten &+= UInt64(count)
            case .flush: statistics.flushes &+= 1
            default: statistics.discards &+= 1
            }
        }
        answer(channel, slot, final, value: final == .ok ? UInt64(count) : 0)
    }

    /// What a client hears of a request for which there is no space. What can be done again as a whole is worth waiting
    /// for; the client waits, so that it holds nothing here.
    private func noSpace(_ channel: ServiceChannel, _ slot: UInt16) -> Status {
        guard let port = ports[Int(channel.slots[slot].port)] else { return .noSpace }
        let waits = port.pool.refused(now: services.configuration.wallClock.now())
        switch Opcode(rawValue: channel.slots[slot].opcode) {
        case .write, .writeZeroes: return waits ? .noSpaceYet : .noSpace
        default: return .noSpace
        }
    }

    /// Answers a BLOCK_STATUS with the extents that the driver found, if they are sound.
    private func finishMap(
        _ channel: ServiceChannel, _ slot: UInt16, _ position: UInt8, _ completion: DriverCompletion
    ) {
        guard isSoundMap(channel.slots[slot], completion) else {
            return refuseMap(channel, slot, position)
        }
        answerMap(channel, slot, position, bytes: completion.mapBytes, covered: completion.value)
    }

    /// Likewise, with what was changed since the marker that it names.
    private func finishMarkedMap(
        _ channel: ServiceChannel, _ slot: UInt16, _ position: UInt8, _ completion: DriverCompletion,
        isKnown: Bool
    ) {
        guard let marker = marker(of: channel.slots[slot], channel) else {
            return answer(channel, slot, .notFound)
        }
        guard let map = mapChanges(channel.slots[slot], completion, isKnown: isKnown, since: marker) else {
            return refuseMap(channel, slot, position)
        }
        answerMap(channel, slot, position, bytes: map.bytes, covered: map.covered)
    }

    private func refuseMap(_ channel: ServiceChannel, _ slot: UInt16, _ position: UInt8) {
        accessLog.warning(
            "the driver's extents do not add up", ["volume": "\(channel.handles[position].volume)"])
        answer(channel, slot, .driverFailed)
    }

    private func answerMap(
        _ channel: ServiceChannel, _ slot: UInt16, _ position: UInt8, bytes: UInt32, covered: UInt64
    ) {
        let denial = channel.handles[position].denial
        if denial == .ok { channel.slots[slot].replyBytes = bytes }
        answer(channel, slot, denial, value: denial == .ok ? covered : 0)
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

extension DriverOpcode {
    /// The driver's name for a volume request; nil for what takes several, and for control requests.
    @inline(__always)
    init?(_ opcode: Opcode) {
        switch opcode {
        case .read: self = .read
        case .write: self = .write
        case .writeZeroes: self = .writeZeroes
        case .discard: self = .discard
        case .flush: self = .flush
        case .blockStatus: self = .blockStatus
        case .compareAndWrite, .copyRange, .hello, .open, .stat, .renew, .close, .ping: return nil
        }
    }
}
