import Core
import FoundationEssentials
import Glibc
import Reactor

/// What is kept about a volume while it is being attached, one file each.
struct AttachingRecord: Codable, Sendable, Equatable {
    var key: String
    /// The volume's name, without `volume/`.
    var volume: String
    var server: String
    var isReadOnly: Bool
    var channels: Int
    var detachesOnUnmount: Bool
    var process: ProcessIdentity
    /// Unix seconds.
    var since: UInt64
    /// What it waits for.
    var reason: String

    /// A sentence.
    var text: String {
        if process.isStopped {
            return
                "process \(process.pid), which attaches it, is stopped until it goes on (kill -CONT \(process.pid))"
        }
        return "since \(Timestamp.text(since)) it waits: \(reason)"
    }
}

extension Attachment {
    /// One that is yet to be.
    init(_ record: AttachingRecord, store: AttachmentStore) {
        volume = "volume/\(record.volume)"
        volumeID = ""
        server = record.server
        device = ""
        size = 0
        blockSize = 0
        isReadOnly = record.isReadOnly
        channels = record.channels
        pid = record.process.pid
        since = record.since
        state = Attachment.attaching
        message = "\(record.text); to stop that: sluice detach volume/\(record.volume)"
        failedRequests = 0
        lostRequests = 0
        mounts = []
        partitions = []
        memory = record.process.memory("VmRSS")
        lockedMemory = record.process.memory("VmLck")
        let log = store.logFile(record.key)
        logFile = unsafe access(log, F_OK) == 0 ? log : nil
        detachesOnUnmount = record.detachesOnUnmount
        key = record.key
    }

    /// The state of one that is yet to be, which has no device.
    static var attaching: String { "attaching" }
    /// It is being attached, and has no device yet.
    public var isAttaching: Bool { state == Attachment.attaching }
}

extension AttachmentStore {
    private static var suffix: String { ".attaching" }

    /// What is being attached, by processes that run.
    func attaching() -> [AttachingRecord] {
        TextFile.names(in: folder).filter { $0.hasSuffix(Self.suffix) }.sorted().compactMap {
            attaching(String($0.dropLast(Self.suffix.count)))
        }
    }

    func attaching(_ key: String) -> AttachingRecord? {
        guard let bytes = TextFile.bytes(path(key, Self.suffix)), bytes.count <= AttachLimits.recordBytesMax,
            let record = try? JSONDecoder().decode(AttachingRecord.self, from: Data(bytes)),
            record.key == key, record.process.isAlive
        else { return nil }
        return record
    }

    func write(_ record: AttachingRecord) throws(AttachError) {
        try write(record, path(record.key, Self.suffix))
    }

    /// It is attached, or will not be.
    func endAttaching(_ key: String) { _ = unsafe unlink(path(key, Self.suffix)) }
}

extension Attachments {
    /// Ends the process that attaches a volume; nothing is left of it.
    static func stopAttaching(
        _ attachment: Attachment, isForced: Bool, in store: AttachmentStore
    ) throws(AttachError) {
        guard let record = store.attaching(attachment.key), record.process.pid == attachment.pid else {
            throw AttachError(
                .notFound, "\(attachment.volume) is not being attached any more; see 'sluice status'")
        }
        if record.process.isStopped, isForced { _ = record.process.signal(SIGKILL) }
        _ = record.process.signal(SIGTERM)
        let patience =
            isForced ? Int32(AttachLimits.forceNanoseconds / 1_000_000) : AttachLimits.detachMilliseconds
        var hasEnded = record.process.waitUntilEnded(milliseconds: patience)
        if !hasEnded, isForced {
            _ = record.process.signal(SIGKILL)
            hasEnded = record.process.waitUntilEnded(milliseconds: patience)
        }
        guard hasEnded else {
            throw AttachError(
                .busy,
                "process \(record.process.pid), which attaches \(attachment.volume), has not ended in \(patience / 1000) "
                    + "seconds: \(record.text). To end it at once: sluice detach --force \(attachment.volume)"
            )
        }
        store.removeLeftOver(record.key)
    }
}

