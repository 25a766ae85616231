import Core
import Glibc
import Reactor
import Synchronization

/// Runs a benchmark and waits for its end.
public enum BenchRunner {
    /// Opens the volume, loads it, closes it. Blocks the calling thread, which must not be a reactor's.
    ///
    /// - Parameter progress: called about once a second, on the calling thread.
    /// - Returns: what was measured, also when requests failed: see `errors` and `verifyErrors`.
    public static func run(
        configuration: BenchConfiguration, progress: (BenchProgress) -> Void
    ) throws(BenchError) -> BenchResult {
        if let fault = configuration.fault { throw .badConfiguration(fault) }
        let crew = try BenchCrew(configuration: configuration)
        defer { crew.dismiss() }
        try crew.open()
        let run = try crew.load(progress: progress)
        if configuration.isChecked, configuration.workload.writes, run.errors == 0 {
            return try crew.readBack(run, progress: progress)
        }
        return run
    }
}

/// The workers of one benchmark and their threads, as the calling thread drives them.
private final class BenchCrew {
    private let configuration: BenchConfiguration
    private let board: BenchBoard
    private var workers: [any BenchHand] = []
    private var threads: [ReactorThread] = []

    init(configuration: BenchConfiguration) throws(BenchError) {
        self.configuration = configuration
        board = try BenchBoard()
    }

    /// Connects the first worker, then the others to its session.
    func open() throws(BenchError) {
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
            _ = try board.wait(forReady: index + 1, everySeconds: nil) {}
        }
    }

    /// The measured part.
    func load(progress: (BenchProgress) -> Void) throws(BenchError) -> BenchResult {
        let cpuStart = BenchCrew.cpuSeconds()
        let start = SystemClock.monotonic()
        let deadline = configuration.seconds.map { start &+ UInt64($0 * 1e9) }
        for (worker, thread) in zip(workers, threads) {
            let bytes = configuration.totalBytes
            thread.remote.post { worker.begin(deadline: deadline, bytes: bytes) }
        }
        let end = try board.wait(forFinished: workers.count, everySeconds: 1) {
            progress(progressNow(start: start, isVerifying: false))
        }
        let seconds = Double(end - start) / 1e9
        return board.tally.result(
            configuration, seconds: seconds, cpuSeconds: BenchCrew.cpuSeconds() - cpuStart)
    }

    /// Checks what the run has written and puts the outcome into its result.
    func readBack(_ run: BenchResult, progress: (BenchProgress) -> Void) throws(BenchError) -> BenchResult {
        let start = SystemClock.monotonic()
        board.forgetFinished()
        for (worker, thread) in zip(workers, threads) {
            thread.remote.post { worker.beginReadBack() }
        }
        _ = try board.wait(forFinished: workers.count, everySeconds: 1) {
            progress(progressNow(start: start, isVerifying: true))
        }
        let tally = board.tally
        var result = run
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
