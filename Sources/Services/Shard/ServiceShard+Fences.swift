import Core
import DriverKit
import Reactor
import Wire

/// Which handles lose their authority.
enum HandleSelector: Sendable {
    /// Those of a capability, and of what was attenuated from it.
    case capability(Identifier)
    /// Those of several.
    case capabilities(Set<Identifier>)
    /// Those of a node's capabilities; with an epoch, only those of another epoch.
    case node(Identifier, keeping: UInt64?)
    /// Those on a resource; with an epoch, only those of another epoch.
    case resource(Identifier, keeping: UInt64?)

    func selects(_ handle: Handle) -> Bool { selects(handle.resource, handle.authority.terms) }

    /// Whether it names what a capability of such terms gives of a resource, also what a lost handle left behind.
    func selects(_ resource: Identifier, _ terms: CapabilityTerms) -> Bool {
        switch self {
        case .capability(let id): terms.capability == id
        case .capabilities(let ids): ids.contains(terms.capability)
        case .node(let id, let epoch): terms.subject == id && (epoch == nil || terms.nodeEpoch != epoch)
        case .resource(let id, let epoch):
            resource == id && (epoch == nil || terms.resourceEpoch != epoch)
        }
    }
}

/// Somebody who waits until nothing of some handles is in flight any more.
final class Fence {
    struct Key: Hashable {
        let channel: UInt32
        let position: UInt8
    }

    var waitsFor: Set<Key> = []
    let done: () -> Void

    init(done: @escaping () -> Void) {
        self.done = done
    }
}

/// Taking authority away, and knowing when it has had its effect.
extension ServiceShard {
    /// Ends the authority of the handles that `selector` names: from now on their requests are answered with
    /// `status`, and `done` runs when what the driver had of them has ended.
    func fence(_ selector: HandleSelector, status: Status, reason: String, done: @escaping () -> Void) {
        let fence = Fence(done: done)
        var running: [UInt8: Set<RequestTag>] = [:]
        for case let channel? in channels.all {
            for position in channel.handles.positions(where: selector.selects) {
                revoke(channel, position, status: status, reason: reason)
                if !channel.handles[position].isQuiet {
                    fence.waitsFor.insert(Fence.Key(channel: channel.number, position: position))
                    collectRunning(channel, position, into: &running)
                }
                settle(channel, position)
            }
        }
        if fence.waitsFor.isEmpty { return done() }
        fences.append(fence)
        withdraw(running, status: status)
    }

    /// The sessions that have such handles, and whether they may write with one of them.
    func holders(_ selector: HandleSelector) -> [Identifier: Bool] {
        var holders: [Identifier: Bool] = [:]
        for case let channel? in channels.all {
            guard let session = channel.session else { continue }
            for position in channel.handles.positions(where: selector.selects) {
                holders[session, default: false] =
                    holders[session] == true || channel.handles[position].holdsClaim
            }
        }
        return holders
    }

    /// Adds the tags of what drivers have of a channel, or of one of its handles, by port.
    private func collectRunning(
        _ channel: ServiceChannel, _ position: UInt8?, into running: inout [UInt8: Set<RequestTag>]
    ) {
        for index in 0..<UInt16(channel.slots.count) {
            let slot = channel.slots[index]
            guard slot.state == .running, position.map({ channel.uses(index, $0) }) ?? true else { continue }
            running[slot.port, default: []].insert(channel.tag(index))
        }
    }

    /// Ends what drivers have not begun, and has the rest ended soon: who asked was cut off, and somebody waits.
    private func withdraw(_ running: [UInt8: Set<RequestTag>], status: Status) {
        for (number, tags) in running {
            guard let port = ports[Int(number)] else { continue }
            for tag in tags {
                channels[tag.channel]?.slots[tag.slot].isWithdrawn = true
            }
            for tag in port.withdraw(tags, status: status) {
                complete(DriverCompletion(tag: tag.rawValue, status: status.rawValue, value: 0), port: port)
            }
        }
    }

