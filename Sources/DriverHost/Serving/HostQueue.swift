import Core
import DriverKit
import Glibc
import Reactor

/// A driver's queue on a lane: the driver takes requests from the shared ring itself.
final class HostQueue: PolledTarget, CompletionTarget {
    // SAFETY: handed over once, to the reactor's thread.
    /// What a queue is made of.
    final class Parts: @unchecked Sendable {
        let driver: any PoolDriver
        let arena: Arena
        let lane: Lane
        let bell: Doorbell
        let serverBell: Doorbell

        init(
            driver: any PoolDriver, arena: Arena, lane: Lane, bell: consuming Doorbell,
            serverBell: consuming Doorbell
        ) {
            self.driver = driver
            self.arena = arena
            self.lane = lane
            self.bell = bell
            self.serverBell = serverBell
        }
    }

    private let parts: Parts
    private let lane: Lane
    private var queue: (any DriverQueue)?
    /// Requests that the driver left in the ring when it last looked: it takes them by itself later.
    private var leftBehind = 0

    init(_ parts: Parts, reactor: Reactor) throws(StatusError) {
        self.parts = parts
        lane = parts.lane
        queue = try parts.driver.makeQueue(
            reactor: reactor, arena: parts.arena, submissions: lane.submissions,
            completions: lane.completions, onCompletions: { [unowned self] in ringServer() })
        let target = reactor.register(self)
        reactor.pollMultishot(
            fd: parts.bell.descriptor.raw, events: UInt32(POLLIN), target: target, token: 0)
        reactor.addPolled(self)
    }

    func indexChanged(_ index: UInt32) { queue?.indexChanged(index) }

    private func ringServer() {
        if lane.takeServerSleeps() { parts.serverBell.ring() }
    }

    func poll() {
        lane.answerPing()
        let count = lane.submissions.count
        if count == 0 { leftBehind = 0 }
        guard count != leftBehind else { return }
        let taken = lane.submissions.taken
        queue?.process()
        // A driver that took less than there was is full, and takes the rest when something completes. What
        // came while it took everything is for the next turn.
        let isFull = lane.submissions.taken &- taken < UInt32(count)
        leftBehind = isFull ? lane.submissions.count : 0
    }

    func prepareToSleep() -> Bool { lane.hostPreparesToSleep(leftBehind: leftBehind) }

    var hasSomething: Bool { lane.submissions.count != leftBehind }

    func awake() { lane.hostIsAwake() }

    /// The doorbell rang: the turn that delivers this polls, too.
    func completed(token: UInt32, result: Int32, flags: CompletionFlags) {}
}
