import Capability
import Core
import Reactor
import Wire

/// Ceilings on operations and bytes: which ones a handle has, and requests that wait for them.
extension ServiceShard {
    // MARK: Which ceilings

    /// Holds a handle to the ceilings of a capability, which replace those that it had.
    func limit(_ channel: ServiceChannel, _ position: UInt8, by capability: EffectiveCapability) {
        let before = channel.handles[position].capabilityGate
        // A ceiling that is the same goes on counting, so that a client earns nothing by renewing often.
        let previous = gates.rootBudget(before)
        let ofGrant = joinGrant(of: capability)
        var gate = ofGrant
        for scope in capability.rateScopes {
            let limits = RateLimits(scope.limits)
            if limits.isUnlimited { continue }
            let subject = RateSubject.capability(capability.id, scope)
            if let known = gates.join(subject) {
                leave(gate)
                gate = known
                continue
            }
            let after = gate == ofGrant && previous?.limits == limits ? previous : nil
            let budget = services.acquire(subject, limits, now: reactor.now, after: after)
            gate = gates.insert(subject, budget, parent: gate)
        }
        change(channel, position) { $0.capabilityGate = gate }
        leave(before)
    }

    /// The gate of all capabilities of a capability's grant, with one more user; none where the grant has no ceilings.
    private func joinGrant(of capability: EffectiveCapability) -> Int32 {
        guard let ceiling = services.configuration.grantCeiling(capability.id) else { return RateGates.none }
        let limits = RateLimits(ceiling.limits)
        if limits.isUnlimited { return RateGates.none }
        let subject = RateSubject.grant(ceiling.grant)
        if let known = gates.join(subject) { return known }
        let budget = services.acquire(subject, limits, now: reactor.now)
        return gates.insert(subject, budget, parent: RateGates.none)
    }

    /// Puts a grant's new ceilings in force for those that have had some; what waits is looked at again.
    func grantLimitsChanged(_ grant: Identifier) {
        let subject = RateSubject.grant(grant)
        guard let gate = gates.find(subject), let budget = services.budget(of: subject) else { return }
        gates.use(budget, at: gate)
        runDelayed()
    }

    /// Holds a handle to the ceilings that its resource has now.
    func limitByResource(_ channel: ServiceChannel, _ position: UInt8) {
        let id = channel.handles[position].resource
        let before = channel.handles[position].resourceGate
        let subject = RateSubject.resource(id)
        var gate = RateGates.none
        if services.isLimited(id), let known = gates.join(subject) {
            gate = known
        } else if let budget = services.acquireBudget(ofResource: id, now: reactor.now) {
            gate = gates.insert(subject, budget, parent: RateGates.none)
        }
        change(channel, position) { $0.resourceGate = gate }
        leave(before)
    }

    /// Puts a resource's new ceilings in force; what waits for the old ones is looked at again.
    func resourceLimitsChanged(_ id: Identifier) {
        let subject = RateSubject.resource(id)
        if let gate = gates.find(subject), let budget = services.budget(of: subject) {
            gates.use(budget, at: gate)
        }
        for case let channel? in channels.all {
            for position in channel.handles.positions(where: { $0.resource == id }) {
                limitByResource(channel, position)
            }
        }
        runDelayed()
    }

    /// Ends the part of a handle that is freed in all ceilings.
    func unlimit(_ channel: ServiceChannel, _ position: UInt8) {
        leave(channel.handles[position].capabilityGate)
        leave(channel.handles[position].resourceGate)
    }

    private func leave(_ gate: Int32) {
        guard gate != RateGates.none else { return }
        for subject in gates.leave(gate) { services.release(subject, now: reactor.now) }
    }

    /// Changes the gates of a handle, which may be waiting at some.
    private func change(_ channel: ServiceChannel, _ position: UInt8, _ body: (inout Handle) -> Void) {
        let isWaiting = !channel.handles[position].delayed.isEmpty
        if isWaiting { addWaiting(channel.handles[position], -1) }
        body(&channel.handles[position])
        if isWaiting { addWaiting(channel.handles[position], 1) }
    }

    private func addWaiting(_ handle: Handle, _ more: Int) {
        gates.addWaiting(handle.capabilityGate, more)
        gates.addWaiting(handle.resourceGate, more)
    }

    // MARK: Requests

