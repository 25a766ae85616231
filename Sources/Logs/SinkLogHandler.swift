import Core
import Glibc
import Logging

/// Gives what a `Logger` says to a sink, with a budget for each place in the program and for each caller.
public struct SinkLogHandler: LogHandler {
    /// What every line of it has.
    public var metadata: Logger.Metadata = [:]
    /// The least level that is written.
    public var logLevel: Logger.Level = .info

    private let label: String
    private let sink: LogSink

    /// The value that names who caused a line, such as `node:compute-1`; lines that have it have a budget by it.
    public static let callerKey = "by"
    /// What such a name begins with where it is an administrator's.
    public static let administratorPrefix = "admin:"

    init(label: String, sink: LogSink) {
        self.label = label
        self.sink = sink
    }

    /// A value that every line has.
    public subscript(metadataKey key: String) -> Logger.Metadata.Value? {
        get { metadata[key] }
        set { metadata[key] = newValue }
    }

    /// Queues a line; never waits.
    public func log(event: LogEvent) {
        write(event.level, event.message, event.metadata, file: event.file, line: event.line)
    }

    private func write(
        _ level: Logger.Level, _ message: Logger.Message, _ own: Logger.Metadata?, file: String, line: UInt
    ) {
        let source: LogBudgets.Source
        if let caller = own?[Self.callerKey] {
            let name = caller.description
            source = LogBudgets.Source(
                name: String(name.prefix(128)), isTrusted: name.hasPrefix(Self.administratorPrefix))
        } else {
            source = LogBudgets.Source(name: "\(file.split(separator: "/").last ?? "")-\(line)")
        }
        sink.write(source) {
            var values = metadata
            if let own { values.merge(own) { _, new in new } }
            return LogLine(
                milliseconds: Self.milliseconds(), level: level, label: label, message: message.description,
                values: values.sorted { $0.key < $1.key }.map { ($0.key, $0.value.description) })
        }
    }

    /// Milliseconds of Unix time.
    static func milliseconds() -> UInt64 {
        var time = timespec()
        unsafe clock_gettime(CLOCK_REALTIME, &time)
        return UInt64(max(0, time.tv_sec)) &* 1000 &+ UInt64(time.tv_nsec / 1_000_000)
    }
}
