import Core
import Logging
import Reactor

/// Lines about opens, closes and refusals: a bounded number a second, the rest as a count.
struct AccessLog {
    private let logger: Logger
    private var second: UInt64 = 0
    private var lines = 0
    private var suppressed = 0

    init(logger: Logger) {
        self.logger = logger
    }

    mutating func info(_ message: Logger.Message, _ metadata: @autoclosure () -> Logger.Metadata) {
        write(.info, message, metadata)
    }

    mutating func warning(_ message: Logger.Message, _ metadata: @autoclosure () -> Logger.Metadata) {
        write(.warning, message, metadata)
    }

    private mutating func write(
        _ level: Logger.Level, _ message: Logger.Message, _ metadata: () -> Logger.Metadata
    ) {
        guard level >= logger.logLevel else { return }
        let now = SystemClock.monotonic() / 1_000_000_000
        if now != second {
            second = now
            lines = 0
        }
        guard lines < Limits.accessLogLinesPerSecond else {
            suppressed += 1
            return
        }
        lines += 1
        var metadata = metadata()
        if suppressed > 0 {
            metadata["suppressed"] = "\(suppressed)"
            suppressed = 0
        }
        logger.log(level: level, message, metadata: metadata)
    }
}
