import Core
import SluiceClient

/// What `sluice bench` prints.
struct BenchReport: Encodable {
    /// One direction of the traffic.
    struct Direction: Encodable {
        var operations: UInt64
        var iops: Double
        var bytesPerSecond: Double
        /// Microseconds; nil where nothing was done.
        var latency: BenchResult.Latency?
    }

    var workload: BenchWorkload
    /// Bytes.
    var blockSize: UInt32
    var ioDepth: Int
    var channels: Int
    var seconds: Double
    var operations: UInt64
    var iops: Double
    var bytesPerSecond: Double
    /// Microseconds.
    var latency: BenchResult.Latency
    /// CPU time of this process, in seconds.
    var cpuSeconds: Double
    /// Whether a signal ended it before its time.
    var isInterrupted: Bool
    var errors: UInt64
    var firstError: String?
    var verifiedBlocks: UInt64
    var verifyErrors: UInt64
    var firstMismatch: String?
    /// Nil when nothing was to be read.
    var read: Direction?
    /// Nil when nothing was to be written.
    var write: Direction?

    init(_ result: BenchResult) {
        workload = result.workload
        blockSize = result.blockSize
        ioDepth = result.ioDepth
        channels = result.channels
        seconds = result.seconds
        operations = result.operations
        iops = result.iops
        bytesPerSecond = result.bytesPerSecond
        latency = result.latency
        cpuSeconds = result.cpuSeconds
        isInterrupted = result.isInterrupted
        errors = result.errors
        firstError = result.firstError
        verifiedBlocks = result.verifiedBlocks
        verifyErrors = result.verifyErrors
        firstMismatch = result.firstMismatch
        func direction(_ count: UInt64, _ latency: BenchResult.Latency?) -> Direction {
            let rate = result.seconds > 0 ? Double(count) / result.seconds : 0
            return Direction(
                operations: count, iops: rate,
                bytesPerSecond: rate * Double(result.bytes) / Double(max(result.operations, 1)),
                latency: latency)
        }
        read = result.workload.reads ? direction(result.reads, result.readLatency) : nil
        write = result.workload.writes ? direction(result.writes, result.writeLatency) : nil
    }

    /// What a person reads.
    var text: String {
        var lines = [
            "\(workload.rawValue), \(ByteCount(UInt64(blockSize))) blocks, depth \(ioDepth), "
                + "\(channels.counted("channel")), \(Decimal.text(seconds, places: 1)) s"
        ]
        for (name, direction) in [("read:", read), ("write:", write)] {
            guard let direction else { continue }
            let rate = Decimal.text(direction.bytesPerSecond / 1_048_576, places: 1)
            lines.append(
                "  \(Decimal.padded(name, 9))\(Decimal.grouped(direction.iops)) IOPS, \(rate) MiB/s, "
                    + "\(Decimal.grouped(Double(direction.operations))) operations")
        }
        lines.append(
            "  latency: min \(time(latency.min)), mean \(time(latency.mean)), p50 \(time(latency.p50)), "
                + "p90 \(time(latency.p90)), p99 \(time(latency.p99)), p99.9 \(time(latency.p999)), "
                + "max \(time(latency.max))")
        let perOperation = operations > 0 ? cpuSeconds / Double(operations) * 1e6 : 0
        lines.append("  client CPU: \(Decimal.text(perOperation, places: 2)) µs per operation")
        if verifiedBlocks > 0 || verifyErrors > 0 {
            let verified = Decimal.grouped(Double(verifiedBlocks))
            lines.append("  verified: \(verified) blocks, \(verifyErrors) wrong")
        }
        if isInterrupted { lines.append("  interrupted: this is what was measured until then") }
        if errors > 0 { lines.append("  failed: \(errors.counted("request"))") }
        return lines.joined(separator: "\n")
    }

    private func time(_ microseconds: Double) -> String {
        microseconds < 10_000
            ? "\(Decimal.text(microseconds, places: 0)) µs"
            : "\(Decimal.text(microseconds / 1000, places: 1)) ms"
    }
}

/// Numbers for people.
enum Decimal {
    /// A number with that many places after the point.
    static func text(_ value: Double, places: Int) -> String {
        guard value.isFinite, abs(value) < 1e15 else { return "?" }
        let scale = (0..<places).reduce(1.0) { scale, _ in scale * 10 }
        let rounded = UInt64((abs(value) * scale).rounded())
        let sign = value < 0 && rounded > 0 ? "-" : ""
        guard places > 0 else { return sign + String(rounded) }
        let fraction = String(rounded % UInt64(scale))
        let zeros = String(repeating: "0", count: places - fraction.count)
        return "\(sign)\(rounded / UInt64(scale)).\(zeros)\(fraction)"
    }

    /// A whole number with a comma before every three digits.
    static func grouped(_ value: Double) -> String {
        let digits = Array(text(value, places: 0))
        var result = ""
        for (index, digit) in digits.enumerated() {
            if index > 0, (digits.count - index).isMultiple(of: 3) { result.append(",") }
            result.append(digit)
        }
        return result
    }

    /// Text with spaces after it, up to a width.
    static func padded(_ text: String, _ width: Int) -> String {
        text + String(repeating: " ", count: max(0, width - text.count))
    }
}
