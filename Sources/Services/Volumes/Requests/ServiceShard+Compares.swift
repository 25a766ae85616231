import Core
import DriverKit
import Reactor
import Wire

/// Bytes that nothing may touch but the COMPARE_AND_WRITE that asked for them; one on each shard.
struct Exclusion {
    let id: UInt64
    let volume: Identifier
    let start: UInt64
    let end: UInt64
    /// Whose COMPARE_AND_WRITE it is.
    let owner: IOServices.ShardLink
    /// Requests for some of the bytes that drivers have had since before it began.
    var waitsFor = 0
}

/// A COMPARE_AND_WRITE of this shard.
struct Compare {
    let channel: ServiceChannel
    let slot: UInt16
    let volume: Identifier
    /// Those that hold others back for it; none while it waits for its turn.
    var shards: [IOServices.ShardLink] = []
    /// How many of them have not said yet that nothing else runs.
    var answersLeft = 0
}

/// COMPARE_AND_WRITE: a READ, a comparison and a WRITE, with everything else kept away from the bytes meanwhile.
///
/// First it waits for its turn among its like (`RangeReservations`). Then every shard holds back what would touch
/// the bytes and says when what was running has ended. Only then the bytes are read, compared here, and written.
///
/// It is done here and not by drivers, so that it survives the loss of a driver's host: who repeats a whole
/// COMPARE_AND_WRITE cannot know whether the bytes that are there are its own or another's that are alike. The READ
/// and the WRITE each can be repeated, and between them nobody changes anything.
extension ServiceShard {
    var link: IOServices.ShardLink {
        IOServices.ShardLink(
            number: ObjectIdentifier(self), remote: reactor.remote, shard: Confined(self))
    }

    func beginCompare(_ channel: ServiceChannel, _ slot: UInt16) {
        let request = channel.slots[slot]
        let volume = channel.handles[request.handle].resource
        let owner = link
        let (id, hasTurn) = services.reservations.withLock {
            $0.request(volume, offset: request.offset, count: request.count, owner: owner)
        }
        channel.slots[slot].state = .held
        channel[compare: slot] = CompareOperation(number: id)
        channel.handles[request.handle].held += 1
        compares[id] = Compare(channel: channel, slot: slot, volume: volume)
        if hasTurn { excludeOthers(id) }
    }

    /// Has every shard keep others away; goes on in `startCompare`. Nothing if it was given up meanwhile.
    private func excludeOthers(_ id: UInt64) {
        guard let compare = compares[id] else { return }
        let request = compare.channel.slots[compare.slot]
        let exclusion = Exclusion(
            id: id, volume: compare.volume, start: request.offset,
            end: request.offset + UInt64(request.count), owner: link)
        let shards = services.state.withLock { $0.shards }
        compares[id]?.shards = shards
        compares[id]?.answersLeft = shards.count
        for shard in shards {
            tell(shard) {
                $0.exclude(exclusion)
            } orElse: {
                $0.excluded(id)
            }
        }
    }

    /// Runs something on a shard's thread, at once if it is this one; what to do here if that shard has ended.
    private func tell(
        _ link: IOServices.ShardLink, _ body: @escaping @Sendable (ServiceShard) -> Void,
        orElse: (ServiceShard) -> Void = { _ in }
    ) {
        if link.number == ObjectIdentifier(self) { return body(self) }
        if !link.remote.post({ body(link.shard.value) }) { orElse(self) }
    }

    /// The bytes are free of others on one more shard.
    private func excluded(_ id: UInt64) {
        compares[id]?.answersLeft -= 1
        if compares[id]?.answersLeft == 0 { startCompare(id) }
    }

    private func startCompare(_ id: UInt64) {
        guard let compare = compares[id] else { return }
        let (channel, slot) = (compare.channel, compare.slot)
        let request = channel.slots[slot]
        channel.handles[request.handle].held -= 1
        channel.handles[request.handle].running += 1
        channel.slots[slot].state = .running
        channel.slots[slot].way = .stepped
        channel[compare: slot]?.step = .read
        guard lifeNow < channel.handles[request.handle].authority.terms.deadline else {
            return endCompare(channel, slot, .expired)
        }
        submitStep(channel, slot, .read, buffer: RequestRoom.found(request.count))
    }

    /// Goes on when the driver has done a step of it.
    func compareStepEnded(
        _ channel: ServiceChannel, _ slot: UInt16, _ compare: CompareOperation, _ status: Status
    ) {
        let request = channel.slots[slot]
        guard status == .ok else { return endCompare(channel, slot, status) }
        if case .write = compare.step { return endCompare(channel, slot, .ok) }
        if request.isWithdrawn { return endCompare(channel, slot, withdrawnStatus(channel, slot)) }
        if let place = firstDifference(request) {
            return endCompare(channel, slot, .miscompare, value: UInt64(place))
        }
        channel[compare: slot]?.step = .write
        submitStep(
            channel, slot, .write, flags: DriverFlags(rawValue: UInt8(truncatingIfNeeded: request.flags)),
            buffer: RequestRoom.written(request.count))
    }

    private func endCompare(
        _ channel: ServiceChannel, _ slot: UInt16, _ status: Status, value: UInt64 = 0
    ) {
        let compare = channel[compare: slot]
        ended(channel, slot, DriverCompletion(tag: 0, status: status.rawValue, value: value))
        if let compare { includeOthers(compare.number) }
    }

