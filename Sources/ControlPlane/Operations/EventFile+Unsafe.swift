import Core
import Glibc
import Logging
import Reactor
import Services
import Synchronization

/// The events of all runs of the server, in a file of JSON lines that a thread of its own writes.
///
/// An event is on the disk a tenth of a second after it happened. The thread writes the file anew when more than
/// half of it is no longer kept, and after every failure, so that the file holds what the log holds. While it
/// cannot be written, the events stay in memory, and `problem` says why. Any thread.
public final class EventFile: EventKeeper {
    private struct State {
        var waiting: [ServerEvent] = []
        /// The file lacks something, or has too much.
        var mustRewrite = false
        var isFinishing = false
        var history: (@Sendable () -> EventHistory)?
        /// Why the file cannot be written; nil while it can.
        var problem: String?
    }

    private let path: String
    private let logger: Logger
    private let state = Mutex(State())
    private let work = ThreadSemaphore()
    private let pause = ThreadSemaphore()
    private let finished = ThreadSemaphore()

    /// The file, which need not exist.
    public init(path: String, logger: Logger) {
        self.path = path
        self.logger = logger
    }

    /// Why events are not being written; nil while they are.
    public var problem: String? { state.withLock { $0.problem } }

    /// The events in the file that are not too old at `now` (Unix seconds). A line that is no event, such as one
    /// that a crash cut, is left out; a file that cannot be read has none. Call it before `follow`.
    public func load(now: UInt64) -> EventHistory {
        var history = EventHistory()
        guard PrivateFiles.exists(path) else { return history }
        let bytes: [UInt8]
        do throws(AuthorityError) {
            bytes = try PrivateFiles.read(path, bytesMax: Limits.eventFileBytesMax)
        } catch {
            // The file is kept for whoever may look into it; this run begins another.
            logger.error("the events of earlier runs cannot be read", metadata: ["reason": "\(error)"])
            _ = unsafe rename(path, path + ".unreadable")
            return history
        }
        var isWhole = bytes.last == UInt8(ascii: "\n")
        for line in bytes.split(separator: UInt8(ascii: "\n")) {
            guard let value = try? JSONParser.parse(Array(line)) else {
                isWhole = false
                continue
            }
            if case .integer(let id) = value["droppedUpTo"] {
                history.droppedUpTo = max(history.droppedUpTo ?? 0, id)
            } else if let event = EventFile.event(value), event.id > history.events.last?.id ?? 0 {
                if event.at + Limits.eventSecondsKept >= now {
                    history.events.append(event)
                } else {
                    history.droppedUpTo = max(history.droppedUpTo ?? 0, event.id)
                }
            } else {
                isWhole = false
            }
        }
        // A file that was never written anew has everything since its first event.
        if history.droppedUpTo == nil { history.droppedUpTo = history.events.first.map { $0.id - 1 } }
        if !isWhole { logger.warning("the file of events was damaged; what can be read of it is kept") }
        // Nobody knows how much of a long file is still kept: the thread writes it anew, or it would grow from run
        // to run.
        state.withLock { $0.mustRewrite = !isWhole || bytes.count > Limits.eventFileSlackBytes }
        return history
    }

    /// Begins to write what `keep` is told; `history` is everything that is kept. Until `finish`.
    public func follow(_ history: @escaping @Sendable () -> EventHistory) throws(ReactorError) {
        state.withLock { $0.history = history }
        try DetachedThread.start(name: "events") { [self] in run() }
        work.signal()
    }

    /// Has an event written; does not wait.
    public func keep(_ event: ServerEvent) {
        let wakes = state.withLock { state in
            if state.waiting.count >= Limits.eventsWaitingMax {
                // Events come faster than the disk takes them: the next rewrite has those that the log still keeps
                // then.
                state.waiting.removeAll(keepingCapacity: true)
                state.mustRewrite = true
            }
            state.waiting.append(event)
            return state.waiting.count == 1
        }
        if wakes { work.signal() }
    }

    /// Writes what waits, or gives up after so long; may be called again. Blocks.
    public func finish(milliseconds: Int64 = 2000) {
        state.withLock { $0.isFinishing = true }
        pause.signal()
        work.signal()
        // It stays raised for whoever else ends.
        if finished.wait(milliseconds: milliseconds) { finished.signal() }
    }

    // MARK: The thread

