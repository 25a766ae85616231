import Core
import Logging
import Reactor

/// Lines about opens, closes and refusals: a bounded number a second, the rest as a count. Refusals, which anybody can
/// cause, take nothing from the others.
struct AccessLog {
    private struct Window {
        var second: UInt64 = 0
        var lines = 0
        var suppressed = 0
    }

    private let logger: Logger
    private var deeds = Window()
    private var refusals = Window()

    init(logger: Logger) {
        self.logger = logger
    }

    mutating func info(
        _ message: Logger.Message, _ metadata: @autoclosure () -> Logger.Metadata, file: String = #fileID,
        line: UInt = #line
    ) {
        write(
            .info, message, metadata, \.deeds, max: Limits.accessLogLinesPerSecond, file: file, line: line)
    }

    mutating func warning(
        _ message: Logger.Message, _ metadata: @autoclosure () -> Logger.Metadata, file: String = #fileID,
        line: UInt = #line
    ) {
        write(
            .warning, message, metadata, \.refusals, max: Limits.refusalLogLinesPerSecond, file: file,
            line: line)
    }

    private mutating func write(
        _ level: Logger.Level, _ message: Logger.Message, _ metadata: () -> Logger.Metadata,
        _ window: WritableKeyPath<AccessLog, Window>, max: Int, file: String, line: UInt
    ) {
        guard level >= logger.logLevel else { return }
        let now = SystemClock.monotonic() / 1_000_000_000
        if now != self[keyPath: window].second {
            self[keyPath: window].second = now
            self[keyPath: window].lines = 0
        }
        guard self[keyPath: window].lines < max else {
            self[keyPath: window].suppressed += 1
            return
        }
        self[keyPath: window].lines += 1
        var metadata = metadata()
        if self[keyPath: window].suppressed > 0 {
            metadata["suppressed"] = "\(self[keyPath: window].suppressed)"
            self[keyPath: window].suppressed = 0
        }
        logger.log(level: level, message, metadata: metadata, file: file, line: line)
    }
}
