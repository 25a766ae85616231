import Core
import Histogram

/// What a benchmark measured.
public struct BenchResult: Codable, Sendable, Hashable {
    /// Times from submission to completion, in microseconds.
    public struct Latency: Codable, Sendable, Hashable {
        /// The shortest.
        public var min = 0.0
        /// The mean.
        public var mean = 0.0
        /// Half were as short as this or shorter.
        public var p50 = 0.0
        /// 90 percent.
        public var p90 = 0.0
        /// 99 percent.
        public var p99 = 0.0
        /// 99.9 percent.
        public var p999 = 0.0
        /// The longest.
        public var max = 0.0
    }

    /// What was done.
    public var workload: BenchWorkload
    /// Bytes of one request.
    public var blockSize: UInt32
    /// Requests in flight on each channel.
    public var ioDepth: Int
    /// Channels.
    public var channels: Int
    /// How long the measured part took, in seconds.
    public var seconds = 0.0
    /// Requests that succeeded.
    public var operations: UInt64 = 0
    /// Reads among them.
    public var reads: UInt64 = 0
    /// Writes among them.
    public var writes: UInt64 = 0
    /// Bytes moved, both ways together.
    public var bytes: UInt64 = 0
    /// Requests a second.
    public var iops = 0.0
    /// Bytes a second.
    public var bytesPerSecond = 0.0
    /// Latency of the requests that succeeded.
    public var latency = Latency()
    /// Latency of the reads among them; nil where there were none.
    public var readLatency: Latency?
    /// Latency of the writes among them; nil where there were none.
    public var writeLatency: Latency?
    /// CPU time of this process, user and system, in seconds: all of it between start and end of the measured
    /// part.
    public var cpuSeconds = 0.0
    /// Whether somebody broke the run off: the rest is what was measured until then.
    public var isInterrupted = false
    /// Requests that failed.
    public var errors: UInt64 = 0
    /// The first failure, in words; nil without one.
    public var firstError: String?
    /// Blocks whose content was checked.
    public var verifiedBlocks: UInt64 = 0
    /// Blocks that did not hold what they should.
    public var verifyErrors: UInt64 = 0
    /// The first of them, in words; nil without one.
    public var firstMismatch: String?
}

/// How far a benchmark is.
public struct BenchProgress: Sendable {
    /// Seconds since the start.
    public let seconds: Double
    /// Requests done so far.
    public let operations: UInt64
    /// Bytes moved so far.
    public let bytes: UInt64
    /// Done share of the run, 0 to 1.
    public let fraction: Double
    /// Whether the run is over and what it has written is read back now.
    public let isVerifying: Bool
}

/// What one worker counted; the results of all are added up.
struct BenchTally {
    /// The longest latency that is told apart, in nanoseconds.
    static let longest: UInt64 = 600_000_000_000
    /// Errors after which a run that only fails is given up.
    static let errorsMax: UInt64 = 1000

    var reads: UInt64 = 0
    var writes: UInt64 = 0
    /// What was moved; 0 where every request has the configured size.
    var bytes: UInt64 = 0
    var errors: UInt64 = 0
    var firstError: String?
    var verifiedBlocks: UInt64 = 0
    var verifyErrors: UInt64 = 0
    var firstMismatch: String?
    var readTimes = BenchTally.emptyTimes
    var writeTimes = BenchTally.emptyTimes

    private static var emptyTimes: Histogram<UInt64> {
        Histogram<UInt64>(
            lowestDiscernibleValue: 100, highestTrackableValue: BenchTally.longest,
            numberOfSignificantValueDigits: .three)
    }

    /// Notes a request that was done, in so many nanoseconds.
    mutating func done(isWrite: Bool, nanoseconds: UInt64) {
        let time = min(nanoseconds, BenchTally.longest)
        if isWrite {
            writes += 1
            _ = writeTimes.record(time)
        } else {
            reads += 1
            _ = readTimes.record(time)
        }
    }

    /// Notes one that failed; whether the run is given up for it.
    mutating func failed(_ status: Status, _ message: String) -> Bool {
        errors += 1
        if firstError == nil { firstError = message.isEmpty ? status.name : "\(status.name): \(message)" }
        return status.kind == .denied || errors >= BenchTally.errorsMax
    }

    /// Notes a block that was checked, and what is wrong with it.
    mutating func checked(_ mismatch: String?) {
        verifiedBlocks += 1
        guard let mismatch else { return }
        verifyErrors += 1
        firstMismatch = firstMismatch ?? mismatch
    }

    mutating func add(_ other: BenchTally) {
        reads += other.reads
        writes += other.writes
        bytes += other.bytes
        errors += other.errors
        firstError = firstError ?? other.firstError
        verifiedBlocks += other.verifiedBlocks
        verifyErrors += other.verifyErrors
        firstMismatch = firstMismatch ?? other.firstMismatch
        readTimes.add(other.readTimes)
        writeTimes.add(other.writeTimes)
    }

    /// The result of a run that took `seconds`.
    func result(_ configuration: BenchConfiguration, seconds: Double, cpuSeconds: Double) -> BenchResult {
        var result = BenchResult(
            workload: configuration.workload, blockSize: configuration.blockSize,
            ioDepth: configuration.ioDepth,
            channels: configuration.channels)
        result.seconds = seconds
        result.reads = reads
        result.writes = writes
        result.operations = reads + writes
        result.bytes = bytes > 0 ? bytes : result.operations * UInt64(configuration.blockSize)
        if seconds > 0 {
            result.iops = Double(result.operations) / seconds
            result.bytesPerSecond = Double(result.bytes) / seconds
        }
        var allTimes = readTimes
        allTimes.add(writeTimes)
        result.latency = BenchTally.latency(allTimes) ?? BenchResult.Latency()
        result.readLatency = BenchTally.latency(readTimes)
        result.writeLatency = BenchTally.latency(writeTimes)
        result.cpuSeconds = cpuSeconds
        result.errors = errors
        result.firstError = firstError
        result.verifiedBlocks = verifiedBlocks
        result.verifyErrors = verifyErrors
        result.firstMismatch = firstMismatch
        return result
    }

    private static func latency(_ times: Histogram<UInt64>) -> BenchResult.Latency? {
        guard times.totalCount > 0 else { return nil }
        func percentile(_ percent: Double) -> Double { Double(times.valueAtPercentile(percent)) / 1000 }
        return BenchResult.Latency(
            min: Double(times.min) / 1000, mean: times.mean / 1000, p50: percentile(50), p90: percentile(90),
            p99: percentile(99), p999: percentile(99.9), max: Double(times.maxRecorded) / 1000)
    }
}
