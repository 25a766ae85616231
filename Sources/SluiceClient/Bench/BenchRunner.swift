import Core
import Glibc
import Reactor
import Synchronization

/// Runs a benchmark and waits for its end.
public enum BenchRunner {
    /// Opens the volume, loads it, closes it. Blocks the calling thread, which must not be a reactor's.
    ///
    /// - Parameters:
    ///   - isInterrupted: asked ten times a second, on the calling thread, whether the run is to end before its time; not
    ///     again after it has said so.
    ///   - waiting: told what the run waits for, when nothing has come for two seconds; on the calling thread.
    ///   - progress: called about once a second, on the calling thread.
    /// - Returns: what was measured, also when requests failed or it was broken off: see `errors`, `verifyErrors` and
    ///   `isInterrupted`.
    public static func run(
        configuration: BenchConfiguration, isInterrupted: () -> Bool = { false },
        waiting: @escaping (String) -> Void = { _ in }, progress: (BenchProgress) -> Void
    ) throws(BenchError) -> BenchResult {
        if let fault = configuration.fault { throw .badConfiguration(fault) }
        let crew = try BenchCrew(configuration: configuration, waiting: waiting)
        defer { crew.dismiss() }
        try crew.open(isInterrupted)
        let run = try crew.load(isInterrupted, progress)
        if configuration.isChecked, configuration.workload.writes, run.errors == 0, !run.isInterrupted {
            return try crew.readBack(run, isInterrupted, progress)
        }
        return run
    }
}

/// The workers of one benchmark and their threads, as the calling thread drives them.
private final class BenchCrew {
    private let configuration: BenchConfiguration
    private let board: BenchBoard
    private var workers: [any BenchHand] = []
    private var wasBrokenOff = false
    private var threads: [ReactorThread] = []
    private let waiting: (String) -> Void
    private var voice = WaitingVoice(now: SystemClock.monotonic())

    init(configuration: BenchConfiguration, waiting: @escaping (String) -> Void) throws(BenchError) {
        self.configuration = configuration
        self.waiting = waiting
        board = try BenchBoard()
    }

    /// Connects the first worker, then the others to its session.
    func open(_ isInterrupted: () -> Bool) throws(BenchError) {
        for index in 0..<configuration.reactors {
            let worker: any BenchHand =
                configuration.workload == .mixed
                ? MixedWorker(index: index, configuration: configuration, board: board)
                : BenchWorker(index: index, configuration: configuration, board: board)
            let ticket = board.ticket
            var options = Reactor.Options()
            options.name = "bench-\(index)"
            options.pollNanoseconds = configuration.pollMicroseconds * 1000
            do throws(ReactorError) {
                threads.append(
                    try Reactor.start(options) { reactor in worker.open(reactor: reactor, ticket: ticket) })
            } catch {
                throw .system(error.description)
            }
            workers.append(worker)
            try board.wait(forReady: index + 1) { () throws(BenchError) in
                if isInterrupted() { throw BenchError.interrupted }
                sayWaiting(for: "the server to open the volume")
            }
        }
    }

    /// The measured part.
    func load(
        _ isInterrupted: () -> Bool, _ progress: (BenchProgress) -> Void
    ) throws(BenchError) -> BenchResult {
        voice = WaitingVoice(now: SystemClock.monotonic())
        let cpuStart = BenchCrew.cpuSeconds()
        let start = SystemClock.monotonic()
        let deadline = configuration.seconds.map { start &+ UInt64($0 * 1e9) }
        for (worker, thread) in zip(workers, threads) {
            let bytes = configuration.totalBytes
            thread.remote.post { worker.begin(deadline: deadline, bytes: bytes) }
        }
        let end = try waitForAll(start, isVerifying: false, isInterrupted, progress)
        let seconds = Double(end - start) / 1e9
        var result = board.tally.result(
            configuration, seconds: seconds, cpuSeconds: BenchCrew.cpuSeconds() - cpuStart)
        result.isInterrupted = wasBrokenOff
        return result
    }

    /// Waits until all workers have finished; returns when the last did, in monotonic nanoseconds.
    private func waitForAll(
        _ start: UInt64, isVerifying: Bool, _ isInterrupted: () -> Bool, _ progress: (BenchProgress) -> Void
    ) throws(BenchError) -> UInt64 {
        var nextProgress = start &+ 1_000_000_000
        return try board.wait(forFinished: workers.count) { () throws(BenchError) in
            if !wasBrokenOff, isInterrupted() {
                wasBrokenOff = true
                for (worker, thread) in zip(workers, threads) { thread.remote.post { worker.breakOff() } }
            }
            // What is read back is not counted until its end.
            sayWaiting(for: isVerifying ? nil : "the server's answers")
            let now = SystemClock.monotonic()
            guard now >= nextProgress else { return }
            nextProgress = now &+ 1_000_000_000
            progress(progressNow(start: start, isVerifying: isVerifying))
        }
    }

    private func sayWaiting(for usual: String?) {
        let done = workers.reduce(0) { $0 &+ $1.done }
        guard let words = board.obstacle ?? usual else { return }
        if let words = voice.look(progress: done, words, now: SystemClock.monotonic()) { waiting(words) }
    }

    /// Checks what the run has written and puts the outcome into its result.
    func readBack(
        _ run: BenchResult, _ isInterrupted: () -> Bool, _ progress: (BenchProgress) -> Void
    ) throws(BenchError) -> BenchResult {
        let start = SystemClock.monotonic()
        board.forgetFinished()
        for (worker, thread) in zip(workers, threads) {
            thread.remote.post { worker.beginReadBack() }
        }
        _ = try waitForAll(start, isVerifying: true, isInterrupted, progress)
        let tally = board.tally
        var result = run
        result.isInterrupted = wasBrokenOff
        result.errors = tally.errors
        result.firstError = tally.firstError
        result.verifiedBlocks = tally.verifiedBlocks
        result.verifyErrors = tally.verifyErrors
        result.firstMismatch = tally.firstMismatch
        return result
    }

    /// Closes the channels, waits for that, ends the threads.
    func dismiss() {
        for (worker, thread) in zip(workers, threads) {
            thread.remote.post { worker.close() }
        }
        board.waitForClosed(threads.count)
        for thread in threads {
            thread.remote.stop()
            thread.join()
        }
    }

    private func progressNow(start: UInt64, isVerifying: Bool) -> BenchProgress {
        let seconds = Double(SystemClock.monotonic() - start) / 1e9
        let operations = workers.reduce(0) { $0 + $1.done }
        let bytes = operations * UInt64(configuration.blockSize)
        let byTime = configuration.seconds.map { seconds / $0 } ?? 0
        let byAmount = configuration.totalBytes.map { Double(bytes) / Double($0) } ?? 0
        return BenchProgress(
            seconds: seconds, operations: operations, bytes: bytes, fraction: min(max(byTime, byAmount), 1),
            isVerifying: isVerifying)
    }

    private static func cpuSeconds() -> Double {
        var usage = rusage()
        guard unsafe getrusage(__rusage_who_t(RUSAGE_SELF.rawValue), &usage) == 0 else { return 0 }
        return seconds(usage.ru_utime) + seconds(usage.ru_stime)
    }

    private static func seconds(_ time: timeval) -> Double {
        Double(time.tv_sec) + Double(time.tv_usec) / 1e6
    }
}
