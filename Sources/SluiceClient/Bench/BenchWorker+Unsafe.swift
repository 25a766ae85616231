import Core
import Reactor
import Synchronization
import Wire

/// One thread's part of a benchmark, whatever its load. On the reactor's thread, apart from `done`.
protocol BenchHand: ObstacleWatcher, Sendable {
    /// What it is to do.
    var configuration: BenchConfiguration { get }
    /// Where it reports.
    var board: BenchBoard { get }
    /// Requests done; for the thread that reports progress.
    var done: UInt64 { get }
    /// Connects; the first worker's session is joined by the others.
    func open(reactor: Reactor, ticket: SessionTicket?)
    /// Starts the load, which ends at `deadline` or when its part of the amount is moved.
    func begin(deadline: UInt64?, bytes: UInt64?)
    /// Reads back what was written.
    func beginReadBack()
    /// Ends the load, or the reading back, before its time, and reports what was counted until now; what is under way is
    /// not waited for.
    func breakOff()
    /// Ends the channels.
    func close()
    /// Shares out the volume and makes the memory; says what is wrong with the configuration for this volume.
    func prepare(_ state: ResourceState, depth: Int) -> String?
    /// Its right was taken away: it begins nothing more.
    func wasRevoked(_ why: String)
    /// Its channels are closed.
    func channelsEnded()
}

extension BenchHand {
    func volumeReady(_ volume: VolumeClient) {
        guard let state = volume.state else { return }
        if let fault = configuration.rangeFault(of: state) ?? prepare(state, depth: volume.depth) {
            board.failed(.badConfiguration(fault))
        } else {
            board.ready(ticket: volume.ticket)
        }
    }

    func volumeEvent(_ volume: VolumeClient, _ event: ChannelEvent) {
        obstacle.heard(event)
        if case .revoked(_, let status, let reason) = event { wasRevoked("\(status.name): \(reason)") }
    }

    func volumeClosed(_ volume: VolumeClient, _ error: ChannelError) {
        channelsEnded()
        board.closed(error)
    }
}

/// One thread's part of a benchmark: its channels, its share of the volume, its requests.
@safe
final class BenchWorker: BenchHand, @unchecked Sendable {
    // SAFETY: everything but the atomics is touched on the reactor's thread only: the methods are called by
    // its volume client or through `ReactorRemote.postWithReactor`. `board` is Sendable.

    private struct Job {
        var step = BenchPlan.Step(block: 0, isWrite: false, generation: 0)
        var start: UInt64 = 0
    }

    /// Requests done; read by the thread that reports progress.
    private let operations = Atomic<UInt64>(0)

    var done: UInt64 { operations.load(ordering: .relaxed) }
    private let index: Int
    let configuration: BenchConfiguration
    let board: BenchBoard
    let obstacle: VolumeObstacle
    private let pattern: BenchPattern
    private var volume: VolumeClient?
    private var tally = BenchTally()
    private var plan = BenchPlan(blocks: 1, workload: .read, readPercent: 0, verify: false, seed: 0)
    private var shareOffset: UInt64 = 0
    private var jobs: ContiguousArray<Job> = []
    private var idle: ContiguousArray<Int> = []
    private var memory = unsafe UnsafeMutableRawBufferPointer(start: nil, count: 0)
    private var deadline = UInt64.max
    private var operationsLeft = UInt64.max
    private var isStopping = false
    private var isReadingBack = false
    private var isFinished = false

    init(index: Int, configuration: BenchConfiguration, board: BenchBoard) {
        self.index = index
        self.configuration = configuration
        self.board = board
        obstacle = board.makeObstacle()
        pattern = BenchPattern(seed: configuration.seed)
    }

    deinit {
        unsafe memory.deallocate()
    }

    // MARK: Entry points, on the reactor's thread

    /// Connects; the first worker's session is joined by the others.
    func open(reactor: Reactor, ticket: SessionTicket?) {
        let volume = VolumeClient(
            reactor: reactor, options: configuration.options(ofWorker: index, ticket: ticket), delegate: self)
        self.volume = volume
        volume.start()
    }

    /// Starts the load, which ends at `deadline` or when its part of the amount is moved.
    func begin(deadline: UInt64?, bytes: UInt64?) {
        self.deadline = deadline ?? .max
        if let bytes {
            operationsLeft = max(bytes / UInt64(configuration.blockSize) / UInt64(configuration.reactors), 1)
        }
        idle = ContiguousArray(jobs.indices)
        fillUp(now: SystemClock.monotonic())
    }

    /// Reads back what was written.
    func beginReadBack() {
        isReadingBack = true
        isStopping = false
        isFinished = false
        plan.beginReadBack()
        idle = ContiguousArray(jobs.indices)
        fillUp(now: SystemClock.monotonic())
    }

    func breakOff() {
        isStopping = true
        guard !isFinished else { return }
        isFinished = true
        board.finished(tally, at: SystemClock.monotonic())
    }

    /// Ends the channels.
    func close() {
        volume?.close()
    }

