import ControlPlane
import Logs
import Synchronization

/// What the server has said and not written down yet: whoever ends the process has it written first. Any thread.
final class LastWords: Sendable {
    private let log: LogSink
    private let events = Mutex<EventFile?>(nil)

    init(_ log: LogSink) { self.log = log }

    /// From now on there are events, too.
    func include(_ file: EventFile) { events.withLock { $0 = file } }

    /// Writes events, then what the log has; gives up each after so long, as a disk or a reader may hang. Blocks. What is
    /// said later may be lost.
    func write(milliseconds: Int64 = 1000) {
        events.withLock { $0 }?.finish(milliseconds: milliseconds)
        log.finish(milliseconds: milliseconds)
    }
}
