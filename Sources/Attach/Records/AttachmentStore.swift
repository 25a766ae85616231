import Core
import FoundationEssentials
import Glibc
import Reactor

/// What is kept about an attachment while it lasts, one file each.
struct AttachmentRecord: Codable, Sendable, Equatable {
    /// Where the attachment is in its life.
    enum State: String, Codable, Sendable {
        case attached
        /// The connection was lost, or the capability has ended; requests wait while it is made again.
        case reconnecting
        /// The server cannot answer requests now: its driver is away, or the pool has no space.
        case waiting
        /// Requests have failed; those to come are served.
        case failed
        /// The connection was lost for good; every request fails.
        case disconnected
        /// The server took the right away; every request fails.
        case revoked
        /// The device or its file system was taken away from outside; nothing serves it.
        case stale

        /// Whether requests are served, or wait to be.
        var isServing: Bool {
            switch self {
            case .attached, .reconnecting, .waiting, .failed: true
            case .disconnected, .revoked, .stale: false
            }
        }

        /// Whether requests are served now.
        var isWell: Bool { self == .attached || self == .failed }

        /// Whether requests wait for the server.
        var isWaiting: Bool { self == .reconnecting || self == .waiting }
    }

    /// Requests that failed.
    struct Failures: Codable, Sendable, Equatable {
        /// Unix seconds of the first.
        var since: UInt64
        var count: UInt64
        /// How many of them may have lost what was written; nil in the records of older versions.
        var lost: UInt64?
        /// Of the first, in words.
        var reason: String

        var total: FailureTotal { FailureTotal(all: count, lost: lost ?? count) }

        /// A sentence.
        var text: String {
            "since \(Timestamp.text(since)) \(count.counted("request has failed", "requests have failed")): \(reason)"
        }
    }

    /// The name of the record, and of the files that belong to it.
    var key: String
    /// The volume's name, without `volume/`.
    var volume: String
    var volumeID: String
    var server: String
    var device: String
    /// What the loop device is marked with.
    var mark: String
    /// What tells the device from others of its name; nil in the records of older versions.
    var identity: LoopIdentity?
    /// Where the FUSE file system is mounted.
    var folder: String
    var process: ProcessIdentity
    /// Unix seconds.
    var since: UInt64
    var size: UInt64
    var blockSize: UInt32
    var isReadOnly: Bool
    var channels: Int
    var detachesOnUnmount: Bool
    var state: State
    var message: String?
    /// Since when the server takes what is sent and answers nothing, in Unix seconds.
    var unansweredSince: UInt64?
    /// Nil while none has failed.
    var failures: Failures?
    /// The most bytes that it may have by its capability; nil where it grows with the volume, and in the records of older
    /// versions.
    var sizeMax: UInt64?

    /// What was lost, as a sentence; nil when nothing was.
    var loss: String? {
        guard let failures, failures.total.lost > 0 else { return nil }
        return failures.text
    }

    /// What requests wait for, as a sentence.
    var obstacle: String { message ?? "requests wait for the server" }

    /// The message, and how much has failed where it does not say so.
    var messageWithFailures: String? {
        guard let failures, !state.isServing else { return message }
        return (message.map { "\($0); " } ?? "") + failures.text
    }
}

/// The folder with the state of this machine's attachments: `SLUICE_RUN`, else `/run/sluice` for root, else
/// `$XDG_RUNTIME_DIR/sluice`.
struct AttachmentStore: Sendable {
    let folder: String

    init(folder: String) { self.folder = folder }

    /// The store that the environment names.
    static var standard: AttachmentStore {
        if let named = environment("SLUICE_RUN") { return AttachmentStore(folder: named) }
        if geteuid() == 0 { return AttachmentStore(folder: "/run/sluice") }
        let base = environment("XDG_RUNTIME_DIR") ?? "/run/user/\(geteuid())"
        return AttachmentStore(folder: base + "/sluice")
    }

    private static func environment(_ name: String) -> String? {
        guard let value = unsafe getenv(name) else { return nil }
        let text = unsafe String(cString: value)
        return text.isEmpty ? nil : text
    }

    /// Host and port of a server's URL.
    static func place(_ server: String) -> String {
        server.split(separator: "/").last.map(String.init) ?? server
    }

    /// The key of a volume of a server: one attachment of it at a time.
    static func key(volume: String, server: String) -> String {
        let place = place(server)
        let safe = place.map {
            $0.isASCII && ($0.isLetter || $0.isNumber || $0 == "." || $0 == "-") ? $0 : "_"
        }
        return "\(volume)@\(String(safe.prefix(150)))"
    }

    func path(_ key: String, _ suffix: String) -> String { "\(folder)/\(key)\(suffix)" }
    func logFile(_ key: String) -> String { path(key, ".log") }
    func mountFolder(_ key: String) -> String { path(key, ".fuse") }

    /// Makes the folder, for this user only.
    func create() throws(AttachError) {
        var prefix = ""
        for part in folder.split(separator: "/") {
            prefix += "/\(part)"
            guard unsafe mkdir(prefix, 0o700) == 0 || errno == EEXIST else {
                throw .system(errno, "cannot make the folder \(prefix)")
            }
        }
    }