    private func run() {
        var file = OpenFile(path: path)
        while true {
            _ = work.wait(milliseconds: Limits.eventRetryMilliseconds)
            let (events, mustRewrite, isFinishing) = state.withLock { state in
                defer {
                    state.waiting.removeAll(keepingCapacity: true)
                    state.mustRewrite = false
                }
                return (state.waiting, state.mustRewrite, state.isFinishing)
            }
            let problem =
                mustRewrite || file.isMostlyStale ? rewrite(&file) : file.append(events)
            note(problem)
            if isFinishing { return finished.signal() }
            // Many events share a write, however fast they come.
            _ = pause.wait(
                milliseconds: problem == nil ? Limits.eventPauseMilliseconds : Limits.eventRetryMilliseconds)
        }
    }

    /// Writes the file anew; nil, or what went wrong.
    private func rewrite(_ file: inout OpenFile) -> String? {
        guard let history = state.withLock({ $0.history })?() else { return nil }
        var bytes: [UInt8] = []
        if let id = history.droppedUpTo { bytes += JSONValue.object(["droppedUpTo": .integer(id)]).text }
        for event in history.events { bytes += EventStream.json(event).text }
        do throws(AuthorityError) { try PrivateFiles.write(bytes, to: path) } catch { return "\(error)" }
        file.wasReplaced(bytes: bytes.count, lastID: history.events.last?.id ?? 0)
        return nil
    }

    private func note(_ problem: String?) {
        let before = state.withLock { state in
            defer { state.problem = problem }
            if problem != nil { state.mustRewrite = true }
            return state.problem
        }
        if let problem, before == nil {
            logger.error(
                "events cannot be written down, and are kept in memory", metadata: ["reason": "\(problem)"])
        } else if problem == nil, before != nil {
            logger.notice("events are written down again")
        }
    }

    private static func event(_ value: JSONValue) -> ServerEvent? {
        guard case .integer(let id) = value["id"], case .string(let at) = value["at"],
            let seconds = Timestamp.parse(at), case .string(let name) = value["kind"],
            let kind = ServerEvent.Kind(rawValue: name), case .string(let subject) = value["subject"],
            case .string(let message) = value["message"]
        else { return nil }
        var by: String?
        if case .string(let name) = value["by"] { by = name }
        return ServerEvent(id: id, at: seconds, kind: kind, subject: subject, message: message, by: by)
    }
}

/// The file, open for more.
private struct OpenFile: ~Copyable {
    private let path: String
    private var fd: Int32 = -1
    /// Bytes of the file, and of what it had when it was written anew.
    private var bytes = 0
    private var bytesAtRewrite = 0
    /// The newest event in it that is known.
    private var lastID: UInt64 = 0

    init(path: String) { self.path = path }

    deinit { if fd >= 0 { Glibc.close(fd) } }

    /// More than half of it may be what is no longer kept.
    var isMostlyStale: Bool { bytes > 2 * bytesAtRewrite + Limits.eventFileSlackBytes }

    mutating func wasReplaced(bytes: Int, lastID: UInt64) {
        self.lastID = lastID
        if fd >= 0 { Glibc.close(fd) }
        fd = -1
        self.bytes = bytes
        bytesAtRewrite = bytes
    }

    /// Appends events and waits until they are on the disk; nil, or what went wrong.
    mutating func append(_ events: [ServerEvent]) -> String? {
        // What came while the file was written anew may be in it.
        let events = events.filter { $0.id > lastID }
        guard let last = events.last else { return nil }
        let problem = write(events.flatMap { EventStream.json($0).text })
        if problem == nil { lastID = last.id }
        return problem
    }

    private mutating func write(_ text: [UInt8]) -> String? {
        if fd < 0 {
            fd = unsafe open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NOFOLLOW, 0o600)
            guard fd >= 0 else { return ReactorError.text(errno: errno) }
            bytes = max(0, Int(lseek(fd, 0, SEEK_END)))
            if bytesAtRewrite == 0 { bytesAtRewrite = bytes }
        }
        var rest = text[...]
        while !rest.isEmpty {
            let count = unsafe rest.withUnsafeBytes { unsafe Glibc.write(fd, $0.baseAddress, $0.count) }
            if count < 0, errno == EINTR { continue }
            guard count > 0 else { return ReactorError.text(errno: count == 0 ? EIO : errno) }
            rest = rest.dropFirst(count)
            bytes += count
        }
        return fdatasync(fd) == 0 ? nil : ReactorError.text(errno: errno)
    }
}
