import Core
import DriverKit
import Wire

/// Requests that are several to the driver: COPY_RANGE here, COMPARE_AND_WRITE in a file of its own.
///
/// A copy is made of READ and WRITE, piece by piece through the request's own buffer: no byte crosses the network,
/// any driver can do it, and each piece can be repeated when a driver's host is lost. What is known to be zero in
/// the source is made zero and not copied, so that holes stay holes.
extension ServiceShard {
    /// Begins a request that takes several steps.
    func runSteps(_ channel: ServiceChannel, _ slot: UInt16) {
        switch Opcode(rawValue: channel.slots[slot].opcode) {
        case .compareAndWrite: beginCompare(channel, slot)
        case .copyRange: beginCopy(channel, slot)
        default: answer(channel, slot, .notSupported)
        }
    }

    /// Gives the driver a step of the request in `slot`, by default one that covers all of it.
    ///
    /// - Parameter buffer: where in the request's buffer, in bytes.
    func submitStep(
        _ channel: ServiceChannel, _ slot: UInt16, _ opcode: DriverOpcode, flags: DriverFlags = [],
        volume: UInt32? = nil, offset: UInt64? = nil, length: UInt32? = nil, buffer: UInt64 = 0
    ) {
        let request = channel.slots[slot]
        let tag = ServiceShard.tag(channel: channel.number, slot: slot, sequence: request.sequence)
        let bytes = request.bufferBytes
        ports[Int(request.port)]?.submit(
            DriverRequest(
                opcode: opcode, flags: flags,
                volume: volume ?? channel.handles[request.handle].volumeIndex, tag: tag,
                offset: offset ?? request.offset, length: UInt64(length ?? request.count),
                buffer: request.bufferOffset + buffer),
            flow: channel.flow, bytes: bytes)
    }

    /// Goes on when the driver has done a step.
    func stepEnded(
        _ channel: ServiceChannel, _ slot: UInt16, _ completion: DriverCompletion
    ) {
        let status = Status(rawValue: completion.status) ?? .driverFailed
        switch channel.slots[slot].step {
        case .whole: ended(channel, slot, completion)
        case .compareRead, .compareWrite: compareStepEnded(channel, slot, status)
        case .copyMap where status == .ok || status == .notSupported:
            copyMapped(channel, slot, status == .ok ? completion : nil)
        case .copyRead where status == .ok:
            channel.slots[slot].step = .copyWrite
            let request = channel.slots[slot]
            submitStep(
                channel, slot, .write, offset: request.offset + UInt64(request.copied), length: request.piece)
        case .copyWrite where status == .ok, .copyZeroes where status == .ok:
            channel.slots[slot].copied += channel.slots[slot].piece
            channel.slots[slot].extentLeft -= channel.slots[slot].piece
            continueCopy(channel, slot)
        case .copyMap, .copyRead, .copyWrite, .copyZeroes: endCopy(channel, slot, status)
        }
    }

    /// What a request is answered with that was ended because its authority was.
    func withdrawnStatus(_ channel: ServiceChannel, _ slot: UInt16) -> Status {
        let denial = channel.handles[channel.slots[slot].handle].denial
        if denial != .ok, denial != .badHandle { return denial }
        if let source = channel.handles.holder(of: channel.slots[slot].source) {
            let denial = channel.handles[source].denial
            if denial != .ok, denial != .badHandle { return denial }
        }
        return .fenced
    }

    // MARK: COPY_RANGE

    /// Takes in a COPY_RANGE whose payload is complete.
    func copy(_ channel: ServiceChannel, _ header: RequestHeader, _ body: [UInt8]) {
        do throws(StatusError) {
            let source = try CopySource(bytes: body)
            channel.slots[header.slot].source = source.handle
            channel.slots[header.slot].sourceOffset = source.offset
        } catch { return answer(channel, header.slot, error.status) }
        submit(channel, header.slot)
    }

    private func beginCopy(_ channel: ServiceChannel, _ slot: UInt16) {
        let request = channel.slots[slot]
        guard let source = channel.handles.find(request.source) else {
            return answer(channel, slot, .badHandle)
        }
        let status = judgeCopy(request, from: channel.handles[source], to: channel.handles[request.handle])
        guard status == .ok else { return answer(channel, slot, status) }
        channel.handles[request.handle].running += 1
        channel.handles[source].running += 1
        channel.slots[slot].state = .running
        continueCopy(channel, slot)
    }

    private func judgeCopy(_ request: Slot, from source: Handle, to target: Handle) -> Status {
        let status = source.check(
            needed: .read, offset: request.sourceOffset, count: request.count, covers: true, moves: false,
            now: lifeNow)
        guard status == .ok else { return status }
        guard source.port == target.port else { return .notSupported }
        let count = UInt64(request.count)
        let overlaps =
            source.volume == target.volume && request.sourceOffset < request.offset + count
            && request.offset < request.sourceOffset + count
        return overlaps ? .badRequest : .ok
    }

    /// Takes the next step of a copy, or ends it.
    private func continueCopy(_ channel: ServiceChannel, _ slot: UInt16) {
        let request = channel.slots[slot]
        if request.isWithdrawn { return endCopy(channel, slot, withdrawnStatus(channel, slot)) }
        guard request.copied < request.count else { return endCopy(channel, slot, .ok) }
        guard let source = channel.handles.holder(of: request.source) else {
            preconditionFailure("a handle stays while a copy reads from it")
        }
        let isMapped = request.extentLeft > 0
        channel.slots[slot].step = isMapped ? .copyRead : .copyMap
        channel.slots[slot].piece = min(request.extentLeft, UInt32(Limits.copyPieceBytes))
        submitStep(
            channel, slot, isMapped ? .read : .blockStatus, volume: channel.handles[source].volumeIndex,
            offset: request.sourceOffset + UInt64(request.copied),
            length: isMapped ? channel.slots[slot].piece : request.count - request.copied)
    }

    /// Goes on with the first extent of what is known; everything counts as data where nothing is.
    private func copyMapped(
        _ channel: ServiceChannel, _ slot: UInt16, _ completion: DriverCompletion?
    ) {
        let request = channel.slots[slot]
        let left = request.count - request.copied
        let blockSize = max(
            channel.handles[request.handle].blockSize,
            channel.handles.holder(of: request.source).map { channel.handles[$0].blockSize } ?? 1)
        let extent = completion.flatMap { firstExtent(request, $0, blockSize: blockSize) }
        channel.slots[slot].extentLeft = UInt32(min(extent?.length ?? .max, UInt64(left)))
        guard extent?.flags.contains(.zero) == true, !request.isWithdrawn else {
            return continueCopy(channel, slot)
        }
        channel.slots[slot].step = .copyZeroes
        channel.slots[slot].piece = channel.slots[slot].extentLeft
        submitStep(
            channel, slot, .writeZeroes, offset: request.offset + UInt64(request.copied),
            length: channel.slots[slot].piece)
    }

    private func endCopy(_ channel: ServiceChannel, _ slot: UInt16, _ status: Status) {
        ended(channel, slot, DriverCompletion(tag: 0, status: status.rawValue, value: 0))
    }

    /// Lets go of the handle that a copy read from.
    func endSource(_ channel: ServiceChannel, _ slot: UInt16) {
        guard channel.slots[slot].opcode == Opcode.copyRange.rawValue,
            let source = channel.handles.holder(of: channel.slots[slot].source)
        else { return }
        channel.handles[source].running -= 1
        settle(channel, source)
    }
}