    /// Ends what drivers have of a channel for whose end somebody waits: who ended its session, or the server.
    func withdrawAll(_ channel: ServiceChannel) {
        var running: [UInt8: Set<RequestTag>] = [:]
        collectRunning(channel, nil, into: &running)
        withdraw(running, status: .fenced)
    }

    /// Takes back what drivers have not begun of a lost channel, so that whoever resumes it waits for no more than
    /// it must. What drivers have begun they finish: a slow driver is no reason to end its host.
    func dropUnstarted(_ channel: ServiceChannel) {
        var running: [UInt8: Set<RequestTag>] = [:]
        collectRunning(channel, nil, into: &running)
        for (number, tags) in running {
            guard let port = ports[Int(number)] else { continue }
            // A request of several steps may have done some of them: it goes on to its end.
            let whole = tags.filter { channel.slots[$0.slot].way != .stepped }
            for tag in port.takeBack(whole) {
                let slot = tag.slot
                if !exclusions.isEmpty { noteEnd(channel, slot) }
                port.completed(flow: channel.flow, bytes: channel.slots[slot].bufferBytes)
                channel.handles[channel.slots[slot].handle].running -= 1
                freeBuffer(channel, slot)
                channel.slots.drop(slot)
            }
        }
    }

    private func revoke(_ channel: ServiceChannel, _ position: UInt8, status: Status, reason: String) {
        let denial = channel.handles[position].authority.denial
        guard denial == .ok || denial == .expired else { return }
        let isClosing = channel.handles[position].isClosing
        channel.handles[position].authority.denial = status
        abandonDelayed(channel, position)
        letGo(channel, position)
        guard !isClosing, !channel.isDetached else { return }
        channel.push(.revoked(handle: channel.handles.id(position), status: status, reason: reason))
        accessLog.info(
            "handle revoked",
            [
                "session": "\(channel.session ?? .zero)", "peer": "\(channel.peerAddress)",
                "capability": "\(channel.handles[position].authority.terms.capability)",
                "\(channel.handles[position].opened.noun)": "\(channel.handles[position].resource)",
                "status": "\(status.name)",
                "reason": "\(reason)",
            ])
    }

    /// Draws the consequences when a handle that may run nothing more has nothing in flight: the writer's place is
    /// free, fences are passed, CLOSE is answered. Does nothing for a handle in use.
    @inline(__always)
    func settle(_ channel: ServiceChannel, _ position: UInt8) {
        if channel.handles[position].authority.denial == .ok, !channel.handles[position].isClosing { return }
        if channel.handles[position].isQuiet { settleQuiet(channel, position) }
    }

    private func settleQuiet(_ channel: ServiceChannel, _ position: UInt8) {
        releaseClaim(channel, position)
        let key = Fence.Key(channel: channel.number, position: position)
        if !fences.isEmpty {
            for fence in fences { fence.waitsFor.remove(key) }
            let passed = fences.filter { $0.waitsFor.isEmpty }
            fences.removeAll { $0.waitsFor.isEmpty }
            for fence in passed { fence.done() }
        }
        guard channel.handles[position].isClosing else { return }
        let closeRequest = channel.handles[position].closeRequest
        let capability = channel.handles[position].authority.terms.capability
        let resource = channel.handles[position].resource
        let noun = channel.handles[position].opened.noun
        unlimit(channel, position)
        channel.handles.remove(position)
        guard let closeRequest else { return }
        // Nobody is there to be answered: a CLOSE that kept its slot would keep the channel, and its session, for ever.
        guard !channel.isDetached else { return channel.slots.abandon(closeRequest) }
        accessLog.info(
            "close",
            [
                "by": "key:\(channel.thumbprint)",
                "session": "\(channel.session ?? .zero)", "peer": "\(channel.peerAddress)",
                "capability": "\(capability)", "\(noun)": "\(resource)",
            ])
        answer(channel, closeRequest, .ok)
    }

