import Core
import Glibc
import Logging
import Reactor
import Synchronization

/// Where log lines go: a bounded queue, and a thread of its own that writes them to a descriptor.
///
/// Whoever logs never waits for whoever reads the log. What finds no room is counted, and the count is said as soon as
/// there is room again; likewise what a descriptor does not take, and what one source says too often. Any thread.
public final class LogSink: Sendable {
    /// What became of lines.
    public struct Report: Sendable, Hashable {
        /// Lines that were written.
        public var written: UInt64 = 0
        /// Lines that were lost: the queue was full, or the descriptor did not take them.
        public var lost: UInt64 = 0
        /// Lines that were left out, since their source said too much.
        public var leftOut: UInt64 = 0
        /// Bytes that wait to be written.
        public var waitingBytes = 0
        /// Since when lines are being lost, Unix seconds; nil while they are not.
        public var losingSince: UInt64?
    }

    /// What is told to who wants to hear of it, by any thread that logs; it must not wait.
    public enum Notice: Sendable, Hashable {
        /// Lines are being lost from now on, for this reason.
        case losing(String)
        /// Lines are written again; so many were lost.
        case recovered(lost: UInt64)
    }

    private struct State {
        var waiting: [UInt8] = []
        var budgets = LogBudgets()
        var report = Report()
        /// Lines that were lost and are not said yet.
        var unsaid: UInt64 = 0
        var reason = ""
        /// When what was left out was said last; monotonic nanoseconds.
        var summarisedAt: UInt64 = 0
        /// When the descriptor is tried again though nothing waits; monotonic nanoseconds.
        var retryAt: UInt64 = 0
        var isWriting = false
        var isFinishing = false
        var onNotice: (@Sendable (Notice) -> Void)?
    }

    private enum Problem { static let slow = "the log's reader does not read" }

    private let descriptor: Int32
    private let format: LogFormat
    private let label: String
    private let state = Mutex(State())
    private let work = ThreadSemaphore()
    private let finished = ThreadSemaphore()

    /// Begins to write to a descriptor, which is not closed. The thread lives until `finish`.
    ///
    /// - Parameter label: of the sink's own lines.
    /// - Throws: when there can be no thread.
    public init(
        descriptor: Int32, format: LogFormat = .text, label: String
    ) throws(ReactorError) {
        self.descriptor = descriptor
        self.format = format
        self.label = label
        try DetachedThread.start(name: "log") { [self] in run() }
    }