    /// Every record, those of ended processes too. A file that cannot be read as a record is left out.
    func records() -> [AttachmentRecord] {
        TextFile.names(in: folder).filter { $0.hasSuffix(".json") }.sorted().compactMap {
            record(String($0.dropLast(5)))
        }
    }

    func record(_ key: String) -> AttachmentRecord? {
        guard let bytes = TextFile.bytes(path(key, ".json")), bytes.count <= AttachLimits.recordBytesMax,
            let record = try? JSONDecoder().decode(AttachmentRecord.self, from: Data(bytes)),
            record.key == key
        else { return nil }
        return record
    }

    /// Writes a record, whole or not at all.
    func write(_ record: AttachmentRecord) throws(AttachError) {
        try write(record, path(record.key, ".json"))
    }

    func write(_ record: some Encodable, _ path: String) throws(AttachError) {
        let encoder = JSONEncoder()
        encoder.outputFormatting = [.sortedKeys, .withoutEscapingSlashes, .prettyPrinted]
        guard let data = try? encoder.encode(record) else {
            throw AttachError(.system, "the attachment's record cannot be written as JSON")
        }
        let bytes = Array(data) + [UInt8(ascii: "\n")]
        let temporary = "\(path).new"
        let descriptor = unsafe open(temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0o600)
        guard descriptor >= 0 else { throw .system(errno, "cannot write \(temporary)") }
        let written = unsafe Glibc.write(descriptor, bytes, bytes.count)
        let problem = written == bytes.count ? 0 : (written < 0 ? errno : ENOSPC)
        close(descriptor)
        guard problem == 0 else { throw .system(problem, "cannot write \(temporary)") }
        guard unsafe rename(temporary, path) == 0 else { throw .system(errno, "cannot write \(path)") }
    }

    /// Takes away everything that is kept under a key: the record, the mount folder, the log, and the claim, which the
    /// caller has.
    /// With `keepsClaim` claim and log stay: the caller goes on under the key.
    func remove(_ key: String, keepsClaim: Bool = false) {
        _ = unsafe rmdir(mountFolder(key))
        for suffix in [".json", ".json.new", ".attaching", ".attaching.new"]
            + (keepsClaim ? [] : [".log", ".lock"])
        {
            _ = unsafe unlink(path(key, suffix))
        }
    }

    /// Takes away the log of an attachment that did not come about, unless the key has a record.
    func removeLeftOver(_ key: String) {
        guard let lock = try? claim(key) else { return }
        defer { close(lock) }
        if record(key) == nil { remove(key) }
    }

    /// Claims a key for this process until it ends; nil when another process has it.
    func claim(_ key: String) throws(AttachError) -> Int32? { try lock(path(key, ".lock")) }

    /// Claims the key of a record whose process has ended: the last of its threads may do so a moment later, and
    /// have the claim as long. Nil when a process that lives has it.
    func claimOfEnded(_ record: AttachmentRecord) throws(AttachError) -> Int32? {
        let deadline = SystemClock.monotonic() + AttachLimits.forceNanoseconds
        while true {
            if let lock = try claim(record.key) { return lock }
            guard !record.process.isAlive, self.record(record.key)?.process == record.process,
                SystemClock.monotonic() < deadline
            else { return nil }
            Pause.microseconds(AttachLimits.busyAttemptMicroseconds)
        }
    }

    /// Claims the detaching of a key for this process until it closes the descriptor, or ends; nil when another process
    /// has it.
    func claimDetaching(_ key: String) throws(AttachError) -> Int32? { try lock(path(key, ".detach")) }

    /// Ends a claim for detaching.
    func endDetaching(_ key: String, _ descriptor: Int32) {
        _ = unsafe unlink(path(key, ".detach"))
        close(descriptor)
    }

    /// Whether some process detaches the attachment of a key now.
    func isDetaching(_ key: String) -> Bool {
        let descriptor = unsafe open(path(key, ".detach"), O_RDWR | O_CLOEXEC)
        guard descriptor >= 0 else { return false }
        defer { close(descriptor) }
        return flock(descriptor, LOCK_EX | LOCK_NB) != 0
    }

    private func lock(_ file: String) throws(AttachError) -> Int32? {
        try create()
        while true {
            let descriptor = unsafe open(file, O_RDWR | O_CREAT | O_CLOEXEC, 0o600)
            guard descriptor >= 0 else { throw .system(errno, "cannot open \(file)") }
            guard flock(descriptor, LOCK_EX | LOCK_NB) == 0 else {
                close(descriptor)
                return nil
            }
            // Whoever had it before may have removed the file meanwhile: then others lock another one.
            var (mine, named) = (stat(), stat())
            if unsafe fstat(descriptor, &mine) == 0, unsafe stat(file, &named) == 0,
                mine.st_ino == named.st_ino,
                mine.st_dev == named.st_dev
            {
                return descriptor
            }
            close(descriptor)
        }
    }
}