    /// Has a request wait for the ceilings of its handle; false when it need not, and has been counted.
    func mustWait(_ channel: ServiceChannel, _ slot: UInt16, _ position: UInt8) -> Bool {
        let (first, second) = (
            channel.handles[position].capabilityGate, channel.handles[position].resourceGate
        )
        let wasEmpty = channel.handles[position].delayed.isEmpty
        let wait = max(gates.wait(first, now: reactor.now), gates.wait(second, now: reactor.now))
        if wait == 0, wasEmpty, !gates.hasWaiting(first), !gates.hasWaiting(second) {
            count(channel, slot, position)
            return false
        }
        statistics.delayed &+= 1
        channel.slots[slot].state = .delayed
        channel.slots.append(slot, to: &channel.handles[position].delayed)
        if wasEmpty {
            delayed.append((channel, position))
            addWaiting(channel.handles[position], 1)
        }
        armDelay(reactor.now &+ max(wait, 1))
        return true
    }

    private func count(_ channel: ServiceChannel, _ slot: UInt16, _ position: UInt8) {
        let count = channel.slots[slot].limitedBytes
        gates.take(channel.handles[position].capabilityGate, count: count, now: reactor.now)
        gates.take(channel.handles[position].resourceGate, count: count, now: reactor.now)
    }

    private func armDelay(_ due: UInt64) {
        guard due < delayDue, let target else { return }
        if let delayTimer { reactor.cancelTimer(delayTimer) }
        delayDue = due
        let now = reactor.now
        delayTimer = reactor.setTimer(
            after: due > now ? due - now : 0, target: target, token: Self.delayToken)
    }

    /// Runs the delayed requests that are due, one of each handle in turn, and sets the timer for the next.
    func runDelayed() {
        if let delayTimer { reactor.cancelTimer(delayTimer) }
        delayTimer = nil
        delayDue = .max
        repeat {
            swap(&delayed, &delayedNow)
            for (channel, position) in delayedNow { runDelayed(channel, position) }
            delayedNow.removeAll(keepingCapacity: true)
            if delayedServed.isEmpty { break }
            // A handle that had a turn is the last to have the next one.
            delayed.append(contentsOf: delayedServed)
            delayedServed.removeAll(keepingCapacity: true)
        } while !delayed.isEmpty
        var wait = UInt64.max
        for (channel, position) in delayed {
            let handle = channel.handles[position]
            let own = max(
                gates.wait(handle.capabilityGate, now: reactor.now),
                gates.wait(handle.resourceGate, now: reactor.now))
            wait = min(wait, own)
        }
        if !delayed.isEmpty { armDelay(reactor.now &+ max(wait, 1)) }
    }

    /// Runs the first delayed request of a handle, if it may; puts the handle back if more wait.
    private func runDelayed(_ channel: ServiceChannel, _ position: UInt8) {
        let (first, second) = (
            channel.handles[position].capabilityGate, channel.handles[position].resourceGate
        )
        guard gates.wait(first, now: reactor.now) == 0, gates.wait(second, now: reactor.now) == 0 else {
            return delayed.append((channel, position))
        }
        guard let slot = channel.slots.pop(from: &channel.handles[position].delayed) else { return }
        count(channel, slot, position)
        if channel.handles[position].delayed.isEmpty {
            addWaiting(channel.handles[position], -1)
        } else {
            delayedServed.append((channel, position))
        }
        run(channel, slot, position)
        settle(channel, position)
    }

    /// Ends what waits for the ceilings of a handle whose authority is gone, or for others: it never runs.
    func abandonDelayed(_ channel: ServiceChannel, _ position: UInt8) {
        if channel.handles[position].held > 0 { abandonHeld(channel, position) }
        guard !channel.handles[position].delayed.isEmpty else { return }
        addWaiting(channel.handles[position], -1)
        while let slot = channel.slots.pop(from: &channel.handles[position].delayed) {
            if channel.isDetached {
                freeBuffer(channel, slot)
                channel.slots.drop(slot)
            } else {
                answer(channel, slot, channel.handles[position].authority.denial)
            }
        }
        delayed.removeAll { $0.channel === channel && $0.position == position }
    }
}

extension Handle {
    /// Whether its requests have a ceiling.
    @inline(__always)
    var isLimited: Bool { capabilityGate & resourceGate != RateGates.none }
}