    /// A descriptor of standard error for a sink. Where it is a pipe, what else writes to it from then on, such as the
    /// last words of a program that ends, does not wait for its reader; hosts that are started inherit that.
    public static func standardError() -> Int32 {
        var status = stat()
        guard unsafe fstat(STDERR_FILENO, &status) == 0, status.st_mode & S_IFMT == S_IFIFO else {
            return STDERR_FILENO
        }
        let own = fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, 3)
        // A description of its own: the flags of the old one belong to others too.
        let other = unsafe open("/proc/self/fd/\(STDERR_FILENO)", O_WRONLY | O_NONBLOCK | O_CLOEXEC)
        defer { if other >= 0 { close(other) } }
        guard own >= 0, other >= 0, dup2(other, STDERR_FILENO) >= 0 else {
            if own >= 0 { close(own) }
            return STDERR_FILENO
        }
        return own
    }

    /// A handler that puts lines of this label into the sink.
    public func handler(_ label: String) -> any LogHandler { SinkLogHandler(label: label, sink: self) }

    /// What became of lines so far.
    public var report: Report { state.withLock { $0.report } }

    /// Has somebody told when lines begin to be lost, and when that ends.
    public func tell(_ body: @escaping @Sendable (Notice) -> Void) {
        state.withLock { $0.onNotice = body }
    }

    /// Waits until everything is written, or for so long; lines that come later may be lost. May be called again. Blocks.
    public func finish(milliseconds: Int64 = 1000) {
        state.withLock { $0.isFinishing = true }
        work.signal()
        // It stays raised for whoever else ends.
        if finished.wait(milliseconds: milliseconds) { finished.signal() }
    }

    // MARK: Lines

    /// Queues a line; never waits.
    func write(_ source: LogBudgets.Source, _ line: () -> LogLine) {
        let now = SystemClock.monotonic()
        let before: UInt64? = state.withLock { state in
            let before = state.budgets.take(source, now: now)
            if before == nil { state.report.leftOut += 1 }
            return before
        }
        guard let before else { return }
        var line = line()
        if before > 0 { line.values.append(("leftOut", String(before))) }
        queue(line.bytes(format))
    }

    private func queue(_ bytes: [UInt8]) {
        let (notice, wakes) = state.withLock { state -> ((() -> Void)?, Bool) in
            guard state.waiting.count + bytes.count <= Limits.logQueueBytesMax else {
                return (LogSink.lose(1, why: Problem.slow, &state), false)
            }
            let wakes = state.waiting.isEmpty && !state.isWriting
            state.waiting += bytes
            state.report.waitingBytes = state.waiting.count
            return (nil, wakes)
        }
        if wakes { work.signal() }
        notice?()
    }

    /// Counts lost lines; what is to be called, outside of the lock, when they are the first.
    private static func lose(_ lines: UInt64, why: String, _ state: inout State) -> (() -> Void)? {
        state.report.lost += lines
        state.unsaid += lines
        guard state.report.losingSince == nil else { return nil }
        state.report.losingSince = SystemWallClock().now()
        state.reason = why
        guard let tell = state.onNotice else { return nil }
        return { tell(.losing(why)) }
    }

    // MARK: The thread

    private func run() {
        while true {
            _ = work.wait(milliseconds: Int64(Limits.logSummarySeconds) * 1000)
            while let batch = take() { write(batch) }
            guard state.withLock({ $0.isFinishing && $0.waiting.isEmpty }) else { continue }
            return finished.signal()
        }
    }

    /// Lines that are written together.
    private struct Batch {
        var bytes: [UInt8]
        /// How many lost lines the last line tells of; 0 where it is a line like the others.
        var tells: UInt64 = 0
    }

    /// What is to be written next: what waits, then what has to be said of what was lost, which came after it, and of
    /// what was left out.
    private func take() -> Batch? {
        let now = SystemClock.monotonic()
        return state.withLock { state in
            var batch = Batch(bytes: state.waiting)
            state.waiting = []
            if state.isFinishing || now >= state.summarisedAt + Limits.logSummarySeconds * 1_000_000_000 {
                state.summarisedAt = now
                for (source, count) in state.budgets.takeSummary() {
                    batch.bytes += ownLine(
                        "log lines were left out", ["source": source.name, "lines": String(count)])
                }
            }
            if state.unsaid > 0, let since = state.report.losingSince,
                !batch.bytes.isEmpty || now >= state.retryAt
            {
                batch.tells = state.unsaid
                batch.bytes += ownLine(
                    "log lines were lost",
                    [
                        "lines": String(state.unsaid), "since": Timestamp.text(since),
                        "reason": state.reason,
                    ])
                state.unsaid = 0
            }
            state.report.waitingBytes = batch.bytes.count
            state.isWriting = !batch.bytes.isEmpty
            return batch.bytes.isEmpty ? nil : batch
        }
    }

    private func write(_ batch: Batch) {
        var rest = batch.bytes[...]
        var problem: Int32 = 0
        while !rest.isEmpty, problem == 0 {
            let count = unsafe rest.withUnsafeBytes { bytes in
                unsafe Glibc.write(descriptor, bytes.baseAddress, bytes.count)
            }
            if count > 0 {
                rest = rest.dropFirst(count)
            } else if count < 0, errno == EAGAIN {
                // Somebody else has made the descriptor, which others share, one that does not block.
                var entry = pollfd(fd: descriptor, events: Int16(POLLOUT), revents: 0)
                _ = unsafe poll(&entry, 1, 1000)
            } else if count == 0 || errno != EINTR {
                problem = count == 0 ? EIO : errno
            }
        }
        let notice = state.withLock { wrote(batch, rest: rest, problem: problem, &$0) }
        notice?()
    }

    /// Notes what became of a batch; what is to be called, outside of the lock.
    private func wrote(
        _ batch: Batch, rest: ArraySlice<UInt8>, problem: Int32, _ state: inout State
    ) -> (() -> Void)? {
        let all = LogSink.lines(batch.bytes[...])
        let left = LogSink.lines(rest)
        state.report.written += all - left
        state.report.waitingBytes = state.waiting.count
        state.isWriting = false
        guard problem == 0 else {
            state.retryAt = SystemClock.monotonic() + Limits.logSummarySeconds * 1_000_000_000
            state.unsaid += batch.tells
            let own: UInt64 = batch.tells > 0 ? 1 : 0
            return LogSink.lose(left - own, why: ReactorError.text(errno: problem), &state)
        }
        guard batch.tells > 0, state.unsaid == 0 else { return nil }
        state.report.losingSince = nil
        guard let tell = state.onNotice else { return nil }
        return { tell(.recovered(lost: batch.tells)) }
    }

    private func ownLine(_ message: String, _ values: KeyValuePairs<String, String>) -> [UInt8] {
        LogLine(
            milliseconds: SinkLogHandler.milliseconds(), level: .warning, label: label, message: message,
            values: values.map { ($0.key, $0.value) }
        ).bytes(format)
    }

    private static func lines(_ bytes: ArraySlice<UInt8>) -> UInt64 {
        bytes.reduce(0) { $1 == UInt8(ascii: "\n") ? $0 + 1 : $0 }
    }
}
