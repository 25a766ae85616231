import Core
import DriverKit
import Wire

/// What the driver has of requests on volumes, and what their answers are.
extension ServiceShard {
    /// Gives the driver a request on a volume that may run, or begins one that takes several steps.
    @inline(__always)
    func startOnVolume(
        _ channel: ServiceChannel, _ slot: UInt16, _ position: UInt8, _ port: Borrowed<DriverPort>
    ) {
        let request = channel.slots[slot]
        guard let opcode = Opcode(rawValue: request.opcode), let operation = DriverOpcode(opcode) else {
            return runSteps(channel, slot)
        }
        channel.handles[position].running += 1
        channel.slots[slot].state = .running
        let asked = DriverRequest(
            opcode: operation, flags: DriverFlags(rawValue: UInt8(truncatingIfNeeded: request.flags)),
            index: channel.handles[position].index, tag: channel.tag(slot).rawValue,
            offset: request.offset, length: UInt64(request.count), buffer: request.bufferOffset)
        port.with { $0.submit(asked, flow: channel.flow, bytes: request.bufferBytes) }
    }

    /// Takes in the structure of a request on a volume.
    func structureArrivedForVolume(_ channel: ServiceChannel, _ slot: UInt16, _ structure: [UInt8]) {
        switch Opcode(rawValue: channel.slots[slot].opcode) {
        case .copyRange:
            do throws(StatusError) {
                copy(channel, slot, from: try CopySource(bytes: structure))
            } catch { answer(channel, slot, error.status) }
        case .blockStatus:
            guard let marker = Identifier(bytes: structure) else { return answer(channel, slot, .badLength) }
            blockStatus(channel, slot, since: marker)
        default: answer(channel, slot, .unknownOpcode)
        }
    }

    /// Begins a request that takes several steps.
    private func runSteps(_ channel: ServiceChannel, _ slot: UInt16) {
        switch Opcode(rawValue: channel.slots[slot].opcode) {
        case .compareAndWrite: beginCompare(channel, slot)
        case .copyRange: beginCopy(channel, slot)
        default: answer(channel, slot, .notSupported)
        }
    }

    /// Answers a request on a volume, of which the driver has nothing any more.
    func finishOnVolume(
        _ channel: ServiceChannel, _ slot: UInt16, _ position: UInt8, _ completion: DriverCompletion
    ) {
        let count = channel.slots[slot].count
        let status = Status(rawValue: completion.status) ?? .driverFailed
        if status == .miscompare { return answer(channel, slot, status, value: completion.value) }
        if status == .noSpace { return answer(channel, slot, noSpace(channel, slot)) }
        if channel.slots[slot].opcode == Opcode.blockStatus.rawValue {
            if case .changes(let id) = channel[operation: slot], status == .ok || status == .notSupported {
                return finishMap(channel, slot, position, completion, since: id, isKnown: status == .ok)
            }
            if status == .ok { return finishMap(channel, slot, position, completion) }
        }
        let isRead = channel.slots[slot].opcode == Opcode.read.rawValue
        // Data read for a handle that was revoked meanwhile does not leave; a write is answered as it happened.
        let denial = channel.handles[position].authority.denial
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
    private func finishMap(
        _ channel: ServiceChannel, _ slot: UInt16, _ position: UInt8, _ completion: DriverCompletion,
        since id: Identifier, isKnown: Bool
    ) {
        guard let marker = marker(id, of: channel.slots[slot], channel) else {
            return answer(channel, slot, .notFound)
        }
        guard let map = mapChanges(channel.slots[slot], completion, isKnown: isKnown, since: marker) else {
            return refuseMap(channel, slot, position)
        }
        answerMap(channel, slot, position, bytes: map.bytes, covered: map.covered)
    }

    private func refuseMap(_ channel: ServiceChannel, _ slot: UInt16, _ position: UInt8) {
        accessLog.warning(
            "the driver's extents do not add up", ["volume": "\(channel.handles[position].resource)"])
        answer(channel, slot, .driverFailed)
    }

    private func answerMap(
        _ channel: ServiceChannel, _ slot: UInt16, _ position: UInt8, bytes: UInt32, covered: UInt64
    ) {
        let denial = channel.handles[position].authority.denial
        if denial == .ok { channel.slots[slot].replyBytes = bytes }
        answer(channel, slot, denial, value: denial == .ok ? covered : 0)
    }
}

extension DriverOpcode {
    /// The driver's name for a volume request; nil for what takes several.
    @inline(__always)
    init?(_ opcode: Opcode) {
        switch opcode {
        case .read: self = .read
        case .write: self = .write
        case .writeZeroes: self = .writeZeroes
        case .discard: self = .discard
        case .flush: self = .flush
        case .blockStatus: self = .blockStatus
        default: return nil
        }
    }

    /// The volume request that is this and nothing else to a driver.
    var onVolume: Opcode {
        switch self {
        case .read: .read
        case .write: .write
        case .writeZeroes: .writeZeroes
        case .discard: .discard
        case .flush: .flush
        case .blockStatus: .blockStatus
        }
    }
}
