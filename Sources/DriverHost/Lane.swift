import Atomics
import Core
import DriverKit
import Reactor

// SAFETY: the mapping lives as long as this object; the words are atomic; the rings check what they read.
/// One reactor's way to one driver host, in memory that both processes map: a submission and a completion
/// ring, and a word from each side to the other that says whether it sleeps.
///
/// Layout, each line on a cache line of its own: 0 whether the host sleeps, 64 whether the server sleeps,
/// 128 the server's ping, 192 the host's echo, from 256 the submission ring, then the completion ring.
/// Whatever the other side writes here is only a hint (flags), compared (echo) or checked (rings).
@safe
final class Lane {
    let submissions: SubmissionRing
    let completions: CompletionRing
    private let memory: SharedMemory
    private let hostSleeps: UnsafeAtomic<UInt32>
    private let serverSleeps: UnsafeAtomic<UInt32>
    private let ping: UnsafeAtomic<UInt64>
    private let echo: UnsafeAtomic<UInt64>

    private static let ringsOffset = 256

    private static func submissionBytes(_ capacity: Int) -> Int {
        (SharedRing<DriverRequest>.bytesNeeded(capacity: capacity) + 63) & ~63
    }

    /// Bytes of memory for a lane with rings of this many entries.
    static func bytesNeeded(capacity: Int) -> Int {
        ringsOffset + submissionBytes(capacity) + SharedRing<DriverCompletion>.bytesNeeded(capacity: capacity)
    }

    /// A lane in memory of its own, for the server.
    convenience init(capacity: Int) throws(ReactorError) {
        self.init(
            memory: try SharedMemory(name: "sluice-lane", bytes: Lane.bytesNeeded(capacity: capacity)),
            capacity: capacity)
    }

    /// The host's view of a lane that the server made.
    convenience init(mapping descriptor: consuming FileDescriptor, capacity: Int) throws(ReactorError) {
        self.init(
            memory: try SharedMemory(mapping: descriptor, bytes: Lane.bytesNeeded(capacity: capacity)),
            capacity: capacity)
    }

    private init(memory: consuming SharedMemory, capacity: Int) {
        let base = unsafe memory.base
        self.memory = memory
        typealias Word = UnsafeAtomic<UInt32>.Storage
        typealias Long = UnsafeAtomic<UInt64>.Storage
        hostSleeps = unsafe UnsafeAtomic(at: base.bindMemory(to: Word.self, capacity: 1))
        serverSleeps = unsafe UnsafeAtomic(at: (base + 64).bindMemory(to: Word.self, capacity: 1))
        ping = unsafe UnsafeAtomic(at: (base + 128).bindMemory(to: Long.self, capacity: 1))
        echo = unsafe UnsafeAtomic(at: (base + 192).bindMemory(to: Long.self, capacity: 1))
        let rings = unsafe base + Lane.ringsOffset
        submissions = unsafe SubmissionRing(memory: rings, capacity: capacity)
        completions = unsafe CompletionRing(
            memory: rings + Lane.submissionBytes(capacity), capacity: capacity)
    }

    /// A descriptor of the memory, for the host to map.
    func descriptor() throws(ReactorError) -> FileDescriptor { try memory.descriptor.duplicate() }

    // MARK: The server's side

    /// Whether the host sleeps and must be rung; answers so once a sleep.
    func takeHostSleeps() -> Bool {
        // The ring's count was stored before: either we see the flag, or the host sees the count.
        atomicMemoryFence(ordering: .sequentiallyConsistent)
        return hostSleeps.load(ordering: .relaxed) != 0
            && hostSleeps.exchange(0, ordering: .acquiringAndReleasing) != 0
    }

    /// Announces sleep; false when completions are there.
    func serverPreparesToSleep() -> Bool {
        serverSleeps.store(1, ordering: .relaxed)
        atomicMemoryFence(ordering: .sequentiallyConsistent)
        if completions.count == 0 && !completions.isBroken { return true }
        serverSleeps.store(0, ordering: .relaxed)
        return false
    }

    func serverIsAwake() { serverSleeps.store(0, ordering: .relaxed) }

    /// Asks for a sign of life.
    func sendPing(_ value: UInt64) { ping.store(value, ordering: .releasing) }

    /// The last ping that was answered.
    var lastEcho: UInt64 { echo.load(ordering: .acquiring) }

    // MARK: The host's side

    /// Whether the server sleeps and must be rung; answers so once a sleep.
    func takeServerSleeps() -> Bool {
        atomicMemoryFence(ordering: .sequentiallyConsistent)
        return serverSleeps.load(ordering: .relaxed) != 0
            && serverSleeps.exchange(0, ordering: .acquiringAndReleasing) != 0
    }

    /// Answers a ping.
    func answerPing() {
        let value = ping.load(ordering: .acquiring)
        if echo.load(ordering: .relaxed) != value { echo.store(value, ordering: .releasing) }
    }

    /// Announces sleep; false when a ping is there, or other requests than those that the driver left.
    func hostPreparesToSleep(leftBehind: Int) -> Bool {
        hostSleeps.store(1, ordering: .relaxed)
        atomicMemoryFence(ordering: .sequentiallyConsistent)
        if submissions.count == leftBehind && ping.load(ordering: .acquiring) == echo.load(ordering: .relaxed)
        {
            return true
        }
        hostSleeps.store(0, ordering: .relaxed)
        return false
    }

    func hostIsAwake() { hostSleeps.store(0, ordering: .relaxed) }
}
