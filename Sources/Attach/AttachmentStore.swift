import Core
import FoundationEssentials
import Glibc

/// What is kept about an attachment while it lasts, one file each.
struct AttachmentRecord: Codable, Sendable, Equatable {
    /// Where the attachment is in its life.
    enum State: String, Codable, Sendable {
        case attached
        /// The connection was lost; requests wait while it is made again.
        case reconnecting
        /// The connection was lost for good; every request fails.
        case disconnected
        /// The server took the right away; every request fails.
        case revoked
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

    /// The key of a volume of a server: one attachment of it at a time.
    static func key(volume: String, server: String) -> String {
        let place = server.split(separator: "/").last.map(String.init) ?? server
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
        let encoder = JSONEncoder()
        encoder.outputFormatting = [.sortedKeys, .withoutEscapingSlashes, .prettyPrinted]
        guard let data = try? encoder.encode(record) else {
            throw AttachError(.system, "the attachment's record cannot be written as JSON")
        }
        let bytes = Array(data) + [UInt8(ascii: "\n")]
        let (path, temporary) = (path(record.key, ".json"), path(record.key, ".new"))
        let descriptor = unsafe open(temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0o600)
        guard descriptor >= 0 else { throw .system(errno, "cannot write \(temporary)") }
        let written = unsafe Glibc.write(descriptor, bytes, bytes.count)
        let problem = written == bytes.count ? 0 : (written < 0 ? errno : ENOSPC)
        close(descriptor)
        guard problem == 0 else { throw .system(problem, "cannot write \(temporary)") }
        guard unsafe rename(temporary, path) == 0 else { throw .system(errno, "cannot write \(path)") }
    }

    /// Takes a record and its mount folder away; the log stays.
    func remove(_ key: String) {
        _ = unsafe rmdir(mountFolder(key))
        _ = unsafe unlink(path(key, ".json"))
    }

    /// Claims a key for this process until it ends; nil when another process has it.
    func claim(_ key: String) throws(AttachError) -> Int32? {
        try create()
        let descriptor = unsafe open(path(key, ".lock"), O_RDWR | O_CREAT | O_CLOEXEC, 0o600)
        guard descriptor >= 0 else { throw .system(errno, "cannot open \(path(key, ".lock"))") }
        guard flock(descriptor, LOCK_EX | LOCK_NB) == 0 else {
            close(descriptor)
            return nil
        }
        return descriptor
    }
}
