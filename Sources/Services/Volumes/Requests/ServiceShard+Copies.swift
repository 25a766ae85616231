import Core
import DriverKit
import Wire

/// COPY_RANGE, which is several requests to the driver, as COMPARE_AND_WRITE is.
///
/// A copy is made of READ and WRITE, piece by piece through the request's own buffer: no byte crosses the network,
/// any driver can do it, and each piece can be repeated when a driver's host is lost. What is known to be zero in
/// the source is made zero and not copied, so that holes stay holes.
extension ServiceShard {
    /// Gives the driver a step of the request in `slot`, by default one that covers all of it.
    ///
    /// - Parameter buffer: where in the request's buffer, in bytes.
    func submitStep(
        _ channel: ServiceChannel, _ slot: UInt16, _ opcode: DriverOpcode, flags: DriverFlags = [],
        volume: UInt32? = nil, offset: UInt64? = nil, length: UInt32? = nil, buffer: UInt64 = 0
    ) {
        let request = channel.slots[slot]
        let bytes = request.bufferBytes
        ports[Int(request.port)]?.submit(
            DriverRequest(
                opcode: opcode, flags: flags,
                index: volume ?? channel.handles[request.handle].index,
                tag: channel.tag(slot).rawValue,
                offset: offset ?? request.offset, length: UInt64(length ?? request.count),
                buffer: request.bufferOffset + buffer),
            flow: channel.flow, bytes: bytes)
    }

    /// What a request is answered with that was ended because its authority was.
    func withdrawnStatus(_ channel: ServiceChannel, _ slot: UInt16) -> Status {
        let denial = channel.handles[channel.slots[slot].handle].authority.denial
        if denial != .ok, denial != .badHandle { return denial }
        if let source = channel[copy: slot].flatMap({ channel.handles.holder(of: $0.source) }) {
            let denial = channel.handles[source].authority.denial
            if denial != .ok, denial != .badHandle { return denial }
        }
        return .fenced
    }

    // MARK: COPY_RANGE

    /// Takes in a COPY_RANGE whose payload is complete.
    func copy(_ channel: ServiceChannel, _ slot: UInt16, from source: CopySource) {
        channel[copy: slot] = CopyOperation(source: source.handle, sourceOffset: source.offset)
        submit(channel, slot)
    }

    func beginCopy(_ channel: ServiceChannel, _ slot: UInt16) {
        let request = channel.slots[slot]
        guard let copy = channel[copy: slot], let source = channel.handles.find(copy.source) else {
            return answer(channel, slot, .badHandle)
        }
        let status = judge(copy, request, from: channel.handles[source], to: channel.handles[request.handle])
        guard status == .ok else { return answer(channel, slot, status) }
        channel.handles[request.handle].running += 1
        channel.handles[source].running += 1
        channel.slots[slot].state = .running
        channel.slots[slot].way = .stepped
        goOn(channel, slot, copy)
    }

    private func judge(
        _ copy: CopyOperation, _ request: Slot, from source: Handle, to target: Handle
    ) -> Status {
        let demand = RequestDemand(
            kind: .volume, rights: .read, covers: true, moves: false, count: request.count,
            offset: copy.sourceOffset)
        let status = source.check(demand, now: lifeNow)
        guard status == .ok else { return status }
        guard source.port == target.port else { return .notSupported }
        let count = UInt64(request.count)
        let overlaps =
            source.resource == target.resource && copy.sourceOffset < request.offset + count
            && request.offset < copy.sourceOffset + count
        return overlaps ? .badRequest : .ok
    }

    /// Goes on when the driver has done a step of it.
    func copyStepEnded(
        _ channel: ServiceChannel, _ slot: UInt16, _ copy: CopyOperation, _ status: Status,
        _ completion: DriverCompletion
    ) {
        var copy = copy
        switch copy.step {
        case .map where status == .ok || status == .notSupported:
            copyMapped(channel, slot, copy, status == .ok ? completion : nil)
        case .read where status == .ok:
            copy.step = .write
            channel[copy: slot] = copy
            let offset = channel.slots[slot].offset + UInt64(copy.copied)
            submitStep(channel, slot, .write, offset: offset, length: copy.piece)
        case .write where status == .ok, .zeroes where status == .ok:
            copy.copied += copy.piece
            copy.extentLeft -= copy.piece
            goOn(channel, slot, copy)
        case .map, .read, .write, .zeroes: endCopy(channel, slot, status)
        }
    }

    /// Takes the next step of a copy, or ends it.
    private func goOn(_ channel: ServiceChannel, _ slot: UInt16, _ copy: CopyOperation) {
        let request = channel.slots[slot]
        if request.isWithdrawn { return endCopy(channel, slot, withdrawnStatus(channel, slot)) }
        guard copy.copied < request.count else { return endCopy(channel, slot, .ok) }
        guard let source = channel.handles.holder(of: copy.source) else {
            preconditionFailure("a handle stays while a copy reads from it")
        }
        let isMapped = copy.extentLeft > 0
        var copy = copy
        copy.step = isMapped ? .read : .map
        copy.piece = min(copy.extentLeft, UInt32(Limits.copyPieceBytes))
        channel[copy: slot] = copy
        submitStep(
            channel, slot, isMapped ? .read : .blockStatus, volume: channel.handles[source].index,
            offset: copy.sourceOffset + UInt64(copy.copied),
            length: isMapped ? copy.piece : request.count - copy.copied)
    }

    /// Goes on with the first extent of what is known; everything counts as data where nothing is.
    private func copyMapped(
        _ channel: ServiceChannel, _ slot: UInt16, _ copy: CopyOperation, _ completion: DriverCompletion?
    ) {
        let request = channel.slots[slot]
        let left = request.count - copy.copied
        let source = channel.handles.holder(of: copy.source)
        let blockSize = max(
            channel.handles[request.handle].volume?.blockSize ?? 1,
            source.flatMap { channel.handles[$0].volume?.blockSize } ?? 1)
        let extent = completion.flatMap { firstExtent(request, $0, blockSize: blockSize) }
        var copy = copy
        copy.extentLeft = UInt32(min(extent?.length ?? .max, UInt64(left)))
        guard extent?.flags.contains(.zero) == true, !request.isWithdrawn else {
            return goOn(channel, slot, copy)
        }
        copy.step = .zeroes
        copy.piece = copy.extentLeft
        channel[copy: slot] = copy
        submitStep(
            channel, slot, .writeZeroes, offset: request.offset + UInt64(copy.copied), length: copy.piece)
    }

    private func endCopy(_ channel: ServiceChannel, _ slot: UInt16, _ status: Status) {
        ended(channel, slot, DriverCompletion(tag: 0, status: status.rawValue, value: 0))
    }

    /// Lets go of the handle that a copy read from.
    func endSource(_ channel: ServiceChannel, _ slot: UInt16) {
        guard let copy = channel[copy: slot], let source = channel.handles.holder(of: copy.source) else {
            return
        }
        channel.handles[source].running -= 1
        settle(channel, source)
    }
}