    /// Gives up the writer's place that the handle counts for.
    func releaseClaim(_ channel: ServiceChannel, _ position: UInt8) {
        guard let session = channel.session else { return }
        let handle = channel.handles[position]
        let number = channel.sessionChannel
        switch handle.claim {
        case .held:
            let terms = handle.authority.terms
            let lapses = handle.authority.denial == .expired && !handle.isClosing
            let end: ClaimEnd = channel.isLost ? .lost(terms) : lapses ? .lapsed(terms) : .closed
            channel.handles[position].claim = lapses && !channel.isLost ? .lapsed : .none
            services.endClaim(of: handle.resource, session: session, channel: number, end)
        case .lapsed:
            guard channel.isLost || handle.isClosing else { return }
            channel.handles[position].claim = .none
            services.endLapsed(
                of: handle.resource, session: session, channel: number, isLost: channel.isLost)
        case .none:
            // The handle could write and cannot any more: others may write, and what its client would repeat comes
            // too late.
            guard channel.isLost, handle.accessMode == .singleWriter, handle.authority.mayChange else {
                return
            }
            services.leaveNothing(of: session, channel: number)
        }
    }

    /// Ends the connections of a session; its channels wait for their client.
    func disconnect(_ session: Identifier, reason: String) {
        for case let channel? in channels.all where channel.session == session && !channel.isDetached {
            if let owner = channel.owner { owner.channelIsDisconnected(reason) } else { detach(channel) }
        }
    }

    /// Closes the channels of a session for good; `done` runs when nothing of them is in flight any more.
    func endSession(_ session: Identifier, reason: String, done: @escaping () -> Void) {
        let members = channels.all.compactMap { $0?.session == session ? $0 : nil }
        guard !members.isEmpty else { return done() }
        var left = members.count
        for channel in members {
            channel.endWaiters.append {
                left -= 1
                if left == 0 { done() }
            }
            channel.isCutOff = true
            for position in channel.handles.positions(where: {
                $0.authority.denial == .ok || $0.authority.denial == .expired
            }) {
                channel.handles[position].authority.denial = .fenced
                abandonDelayed(channel, position)
                letGo(channel, position)
            }
            if !channel.isDetached {
                if let owner = channel.owner { owner.channelMustClose(reason) } else { detach(channel) }
            }
            // The connection may stay for a moment, until the client has seen its end.
            withdrawAll(channel)
        }
    }

    /// Tells the driver's queue and the clients of a volume that its size has changed.
    func resized(_ volume: Identifier, index: UInt32, port: UInt8, size: UInt64) {
        if Int(port) < ports.count { ports[Int(port)]?.queue?.indexChanged(index) }
        for case let channel? in channels.all where !channel.isDetached {
            for position in channel.handles.positions(where: {
                $0.resource == volume && $0.volume?.size != size
            }) {
                channel.handles[position].volume?.size = size
                if !channel.handles[position].isClosing,
                    channel.handles[position].authority.denial != .badHandle
                {
                    channel.push(.resized(handle: channel.handles.id(position), size: size))
                }
            }
        }
    }

    // MARK: Expiry

    /// Starts looking for capabilities that end; goes on while any handle is open.
    func armSweep() {
        guard sweepTimer == nil, let target else { return }
        sweepTimer = reactor.setTimer(
            after: Limits.expirySweepNanoseconds, target: target, token: Self.sweepToken)
    }

    /// Announces capabilities that end soon, and those that have ended unannounced; the claims of these may be taken by
    /// whoever asks.
    func sweepExpiry() {
        sweepTimer = nil
        let now = services.configuration.lifeClock.now()
        var hasHandles = false
        for case let channel? in channels.all where !channel.isDetached {
            for position in channel.handles.positions(where: { $0.isUsable }) {
                hasHandles = true
                if now >= channel.handles[position].authority.noticeDue,
                    !channel.handles[position].authority.expiryAnnounced
                {
                    channel.handles[position].authority.expiryAnnounced = true
                    let expiry = channel.handles[position].authority.terms.expiry
                    channel.push(.expiring(handle: channel.handles.id(position), expiry: expiry))
                }
                if now >= channel.handles[position].authority.terms.deadline {
                    channel.handles[position].authority.denial = .expired
                    abandonDelayed(channel, position)
                    settle(channel, position)
                }
            }
        }
        if hasHandles { armSweep() }
    }
}
