import Core
import DriverKit
import Reactor
import Wire

/// What becomes of a request that was offered.
public enum Intake {
    /// Nothing more of it comes; it runs, or its answer waits.
    case done
    /// Read its payload and drop it; its answer waits.
    case skip
    /// Read its payload into `ServiceShard.payloadBuffer` of this slot, then call `payloadArrived`.
    case payload(slot: UInt16)
    /// Collect and read its payload, then call `ServiceShard.control`.
    case body
    /// There is no room for it now: offer the same request again after `ChannelOwner.channelMayContinue`.
    case wait
    /// Its answer is the channel's last: send what waits, then close.
    case end
}

/// The services of one data reactor: channels, handles, requests in flight.
///
/// Confined to the reactor's thread. A request on a handle touches nothing that another thread uses.
public final class ServiceShard {
    let services: IOServices
    let reactor: Reactor
    var ports = ObjectTable<DriverPort>()
    var channels = ObjectTable<ServiceChannel>()
    private var connections: UInt64 = 0
    /// HELLOs that wait for the end of the connection that they take the place of.
    var greetings: [UInt64: WaitingGreeting] = [:]
    var freeChannels: [UInt32] = []
    var statistics = Statistics()
    /// How often it has checked the signatures of a capability; wraps.
    public internal(set) var signaturesChecked: UInt64 = 0
    /// Where it says what it is at.
    let marker: ReactorPulse.Marker
    /// What a watchdog may know of it.
    let sight = ShardSight()
    /// Requests at which servers before this one stood; nearly always none.
    let suspects: Suspects
    var accessLog: AccessLog
    /// Channels that were told to wait and can go on, in the order in which that became so.
    private var ready: [ServiceChannel] = []
    /// Those that are being woken; empty otherwise.
    private var waking: [ServiceChannel] = []
    /// Runs while channels wait for room.
    private var roomTimer: TimerID?
    /// How many channels wait for room in some arena.
    private(set) var waitingForRoom = 0
    var isBatchEndScheduled = false
    /// Handles with requests that wait for a rate limit.
    var delayed: [(channel: ServiceChannel, position: UInt8)] = []
    /// Those that are being looked at; empty otherwise.
    var delayedNow: [(channel: ServiceChannel, position: UInt8)] = []
    /// Those of them of which a request ran and more wait; empty otherwise.
    var delayedServed: [(channel: ServiceChannel, position: UInt8)] = []
    var gates = RateGates()
    var delayTimer: TimerID?
    /// When `delayTimer` fires, in the reactor's nanoseconds.
    var delayDue: UInt64 = .max
    var sweepTimer: TimerID?
    var flows = Flows()
    var activity = ActivityMeter()
    /// Runs while there are sessions without a connection.
    var sessionTimer: TimerID?
    /// Fires when a drain's time is over.
    var drainTimer: TimerID?
    var fences: [Fence] = []
    /// Bytes that nothing may touch while a COMPARE_AND_WRITE of some shard has them.
    var exclusions: [Exclusion] = []
    /// Requests that wait for one of them.
    var held: [(channel: ServiceChannel, slot: UInt16)] = []
    /// COMPARE_AND_WRITEs of this shard, by number.
    var compares: [UInt64: Compare] = [:]
    /// COMPARE_AND_WRITEs of any shard whose turn it is, and which have not been told yet.
    var turnsDue: [(UInt64, IOServices.ShardLink)] = []
    var isGivingTurns = false
    /// Requests that devices have failed, by resource.
    var failures: [Identifier: FailureSeries] = [:]
    var isStopped = false
    var target: TargetID?

    private var lifeRead: UInt64
    private var lifeReadAt: UInt64

    init(services: IOServices, reactor: Reactor) {
        self.services = services
        self.reactor = reactor
        marker = reactor.marker
        suspects = services.configuration.suspects
        accessLog = AccessLog(logger: services.configuration.logger)
        lifeRead = services.configuration.lifeClock.now()
        lifeReadAt = reactor.now
        target = reactor.register(ShardEvents(shard: self))
    }

