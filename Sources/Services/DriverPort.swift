import Collections
import Core
import DriverKit
import Reactor

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
    /// Requests for which the ring had no room.
    private var overflow = Deque<DriverRequest>()
    /// Let go of by `ServiceShard.stop`, which drops its ports.
    private let shard: ServiceShard
    private let reactor: Reactor
    /// Whether the driver is being replaced: requests wait.
    var isRecovering = false
    private var isScheduled = false
    private var hasSubmissions = false

    init(pool: Pool, shard: ServiceShard, reactor: Reactor, arenaBytes: Int) throws(DriverError) {
        self.pool = pool
        self.shard = shard
        self.reactor = reactor
        number = pool.number
        arena = try Arena(bytes: arenaBytes)
        allocator = ArenaAllocator(arena: arena)
        submissions = SubmissionRing(capacity: Limits.driverRingEntries)
        completions = CompletionRing(capacity: Limits.driverRingEntries)
        queue = try pool.driver.makeQueue(
            reactor: reactor, arena: arena, submissions: submissions, completions: completions,
            onCompletions: { [unowned self] in schedule() })
    }

    /// Queues a request; the driver sees it when the batch ends.
    @inline(__always)
    func submit(_ request: DriverRequest) {
        if !overflow.isEmpty || !submissions.push(request) { overflow.append(request) }
        hasSubmissions = true
        schedule()
    }

    private func schedule() {
        guard !isScheduled else { return }
        isScheduled = true
        reactor.atBatchEnd(self)
    }

    /// Runs the driver's queue and answers what is done.
    func batchEnded() {
        isScheduled = false
        while let completion = completions.pop() {
            shard.complete(completion, port: self)
        }
        if hasSubmissions || !overflow.isEmpty {
            refill()
            hasSubmissions = false
            queue?.process()
            refill()
            while let completion = completions.pop() {
                shard.complete(completion, port: self)
            }
        }
    }

    /// Moves requests that found the ring full into it. What finds no room waits for the driver's completions.
    private func refill() {
        guard !overflow.isEmpty else { return }
        var moved = false
        while let next = overflow.first, submissions.push(next) {
            overflow.removeFirst()
            moved = true
        }
        guard moved else { return }
        hasSubmissions = true
        schedule()
    }

    /// Takes back the requests among `tags` that the driver has not begun, which never run, and returns them; the
    /// driver is told to leave out the others when it repeats something.
    func withdraw(_ tags: Set<UInt64>, status: Status) -> [UInt64] {
        var unstarted: [UInt64] = []
        // Both ends of the ring are this thread's: once around keeps the order of the others.
        for _ in 0..<submissions.count {
            guard let request = submissions.pop() else { break }
            if tags.contains(request.tag) {
                unstarted.append(request.tag)
            } else {
                let pushed = submissions.push(request)
                precondition(pushed, "the ring has the room that was just made")
            }
        }
        unstarted += overflow.lazy.map(\.tag).filter(tags.contains)
        overflow.removeAll { tags.contains($0.tag) }
        if !overflow.isEmpty { schedule() }
        if unstarted.count < tags.count { queue?.withdraw(tags, status: status) }
        return unstarted
    }

    /// Ends the queue; nothing is in flight.
    func stop() {
        queue?.stop()
        queue = nil
    }
}
