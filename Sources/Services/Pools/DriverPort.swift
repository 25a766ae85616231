import Core
import DriverKit
import Reactor
import Wire

/// Why a pool's requests wait for its driver.
enum DriverAbsence: Sendable, Hashable {
    /// They do not.
    case none
    /// Its host was lost, and another one is being started.
    case recovering
    /// Too many were lost, and an administrator is to start another.
    case quarantined(String)

    /// What clients hear of it.
    func event(handle: UInt32) -> ChannelEvent {
        switch self {
        case .none: .driverRecovering(handle: handle, isRecovering: false)
        case .recovering: .driverRecovering(handle: handle, isRecovering: true)
        case .quarantined(let reason): .driverQuarantined(handle: handle, reason: reason)
        }
    }
}

/// One shard's way to one pool: the arena, the rings and the driver's queue on this reactor.
///
/// Confined to the reactor's thread. The driver is called once a batch, however many requests there are.
final class DriverPort: BatchTarget {
    let number: UInt8
    let pool: Pool
    let arena: Arena
    let allocator: ArenaAllocator
    let submissions: SubmissionRing
    let completions: CompletionRing
    private(set) var queue: (any DriverQueue)?
    /// What sessions want of the driver and it does not have yet.
    private var fair = FairQueue()
    /// What nodes have of the arena.
    private var shares: NodeShares
    /// Channels whose next request finds no room in it.
    private var waiters = RoomWaiters()
    /// What notes changes of its volumes; empty in a pool of anything else.
    private var markers = MarkerTable()
    /// Flushes of the server's own, and who waits for them.
    private var flushes: [RequestTag: (Status) -> Void] = [:]
    private var flushesBegun: UInt64 = 0
    /// The shard drops its ports in `ServiceShard.stop`, which ends this cycle.
    private let shard: ServiceShard
    private let reactor: Reactor
    /// Why requests wait for the driver, if they do.
    var absence = DriverAbsence.none
    private var isScheduled = false
    private var hasSubmissions = false

    init(pool: Pool, shard: ServiceShard, reactor: Reactor, arenaBytes: Int) throws(StatusError) {
        self.pool = pool
        self.shard = shard
        self.reactor = reactor
        number = pool.number
        arena = try Arena(bytes: arenaBytes)
        shares = NodeShares(arenaBytes: arena.bytes)
        allocator = ArenaAllocator(arena: arena)
        submissions = SubmissionRing(capacity: Limits.driverRingEntries)
        completions = CompletionRing(capacity: Limits.driverRingEntries)
        queue = try pool.driver.makeQueue(
            reactor: reactor, arena: arena, submissions: submissions, completions: completions,
            onCompletions: { [unowned self] in schedule() })
        shard.sight.added(port: number, submissions)
    }

    // MARK: Credits

    /// A buffer for a request of a channel; nil when the arena, or its session's or its node's part of it, is used up.
    @inline(__always)
    func allocate(_ bytes: Int, for channel: ServiceChannel) -> ArenaBuffer? {
        let (flow, share) = (channel.flow, channel.share)
        fair.touch(flow, now: reactor.now)
        guard mayTake(bytes, flow: flow, share: share, free: freeBytes),
            let buffer = allocator.allocate(bytes)
        else { return nil }
        fair.charge(Int(buffer.bytes), flow: flow)
        shares.charge(Int(buffer.bytes), share: share)
        return buffer
    }

    @inline(__always)
    private var freeBytes: Int { arena.bytes - allocator.usedBytes }

    @inline(__always)
    private func mayTake(_ bytes: Int, flow: UInt32, share: UInt32, free: Int) -> Bool {
        shares.mayTake(bytes, share: share, free: free) && fair.mayTake(bytes, flow: flow, free: free)
    }

    /// Has a channel wait for room for its next request.
    func wait(_ channel: ServiceChannel, bytes: Int) { waiters.append(channel, bytes: bytes) }

    /// Has it wait no more; false when it did not.
    func endWait(_ channel: ServiceChannel) -> Bool { waiters.remove(channel) }

    /// The numbers of the nodes that do.
    var waitingShares: Set<UInt32> { Set(waiters.shares) }
    /// How many channels do.
    var waiting: Int { waiters.count }

    /// Takes out the channels that find room now, as far as can be told before they take it.
    func takeWaiters(into ready: inout [ServiceChannel]) {
        guard !waiters.isEmpty else { return }
        let free = freeBytes
        let (shares, fair) = (shares, fair)
        waiters.take(into: &ready) { share, bytes, promised in
            shares.mayTake(bytes, share: share, free: free - promised)
        } mayTake: { channel, bytes, promised in
            shares.mayTake(bytes, share: channel.share, free: free - promised)
                && fair.mayTake(bytes, flow: channel.flow, free: free - promised)
        }
    }

    /// What a session has of the arena, in bytes.
    @inline(__always)
    func held(flow: UInt32) -> Int { fair.held(flow) }

    /// Whether the driver is about to answer a small request that is its session's only one.
    var expectsLoneRequest: Bool { fair.expectsLoneRequest }