    /// Nanoseconds of the clock for lives, at most a quarter of a second old.
    @inline(__always)
    var lifeNow: UInt64 {
        if reactor.now &- lifeReadAt > 250_000_000 { readLifeClock() }
        return lifeRead
    }

    private func readLifeClock() {
        lifeReadAt = reactor.now
        lifeRead = services.configuration.lifeClock.now()
    }

    // MARK: Channels

    /// Takes in a connection whose TLS handshake is done; nil when the shard has its most channels or is stopping.
    public func attach(
        owner: any ChannelOwner, thumbprint: Digest32, peerAddress: String
    ) -> ServiceChannel? {
        guard !isStopped else { return nil }
        let number: UInt32
        if let free = freeChannels.popLast() {
            number = free
        } else if channels.count < Limits.channelsPerShardMax {
            number = UInt32(channels.count)
            channels.append(nil)
        } else {
            return nil
        }
        connections += 1
        let channel = ServiceChannel(
            number: number, connection: connections, thumbprint: thumbprint, peerAddress: peerAddress,
            owner: owner)
        channels[Int(number)] = channel
        sight.attached(channel)
        return channel
    }

    /// Gives up a channel whose connection is gone: what it has not started never runs, and it ends when what the
    /// driver has is done. Unless the client has closed it, a resumable channel is kept then.
    public func detach(_ channel: ServiceChannel, isClosedByClient: Bool = false) {
        guard !channel.isDetached else { return }
        channel.isDetached = true
        channel.isClosedByClient = isClosedByClient
        channel.isLost = channel.isResumable && !isClosedByClient && channel.session != nil
        endStall(channel)
        channel.owner = nil
        channel.messages.removeAll()
        for index in 0..<UInt16(channel.slots.count) {
            switch channel.slots[index].state {
            case .receiving:
                freeBuffer(channel, index)
                channel.slots.drop(index)
            case .replied, .sending:
                freeBuffer(channel, index)
                channel.slots.release(index)
            case .idle, .delayed, .held, .running, .deciding: break
            }
        }
        if channel.isLost { dropUnstarted(channel) }
        for position in channel.handles.positions(where: { _ in true }) {
            abandonDelayed(channel, position)
            channel.handles[position].authority.denial = .badHandle
            channel.handles[position].isClosing = true
            settle(channel, position)
        }
        if channel.isCutOff { withdrawAll(channel) }
        finishIfEnded(channel)
    }

    /// Ends a detached channel when nothing of it is in flight any more.
    func finishIfEnded(_ channel: ServiceChannel) {
        guard channel.isDetached, channel.slots.unanswered == 0, channels[Int(channel.number)] === channel
        else { return }
        leaveFlow(channel)
        sight.ended(channel)
        channels[Int(channel.number)] = nil
        atBatchEnd()
        freeChannels.append(channel.number)
        partWithSession(channel)
        let waiters = channel.endWaiters
        channel.endWaiters = []
        for waiter in waiters { waiter() }
    }

    /// Closes every channel, for the end of the server. `done` runs when nothing is in flight: what drivers have not begun, or
    /// no driver can do now, never runs, and clients repeat it with the next server.
    public func stop(_ done: @escaping () -> Void) {
        isStopped = true
        let live = channels.all.compactMap { $0 }
        guard !live.isEmpty else { return finishStop(done) }
        var left = live.count
        for channel in live {
            channel.endWaiters.append { [self] in
                left -= 1
                if left == 0 { finishStop(done) }
            }
            channel.isCutOff = true
            if channel.isDetached {
                withdrawAll(channel)
                continue
            }
            if let owner = channel.owner {
                owner.channelMustClose("the server is stopping")
            } else {
                detach(channel)
            }
        }
    }

    private func finishStop(_ done: () -> Void) {
        for port in ports.all { port?.stop() }
        ports.removeAll()
        atBatchEnd()
        for fence in fences { fence.done() }
        fences.removeAll()
        services.remove(shard: self)
        if let target {
            reactor.unregister(target)
            self.target = nil
        }
        done()
    }