/// How the process that a command has started in the background tells it that the device is there.
struct BackgroundStart {
    let process: Int32
    let key: String
    let options: AttachOptions
    let store: AttachmentStore
    let signals: HeldSignals

    /// Waits for the message, and says after some seconds what for.
    ///
    /// - Throws: `AttachError`, when a signal came: the process has been ended then.
    func message(from pipe: Int32, waiting: (String) -> Void) throws(AttachError) -> [UInt8] {
        let begin = SystemClock.monotonic()
        var (bytes, said): ([UInt8], String?) = ([], nil)
        var chunk = [UInt8](repeating: 0, count: 4096)
        while bytes.count < AttachLimits.recordBytesMax {
            var entry = pollfd(fd: pipe, events: Int16(POLLIN), revents: 0)
            if unsafe poll(&entry, 1, AttachLimits.startLookMilliseconds) > 0 {
                let count = unsafe read(pipe, &chunk, chunk.count)
                if count < 0, errno == EINTR { continue }
                guard count > 0 else { break }
                bytes += chunk[..<count]
            }
            if let number = signals.taken() { throw stopped(by: number, pipe) }
            guard SystemClock.monotonic() - begin > AttachLimits.silentNanoseconds,
                let now = store.attaching(key), now.process.pid == process, now.text != said
            else { continue }
            waiting("volume/\(options.volume) is being attached: \(now.text)")
            said = now.text
        }
        return bytes
    }

    /// What the process had to say at its end, as far as it is there.
    private func lastWords(from pipe: Int32) -> AttachProcess.ReadyMessage? {
        var entry = pollfd(fd: pipe, events: Int16(POLLIN), revents: 0)
        guard unsafe poll(&entry, 1, 0) > 0 else { return nil }
        var bytes = [UInt8](repeating: 0, count: AttachLimits.recordBytesMax)
        let count = unsafe read(pipe, &bytes, bytes.count)
        guard count > 0 else { return nil }
        return try? JSONDecoder().decode(AttachProcess.ReadyMessage.self, from: Data(bytes[..<count]))
    }

    /// Waits for the end of the process while nobody insists; whether it has come.
    private func hasEnded(_ identity: ProcessIdentity) -> Bool {
        let end = SystemClock.monotonic() + AttachLimits.forceAtMostNanoseconds
        while SystemClock.monotonic() < end, signals.taken() == nil {
            if identity.waitUntilEnded(milliseconds: AttachLimits.startLookMilliseconds) { return true }
        }
        return identity.waitUntilEnded(milliseconds: 0)
    }

    /// Ends the process, and says what became of it.
    private func stopped(by number: Int32, _ pipe: Int32) -> AttachError {
        let volume = "volume/\(options.volume)"
        let signal = number == SIGINT ? "interrupted" : "stopped by a signal"
        guard !options.takesOver else {
            return AttachError(
                .interrupted,
                "\(signal); process \(process) goes on taking \(volume) over: see 'sluice status'")
        }
        guard let identity = ProcessIdentity(pid: process), identity.signal(SIGTERM),
            !hasEnded(identity)
        else {
            store.removeLeftOver(key)
            let left = lastWords(from: pipe)?.left.map { "; \($0)" } ?? ""
            return AttachError(.interrupted, "\(signal); \(volume) is not attached\(left)")
        }
        if let record = store.record(key), record.process == identity {
            return AttachError(
                .interrupted,
                "\(signal); \(volume) is attached all the same, as \(record.device): take it away with: "
                    + "sluice detach \(volume)")
        }
        return AttachError(
            .interrupted,
            "\(signal); process \(process) ends as soon as what it waits for has ended: see 'sluice status'")
    }
}
