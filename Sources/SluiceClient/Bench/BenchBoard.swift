import Core
import Glibc
import Reactor
import Synchronization

/// Where workers report and the calling thread waits. Any thread.
final class BenchBoard: Sendable {
    private struct State {
        var readyCount = 0
        var finishedCount = 0
        var closedCount = 0
        var ticket: SessionTicket?
        var lastEnd: UInt64 = 0
        var failure: BenchError?
    }

    private let state = Mutex(State())
    private let obstacles = Mutex<[VolumeObstacle]>([])
    // SAFETY: guarded by `state`: read and written only while its lock is held.
    nonisolated(unsafe) private var tallies: [BenchTally] = []
    /// A byte goes in with every report and comes out when the calling thread looks.
    private let bellIn: FileDescriptor
    private let bellOut: FileDescriptor

    init() throws(BenchError) {
        do throws(ReactorError) {
            let (first, second) = try Sockets.pair()
            bellIn = FileDescriptor(owning: first)
            bellOut = FileDescriptor(owning: second)
        } catch {
            throw .system(error.description)
        }
    }

    // MARK: Workers

    /// What a worker hears of what keeps the server from answering it; one for each, whose connections are their own.
    func makeObstacle() -> VolumeObstacle {
        let obstacle = VolumeObstacle()
        obstacles.withLock { $0.append(obstacle) }
        return obstacle
    }

    /// A worker has opened the volume.
    func ready(ticket: SessionTicket?) {
        report { state in
            state.readyCount += 1
            state.ticket = state.ticket ?? ticket
        }
    }

    /// A worker has nothing left to do and nothing in flight.
    func finished(_ tally: BenchTally, at time: UInt64) {
        report { state in
            unsafe tallies.append(tally)
            state.finishedCount += 1
            state.lastEnd = max(state.lastEnd, time)
        }
    }

    /// A worker cannot go on.
    func failed(_ error: BenchError) {
        report { state in state.failure = state.failure ?? error }
    }

    /// A worker's channels are closed, by request or not.
    func closed(_ error: ChannelError) {
        report { state in
            state.closedCount += 1
            if case .closed = error { return }
            state.failure = state.failure ?? .channel(error)
        }
    }

    private func report(_ change: (inout State) -> Void) {
        state.withLock { change(&$0) }
        var byte: UInt8 = 1
        // A full socket rings already.
        _ = unsafe send(bellIn.raw, &byte, 1, Int32(MSG_DONTWAIT) | Int32(MSG_NOSIGNAL))
    }

    // MARK: The calling thread

    /// The session that later workers join.
    var ticket: SessionTicket? { state.withLock { $0.ticket } }

    /// What keeps the server from answering one of the workers, in words; nil where nothing does.
    var obstacle: String? { obstacles.withLock { $0.lazy.compactMap(\.words).first } }

    /// What all workers counted.
    var tally: BenchTally {
        let all = state.withLock { _ in unsafe tallies }
        var sum = BenchTally()
        for one in all { sum.add(one) }
        return sum
    }

    /// Forgets the reports of the load: those of the reading back follow, and hold the sums of both.
    func forgetFinished() {
        state.withLock { state in
            state.finishedCount = 0
            unsafe tallies = []
        }
    }

    /// Waits until that many workers are ready; `look` is called every now and then.
    func wait(forReady count: Int, _ look: () throws(BenchError) -> Void) throws(BenchError) {
        _ = try wait(look) { $0.readyCount >= count }
    }

    /// Waits until that many workers have finished; returns when the last did, in monotonic nanoseconds.
    func wait(
        forFinished count: Int, _ look: () throws(BenchError) -> Void
    ) throws(BenchError) -> UInt64 {
        try wait(look) { $0.finishedCount >= count }
    }

    /// Waits until that many workers' channels are closed.
    func waitForClosed(_ count: Int) {
        while state.withLock({ $0.closedCount }) < count { ring(milliseconds: -1) }
    }

    private func wait(
        _ look: () throws(BenchError) -> Void, until isDone: (borrowing State) -> Bool
    ) throws(BenchError) -> UInt64 {
        while true {
            let (done, failure, end) = state.withLock { (isDone($0), $0.failure, $0.lastEnd) }
            if done { return end }
            if let failure { throw failure }
            if !ring(milliseconds: BenchBoard.lookMilliseconds) { try look() }
        }
    }

    private static let lookMilliseconds: Int32 = 100

    /// Waits for a report, with -1 for as long as that takes; false when none came in time.
    @discardableResult
    private func ring(milliseconds: Int32) -> Bool {
        var descriptor = pollfd(fd: bellOut.raw, events: Int16(POLLIN), revents: 0)
        guard unsafe poll(&descriptor, 1, milliseconds) > 0 else { return false }
        var bytes: UInt64 = 0
        _ = unsafe recv(bellOut.raw, &bytes, MemoryLayout<UInt64>.size, Int32(MSG_DONTWAIT))
        return true
    }
}