    // MARK: Room

    /// Puts a channel to sleep until something of its own has been sent.
    func stall(_ channel: ServiceChannel, _ why: ServiceChannel.Stall) -> Intake {
        channel.stall = why
        return .wait
    }

    /// Puts a channel to sleep until there is room for `bytes` in the arena of a pool.
    func stall(_ channel: ServiceChannel, at port: DriverPort, bytes: Int) -> Intake {
        channel.wantedBytes = bytes
        port.wait(channel, bytes: bytes)
        waitingForRoom += 1
        armRoomTimer()
        return stall(channel, .room(port: port.number))
    }

    private func armRoomTimer() {
        guard roomTimer == nil, let target else { return }
        roomTimer = reactor.setTimer(after: Limits.roomLookNanoseconds, target: target, token: Self.roomToken)
    }

    /// Has those give way that hold what others of their nodes wait for, and do nothing with it.
    fileprivate func lookForRoom() {
        roomTimer = nil
        guard waitingForRoom > 0 else { return }
        let waiting = ports.all.reduce(into: Set<UInt32>()) { $0.formUnion($1?.waitingShares ?? []) }
        for case let channel? in channels.all
        where channel.chargedBytes > 0 && !channel.isDetached && waiting.contains(channel.share) {
            channel.owner?.channelIsInTheWay()
        }
        armRoomTimer()
    }

    /// Has a channel that sleeps be offered its request again at the end of the batch.
    func endStall(_ channel: ServiceChannel) {
        switch channel.stall {
        case .nothing, .over: return
        case .own: break
        case .room(let port):
            if ports[Int(port)]?.endWait(channel) == true { waitingForRoom -= 1 }
        }
        channel.stall = .over
        ready.append(channel)
        atBatchEnd()
    }

    /// Lets channels try again, at the end of the batch, because something of `channel` was given back.
    @inline(__always)
    func roomWasMade(of channel: ServiceChannel) {
        if case .own = channel.stall { endStall(channel) }
        if waitingForRoom > 0 { atBatchEnd() }
    }

    @inline(__always)
    func atBatchEnd() {
        guard !isBatchEndScheduled else { return }
        isBatchEndScheduled = true
        reactor.atBatchEnd(self)
    }

    /// Lets channels try again that have waited for what there is now.
    private func wakeStalled() {
        if waitingForRoom > 0 {
            let before = ready.count
            for port in ports.all { port?.takeWaiters(into: &ready) }
            for channel in ready[before...] { channel.stall = .over }
            waitingForRoom -= ready.count - before
        }
        guard !ready.isEmpty else { return }
        swap(&ready, &waking)
        for channel in waking where channel.stall == .over {
            channel.stall = .nothing
            channel.owner?.channelMayContinue()
        }
        waking.removeAll(keepingCapacity: true)
    }
}

extension ServiceShard: BatchTarget {
    /// Wakes the channels that wait for room, and lets go of those that have ended.
    public func batchEnded() {
        isBatchEndScheduled = false
        wakeStalled()
        channels.forgetRemoved()
        ports.forgetRemoved()
    }
}

/// The shard's timers; apart from the shard, so that the reactor's hold on it makes no cycle.
private final class ShardEvents: CompletionTarget {
    private weak var shard: ServiceShard?

    init(shard: ServiceShard) {
        self.shard = shard
    }

    func completed(token: UInt32, result: Int32, flags: CompletionFlags) {
        switch token {
        case ServiceShard.delayToken: shard?.runDelayed()
        case ServiceShard.sweepToken: shard?.sweepExpiry()
        case ServiceShard.drainToken: shard?.endDrain()
        case ServiceShard.sessionToken: shard?.sweepSessions()
        case ServiceShard.roomToken: shard?.lookForRoom()
        default: break
        }
    }
}

extension ServiceShard {
    static let delayToken: UInt32 = 1
    static let sweepToken: UInt32 = 2
    static let sessionToken: UInt32 = 3
    static let drainToken: UInt32 = 4
    static let roomToken: UInt32 = 64
}