    private var channelCount: Int { configuration.channelCount(ofWorker: index) }

    // MARK: The volume

    func volumeCompleted(_ volume: VolumeClient, _ completions: Span<ChannelCompletion>) {
        let now = SystemClock.monotonic()
        for index in completions.indices {
            let completion = completions[index]
            ended(Int(completion.tag), completion.status, now: now)
        }
        operations.store(tally.reads + tally.writes, ordering: .relaxed)
        fillUp(now: now)
    }

    func volumeHasRoom(_ volume: VolumeClient) {
        if !jobs.isEmpty, !isFinished { fillUp(now: SystemClock.monotonic()) }
    }

    func channelsEnded() { volume = nil }

    func wasRevoked(_ why: String) {
        tally.firstError = tally.firstError ?? why
        isStopping = true
    }

    // MARK: Load

    func prepare(_ state: ResourceState, depth: Int) -> String? {
        let block = UInt64(configuration.blockSize)
        guard block.isMultiple(of: UInt64(state.blockSize)) else {
            return "the volume takes multiples of \(state.blockSize) bytes"
        }
        guard configuration.blockSize <= state.transferBytesMax else {
            return "the volume takes at most \(state.transferBytesMax) bytes at once"
        }
        let (start, share) = configuration.blocks(of: state, size: block)
        let count = min(configuration.ioDepth * channelCount, depth)
        guard share > UInt64(count) else {
            return BenchConfiguration.shortRange(share, of: block, requests: count)
        }
        shareOffset = (start + UInt64(index) * share) * block
        plan = BenchPlan(
            blocks: Int(share), workload: configuration.workload, readPercent: configuration.readPercent,
            verify: configuration.verify, seed: configuration.seed &+ UInt64(index) &* 0x1000_0001)
        jobs = ContiguousArray(repeating: Job(), count: count)
        idle.reserveCapacity(count)
        unsafe memory = .allocate(byteCount: count * Int(block), alignment: 4096)
        for job in 0..<count {
            unsafe pattern.fill(buffer(job), offset: UInt64(job), generation: UInt64(index))
        }
        return nil
    }

    private func buffer(_ job: Int) -> UnsafeMutableRawBufferPointer {
        let size = Int(configuration.blockSize)
        return unsafe UnsafeMutableRawBufferPointer(rebasing: memory[job * size..<(job + 1) * size])
    }

    /// Gives every idle job its next request, as long as the run goes on; reports the end when none is left
    /// in flight.
    private func fillUp(now: UInt64) {
        if now >= deadline, !isReadingBack { isStopping = true }
        while !isStopping, let job = idle.last {
            guard isReadingBack || operationsLeft > 0, let step = plan.next() else {
                isStopping = true
                break
            }
            guard submit(job, step, now: now) else {
                plan.ended(BenchPlan.Step(block: step.block, isWrite: false, generation: 0), succeeded: true)
                break
            }
            idle.removeLast()
            if !isReadingBack { operationsLeft -= 1 }
        }
        let isStuck = idle.count == jobs.count && !isStopping && volume?.isInterrupted != true
        guard isStopping || isStuck, idle.count == jobs.count, !isFinished else { return }
        isFinished = true
        if isStuck { tally.firstError = tally.firstError ?? "the channels take no requests any more" }
        board.finished(tally, at: now)
    }

    private func submit(_ job: Int, _ step: BenchPlan.Step, now: UInt64) -> Bool {
        let offset = shareOffset + UInt64(step.block) * UInt64(configuration.blockSize)
        let buffer = unsafe buffer(job)
        if step.isWrite, configuration.verify {
            unsafe pattern.fill(buffer, offset: offset, generation: UInt64(step.generation))
        }
        let isTaken =
            unsafe volume?.submit(
                step.isWrite ? .write : .read, offset: offset, count: configuration.blockSize,
                buffer: buffer.baseAddress, tag: UInt64(job)) ?? false
        if isTaken { jobs[job] = Job(step: step, start: now) }
        return isTaken
    }

    private func ended(_ job: Int, _ status: Status, now: UInt64) {
        let step = jobs[job].step
        plan.ended(step, succeeded: status == .ok)
        idle.append(job)
        guard status == .ok else { return failed(status) }
        if configuration.verify, !step.isWrite { check(job, step) }
        guard !isReadingBack else { return }
        tally.done(isWrite: step.isWrite, nanoseconds: now &- jobs[job].start)
    }

    private func failed(_ status: Status) {
        if tally.failed(status, volume?.lastMessage ?? "") { isStopping = true }
    }

    private func check(_ job: Int, _ step: BenchPlan.Step) {
        guard !plan.isTracking || step.generation != 0 else { return }
        let offset = shareOffset + UInt64(step.block) * UInt64(configuration.blockSize)
        let generation = plan.isTracking ? UInt64(step.generation) : nil
        tally.checked(unsafe pattern.mismatch(buffer(job), offset: offset, generation: generation))
    }
}
