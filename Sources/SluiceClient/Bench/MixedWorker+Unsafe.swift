import Core
import Reactor
import Synchronization
import Wire

/// One thread's part of a mixed benchmark: requests of all lengths at any place, reads and writes, all of them checked.
@safe
final class MixedWorker: BenchHand, @unchecked Sendable {
    // SAFETY: everything but the atomics is touched on the reactor's thread only: the methods are called by
    // its volume client or through `ReactorRemote.post`. `board` is Sendable.

    // SAFETY: the memory is the job's from `submit` to `ended`.
    @safe
    private struct Job {
        var step = MixedPlan.Step(units: 0..<0, isWrite: false)
        var generation: UInt32 = 0
        var start: UInt64 = 0
        var memory = unsafe UnsafeMutableRawBufferPointer(start: nil, count: 0)
    }

    private let operations = Atomic<UInt64>(0)
    var done: UInt64 { operations.load(ordering: .relaxed) }
    private let index: Int
    let configuration: BenchConfiguration
    let board: BenchBoard
    let obstacle: VolumeObstacle
    private let pattern: BenchPattern
    private var volume: VolumeClient?
    private var tally = BenchTally()
    private var plan = MixedPlan(units: 1, unitBytes: 512, longest: 1, readPercent: 0, seed: 0)
    private var shareOffset: UInt64 = 0
    private var jobs: ContiguousArray<Job> = []
    private var idle: ContiguousArray<Int> = []
    private var deadline = UInt64.max
    private var bytesLeft = UInt64.max
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
        for job in jobs { unsafe job.memory.deallocate() }
    }

    // MARK: Entry points, on the reactor's thread

    func open(reactor: Reactor, ticket: SessionTicket?) {
        let volume = VolumeClient(
            reactor: reactor, options: configuration.options(ofWorker: index, ticket: ticket), delegate: self)
        self.volume = volume
        volume.start()
    }

    func begin(deadline: UInt64?, bytes: UInt64?) {
        self.deadline = deadline ?? .max
        if let bytes { bytesLeft = max(bytes / UInt64(configuration.reactors), 1) }
        idle = ContiguousArray(jobs.indices)
        fillUp()
    }

    func beginReadBack() {
        isReadingBack = true
        isStopping = false
        isFinished = false
        idle = ContiguousArray(jobs.indices)
        fillUp()
    }

    func breakOff() {
        isStopping = true
        guard !isFinished else { return }
        isFinished = true
        board.finished(tally, at: SystemClock.monotonic())
    }

    func close() { volume?.close() }

    // MARK: The volume

    func volumeCompleted(_ volume: VolumeClient, _ completions: Span<ChannelCompletion>) {
        let now = SystemClock.monotonic()
        for index in completions.indices {
            ended(Int(completions[index].tag), completions[index].status, now: now)
        }
        operations.store(tally.reads + tally.writes, ordering: .relaxed)
        fillUp()
    }

    func volumeHasRoom(_ volume: VolumeClient) {
        if !jobs.isEmpty, !isFinished { fillUp() }
    }

    func channelsEnded() { volume = nil }

    func wasRevoked(_ why: String) {
        tally.firstError = tally.firstError ?? why
        isStopping = true
    }

    // MARK: Load

    func prepare(_ state: ResourceState, depth: Int) -> String? {
        let unit = UInt64(max(state.blockSize, 512))
        guard UInt64(configuration.blockSize) >= unit else {
            return "the volume takes multiples of \(state.blockSize) bytes"
        }
        let (start, share) = configuration.blocks(of: state, size: unit)
        let count = min(configuration.ioDepth * configuration.channelCount(ofWorker: index), depth)
        guard share > 2 * UInt64(count), share <= UInt64(BenchPlan.verifiedBlocksMax) else {
            return share > UInt64(count)
                ? "so much of a volume cannot be remembered block by block; name a part of it with a range"
                : BenchConfiguration.shortRange(share, of: unit, requests: count)
        }
        shareOffset = (start + UInt64(index) * share) * unit
        plan = MixedPlan(
            units: Int(share), unitBytes: Int(unit),
            longest: Int(UInt64(min(configuration.blockSize, state.transferBytesMax)) / unit),
            readPercent: configuration.readPercent, seed: configuration.seed &+ UInt64(index) &* 0x1000_0001)
        jobs = ContiguousArray(repeating: Job(), count: count)
        idle.reserveCapacity(count)
        return nil
    }

    private func fillUp() {
        let now = SystemClock.monotonic()
        if now >= deadline, !isReadingBack { isStopping = true }
        while !isStopping, let job = idle.last {
            guard isReadingBack || bytesLeft > 0 else {
                isStopping = true
                break
            }
            guard let step = isReadingBack ? plan.nextToReadBack() : plan.next() else {
                // While loading the end of another request makes room.
                isStopping = isReadingBack
                break
            }
            guard submit(job, step, now: now) else {
                plan.ended(
                    MixedPlan.Step(units: step.units, isWrite: false), generation: 0, succeeded: true)
                if isReadingBack { plan.readAgain(step) }
                break
            }
            idle.removeLast()
        }
        let isStuck = idle.count == jobs.count && !isStopping && volume?.isInterrupted != true
        guard isStopping || isStuck, idle.count == jobs.count, !isFinished else { return }
        isFinished = true
        if isStuck { tally.firstError = tally.firstError ?? "the channels take no requests any more" }
        board.finished(tally, at: now)
    }

    private func submit(_ job: Int, _ step: MixedPlan.Step, now: UInt64) -> Bool {
        let count = step.units.count * plan.unitBytes
        let memory = UnsafeMutableRawBufferPointer.allocate(byteCount: count, alignment: 4096)
        let generation = step.isWrite ? plan.beginWrite() : 0
        if step.isWrite { unsafe fill(memory, step, generation) }
        let isTaken =
            unsafe volume?.submit(
                step.isWrite ? .write : .read, offset: offset(of: step.units.lowerBound),
                count: UInt32(count),
                buffer: memory.baseAddress, tag: UInt64(job)) ?? false
        guard isTaken else {
            unsafe memory.deallocate()
            return false
        }
        jobs[job] = unsafe Job(step: step, generation: generation, start: now, memory: memory)
        if !isReadingBack { bytesLeft -= min(UInt64(count), bytesLeft) }
        return true
    }

    private func offset(of unit: Int) -> UInt64 { shareOffset + UInt64(unit * plan.unitBytes) }

    private func unit(_ memory: UnsafeMutableRawBufferPointer, _ number: Int) -> UnsafeMutableRawBufferPointer
    {
        unsafe UnsafeMutableRawBufferPointer(
            rebasing: memory[number * plan.unitBytes..<(number + 1) * plan.unitBytes])
    }

    private func fill(
        _ memory: UnsafeMutableRawBufferPointer, _ step: MixedPlan.Step, _ generation: UInt32
    ) {
        for (number, unit) in step.units.enumerated() {
            unsafe pattern.fill(
                self.unit(memory, number), offset: offset(of: unit), generation: UInt64(generation))
        }
    }

    private func ended(_ number: Int, _ status: Status, now: UInt64) {
        let job = jobs[number]
        unsafe jobs[number].memory = unsafe UnsafeMutableRawBufferPointer(start: nil, count: 0)
        defer { unsafe job.memory.deallocate() }
        if status == .ok, !job.step.isWrite { check(job) }
        plan.ended(job.step, generation: job.generation, succeeded: status == .ok)
        idle.append(number)
        guard status == .ok else { return failed(status) }
        guard !isReadingBack else { return }
        tally.bytes += unsafe UInt64(job.memory.count)
        tally.done(isWrite: job.step.isWrite, nanoseconds: now &- job.start)
    }

    private func failed(_ status: Status) {
        if tally.failed(status, volume?.lastMessage ?? "") { isStopping = true }
    }

    private func check(_ job: Job) {
        for (number, unit) in job.step.units.enumerated() {
            let generation = plan.generation(of: unit)
            guard generation != 0 else { continue }
            tally.checked(
                unsafe pattern.mismatch(
                    self.unit(job.memory, number), offset: offset(of: unit), generation: UInt64(generation)))
        }
    }
}