    /// Takes a channel's buffer back.
    @inline(__always)
    func free(_ buffer: ArenaBuffer, of channel: ServiceChannel) {
        allocator.free(buffer)
        fair.charge(-Int(buffer.bytes), flow: channel.flow)
        shares.charge(-Int(buffer.bytes), share: channel.share)
    }

    /// What a node has of the arena, in bytes.
    func held(share: UInt32) -> Int { shares.bytes(share) }

    /// Makes room for the requests of a further session, of a node.
    func prepare(flow: UInt32, share: UInt32) {
        fair.prepare(flow)
        shares.prepare(share)
    }

    // MARK: Requests

    /// Queues a request of a session, with `bytes` of the arena; the driver sees it when the batch ends, or when it
    /// is the session's turn.
    @inline(__always)
    func submit(_ request: DriverRequest, flow: UInt32, bytes: UInt32) {
        // Noted before the driver can do any of it, so that no change is missed, whatever happens then.
        markers.mark(request)
        fair.touch(flow, now: reactor.now)
        fair.append(request, flow: flow, bytes: bytes)
        schedule()
    }

    /// Notes that a session's request has come back.
    @inline(__always)
    func completed(flow: UInt32, bytes: UInt32) {
        fair.completed(flow: flow, bytes: bytes, now: reactor.now)
    }

    private func schedule() {
        guard !isScheduled else { return }
        isScheduled = true
        reactor.atBatchEnd(self)
    }

    /// Runs the driver's queue and answers what is done.
    func batchEnded() {
        isScheduled = false
        answer()
        let given = give()
        if given || hasSubmissions {
            shard.marker.note(kind: ShardActivity.driving.rawValue, UInt64(number))
            queue?.process()
            answer()
        }
        hasSubmissions = submissions.count > 0
        // What the driver has answered makes room for others.
        if given, !fair.isEmpty { schedule() }
    }

    private func answer() {
        while let completion = completions.pop() {
            shard.complete(completion, port: self)
        }
    }

    /// Gives the driver what it may have now; false when that is nothing.
    private func give() -> Bool {
        var given = false
        let now = reactor.now
        while submissions.count < submissions.capacity, let request = fair.next(now: now) {
            let isPushed = submissions.push(request)
            precondition(isPushed, "the ring has room")
            given = true
        }
        return given
    }

    /// Takes back the requests among `tags` that the driver has not begun, which never run, and returns them; the
    /// driver is told to leave out the others when it repeats something, and to end them soon.
    func withdraw(_ tags: Set<RequestTag>, status: Status) -> [RequestTag] {
        let unstarted = takeBack(tags)
        if unstarted.count < tags.count { queue?.withdraw(Set(tags.map(\.rawValue)), status: status) }
        return unstarted
    }

    /// Takes back the requests among `tags` that the driver has not begun, which never run, and returns them.
    func takeBack(_ tags: Set<RequestTag>) -> [RequestTag] {
        var unstarted: [RequestTag] = []
        // Both ends of the ring are this thread's: once around keeps the order of the others.
        for _ in 0..<submissions.count {
            guard let request = submissions.pop() else { break }
            let tag = RequestTag(echo: request.tag)
            if tags.contains(tag) {
                unstarted.append(tag)
            } else {
                let pushed = submissions.push(request)
                precondition(pushed, "the ring has the room that was just made")
            }
        }
        unstarted += fair.withdraw { tags.contains(RequestTag(echo: $0)) }.map { RequestTag(echo: $0) }
        return unstarted
    }

    /// Whether the driver has nothing, and no client has a buffer.
    var isIdle: Bool {
        allocator.usedBytes == 0 && fair.isEmpty && submissions.count == 0 && flushes.isEmpty
    }

    /// Ends the queue; nothing of any channel is in flight.
    func stop() {
        queue?.stop()
        queue = nil
        for done in flushes.values { done(.busy) }
        flushes = [:]
    }

    // MARK: Markers

    /// Sets the markers of a volume; returns those that it did not have.
    func setMarkers(_ list: [Marker], volume: UInt32) -> [Marker] { markers.set(list, volume: volume) }

    /// A marker of a volume.
    func marker(_ id: Identifier, volume: UInt32) -> Marker? { markers.find(id, volume: volume) }

    /// Makes durable whatever was written to what is open under an index, for the server itself; `done` runs here
    /// when that is so.
    func flush(_ index: UInt32, done: @escaping (Status) -> Void) {
        guard let queue else { return done(.driverFailed) }
        // The caller waits for an answer, and not until an administrator comes.
        if case .quarantined = absence { return done(.quarantined) }
        flushesBegun += 1
        let tag = RequestTag(own: flushesBegun)
        guard submissions.push(DriverRequest(opcode: .flush, index: index, tag: tag.rawValue)) else {
            return done(.busy)
        }
        flushes[tag] = done
        queue.indexChanged(index)
        hasSubmissions = true
        schedule()
    }

    /// Takes in the end of a request of the server's own; false when it is none.
    func ownCompleted(_ completion: DriverCompletion) -> Bool {
        guard let done = flushes.removeValue(forKey: RequestTag(echo: completion.tag)) else { return false }
        done(Status(rawValue: completion.status) ?? .driverFailed)
        return true
    }
}