    /// Lets others have the bytes again. The shards hear it before the next has its turn.
    private func includeOthers(_ id: UInt64) { begin(forget(id)) }

    /// Forgets a COMPARE_AND_WRITE; returns those whose turn it is then.
    private func forget(_ id: UInt64) -> [(UInt64, IOServices.ShardLink)] {
        guard let compare = compares.removeValue(forKey: id) else { return [] }
        for shard in compare.shards { tell(shard) { $0.include(id) } }
        return services.reservations.withLock { $0.release(id, compare.volume) }
    }

    /// Gives them their turn. One that ends at once gives it to others here, however many there are, and not from within.
    private func begin(_ next: [(UInt64, IOServices.ShardLink)]) {
        turnsDue += next
        guard !isGivingTurns else { return }
        isGivingTurns = true
        while !turnsDue.isEmpty {
            let due = turnsDue
            turnsDue.removeAll(keepingCapacity: true)
            for (id, owner) in due { tell(owner) { $0.excludeOthers(id) } }
        }
        isGivingTurns = false
    }

    // MARK: On every shard

    private func exclude(_ exclusion: Exclusion) {
        var exclusion = exclusion
        exclusion.waitsFor = isStopped && target == nil ? 0 : countRunning(exclusion)
        exclusions.append(exclusion)
        if exclusion.waitsFor == 0 { answer(exclusion) }
    }

    private func answer(_ exclusion: Exclusion) {
        let id = exclusion.id
        tell(exclusion.owner) { $0.excluded(id) }
    }

    /// Runs what waited for an exclusion that is over, unless it has to wait for another.
    private func include(_ id: UInt64) {
        exclusions.removeAll { $0.id == id }
        let waiting = held
        held.removeAll(keepingCapacity: true)
        for (channel, slot) in waiting {
            let position = channel.slots[slot].handle
            channel.handles[position].held -= 1
            run(channel, slot, position)
            settle(channel, position)
        }
    }

    /// Whether a request has to wait. Those that exclude others themselves wait for their turn instead.
    func isExcluded(_ channel: ServiceChannel, _ slot: UInt16) -> Bool {
        channel.slots[slot].opcode != Opcode.compareAndWrite.rawValue
            && exclusions.contains { touches(channel, slot, $0) }
    }

    func hold(_ channel: ServiceChannel, _ slot: UInt16) {
        channel.slots[slot].state = .held
        channel.handles[channel.slots[slot].handle].held += 1
        held.append((channel, slot))
    }

    /// Ends what waits of a handle whose authority is gone: it never runs.
    func abandonHeld(_ channel: ServiceChannel, _ position: UInt8) {
        var gone: [UInt16] = []
        held.removeAll { entry in
            guard entry.channel === channel, channel.slots[entry.slot].handle == position else {
                return false
            }
            gone.append(entry.slot)
            return true
        }
        for compare in compares.values where compare.channel === channel {
            let request = channel.slots[compare.slot]
            if request.handle == position, request.state == .held { gone.append(compare.slot) }
        }
        // All of them are forgotten before another has its turn, which may be one of them until then.
        var next: [(UInt64, IOServices.ShardLink)] = []
        for slot in gone {
            let compare = channel[compare: slot]
            channel.handles[position].held -= 1
            if channel.isDetached {
                freeBuffer(channel, slot)
                channel.slots.drop(slot)
            } else {
                answer(channel, slot, channel.handles[position].authority.denial)
            }
            if let compare { next += forget(compare.number) }
        }
        begin(next)
    }

    /// A driver is done with a request: exclusions that waited for it may begin.
    func noteEnd(_ channel: ServiceChannel, _ slot: UInt16) {
        var begun: [Exclusion] = []
        for index in exclusions.indices
        where exclusions[index].waitsFor > 0 && touches(channel, slot, exclusions[index]) {
            exclusions[index].waitsFor -= 1
            if exclusions[index].waitsFor == 0 { begun.append(exclusions[index]) }
        }
        for exclusion in begun { answer(exclusion) }
    }

    private func countRunning(_ exclusion: Exclusion) -> Int {
        var count = 0
        for case let channel? in channels.all where channel.slots.unanswered > 0 {
            guard !channel.handles.positions(where: { $0.resource == exclusion.volume }).isEmpty else {
                continue
            }
            for index in 0..<UInt16(channel.slots.count)
            where channel.slots[index].state == .running && touches(channel, index, exclusion) {
                count += 1
            }
        }
        return count
    }

    /// Whether the request in `slot` reads or changes some of the bytes.
    private func touches(_ channel: ServiceChannel, _ slot: UInt16, _ exclusion: Exclusion) -> Bool {
        let request = channel.slots[slot]
        func overlaps(_ position: UInt8, _ offset: UInt64) -> Bool {
            channel.handles[position].resource == exclusion.volume && offset < exclusion.end
                && exclusion.start < offset + UInt64(request.count)
        }
        switch Opcode(rawValue: request.opcode) {
        case .read, .write, .writeZeroes, .discard, .compareAndWrite:
            return overlaps(request.handle, request.offset)
        case .copyRange:
            guard let copy = channel[copy: slot], let source = channel.handles.holder(of: copy.source) else {
                return overlaps(request.handle, request.offset)
            }
            return overlaps(request.handle, request.offset) || overlaps(source, copy.sourceOffset)
        default: return false
        }
    }
}
