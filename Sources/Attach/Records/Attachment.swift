import CFUSE
import Core
import Glibc

/// A volume that is attached to this machine as a block device.
public struct Attachment: Codable, Sendable, Equatable {
    /// The volume, as `volume/NAME`.
    public var volume: String
    /// The volume's id, 32 hex digits.
    public var volumeID: String
    /// The control API of its server.
    public var server: String
    /// The block device, such as `/dev/loop3`; empty while there is none yet.
    public var device: String
    /// Bytes.
    public var size: UInt64
    /// The most bytes that it may have by its capability; nil where it grows with the volume.
    public var sizeMax: UInt64?
    /// The device's logical block size in bytes.
    public var blockSize: UInt32
    /// Writes are refused.
    public var isReadOnly: Bool
    /// Connections to the server.
    public var channels: Int
    /// The process that serves the device.
    public var pid: Int32
    /// Unix seconds.
    public var since: UInt64
    /// `attaching`, while there is no device yet; `attached`; `waiting`, while the server cannot answer requests, or takes
    /// them and answers nothing; `reconnecting`, while requests wait for a connection; `failed`, when some have
    /// failed and the device goes on; `stopped`, while the process that serves it is stopped; `disconnected` or
    /// `revoked`, when every request fails; `stale`, when nothing serves the device, or it is gone.
    public var state: String
    /// What there is to say about the state.
    public var message: String?
    /// Since when requests have failed, in Unix seconds; nil while none has.
    public var failedSince: UInt64?
    /// How many have.
    public var failedRequests: UInt64
    /// How many of them may have lost what was written.
    public var lostRequests: UInt64
    /// Why the first did.
    public var failure: String?
    /// The folders that the device and its partitions are mounted on now.
    public var mounts: [String]
    /// Where they are mounted in other mount namespaces, when they are not in this one; nil for nowhere.
    public var mountsElsewhere: [MountElsewhere]?
    /// Its partitions, such as `/dev/loop3p1`.
    public var partitions: [String]
    /// What the process that serves it has in memory, in bytes; nil when it is gone.
    public var memory: UInt64?
    /// What of that process's address space is locked, whether used or not, in bytes; nil when it is gone.
    public var lockedMemory: UInt64?
    /// Where the process that serves it writes its log; nil for one in the foreground.
    public var logFile: String?
    /// It was attached only to be mounted: `umount` detaches it.
    public var detachesOnUnmount: Bool
    /// The name of its record.
    public var key: String

    init(_ record: AttachmentRecord, store: AttachmentStore, mounts: [MountPoint]) {
        volume = "volume/\(record.volume)"
        volumeID = record.volumeID
        server = record.server
        device = record.device
        size = record.size
        sizeMax = record.sizeMax
        blockSize = record.blockSize
        isReadOnly = record.isReadOnly
        channels = record.channels
        pid = record.process.pid
        since = record.since
        (state, message) = Self.state(record)
        let numbers = record.loop.isPresent ? DiskNumbers(path: record.device) : nil
        self.mounts = mounts.filter { numbers?.contains($0) ?? false }.map(\.folder)
        partitions = numbers?.partitions ?? []
        memory = record.process.memory("VmRSS")
        lockedMemory = record.process.memory("VmLck")
        let log = store.logFile(record.key)
        logFile = unsafe access(log, F_OK) == 0 ? log : nil
        failedSince = record.failures?.since
        failedRequests = record.failures?.count ?? 0
        lostRequests = record.failures?.total.lost ?? 0
        failure = record.failures?.reason
        detachesOnUnmount = record.detachesOnUnmount
        key = record.key
    }

    /// Whether a device of that size may become larger with its volume.
    public func mayGrow(from size: UInt64) -> Bool { self.size == size && size < sizeMax ?? .max }

    /// What the record says, where the kernel does not say otherwise.
    private static func state(_ record: AttachmentRecord) -> (String, String?) {
        let stale = AttachmentRecord.State.stale.rawValue
        let advice = "clean up with 'sluice detach volume/\(record.volume)', or attach it again"
        guard record.process.boot == ProcessIdentity.currentBoot else {
            return (stale, "an earlier run of this machine left it; \(advice)")
        }
        if record.state == .stale { return (stale, record.message) }
        guard record.process.isAlive else {
            let use = record.loop.isPresent ? "; every request of \(record.device) fails" : ""
            return (stale, "its process has ended\(use); \(advice)")
        }
        guard record.loop.isPresent else {
            return (
                stale,
                "\(record.device) was taken away from outside, and is not its device any more; \(advice)"
            )
        }
        if record.process.isStopped {
            return (
                "stopped",
                "process \(record.process.pid), which serves it, is stopped: requests wait until it goes on "
                    + "(kill -CONT \(record.process.pid))"
            )
        }
        if record.state.isWell, let since = record.unansweredSince {
            return (
                "waiting",
                "since \(Timestamp.text(since)): the server takes what is sent and answers nothing, not even a PING; "
                    + "requests wait, and the connection is made anew when that goes on. The server's log and "
                    + "events say what it does"
            )
        }
        return (record.state.rawValue, record.messageWithFailures)
    }
}

/// The attachments of this machine. Everything here blocks; never call it in a process that serves one.
public enum Attachments {
    /// All of them, those whose process has ended too, by name.
    ///
    /// - Parameter looksElsewhere: whether places in other mount namespaces are looked for, among those of every process.
    public static func list(looksElsewhere: Bool = false) -> [Attachment] {
        list(.standard, looksElsewhere: looksElsewhere)
    }

    static func list(_ store: AttachmentStore, looksElsewhere: Bool = false) -> [Attachment] {
        let mounts = MountTable.read()
        // What is being attached is read first: read second, what gets its device in between would be in neither list.
        let attaching = store.attaching()
        let records = store.records()
        let keys = Set(records.map(\.key))
        let attached = records.map { Attachment($0, store: store, mounts: mounts) }
        return (looksElsewhere ? mountedElsewhere(attached) : attached)
            + attaching.filter { !keys.contains($0.key) }.map { Attachment($0, store: store) }
    }

    /// The same, each that is not mounted here with the places of other mount namespaces where it is.
    private static func mountedElsewhere(_ attachments: [Attachment]) -> [Attachment] {
        guard attachments.contains(where: \.mounts.isEmpty) else { return attachments }
        let tables = MountElsewhere.tables()
        return attachments.map { attachment in
            guard attachment.mounts.isEmpty, attachment.state != AttachmentRecord.State.stale.rawValue,
                let numbers = DiskNumbers(path: attachment.device)
            else { return attachment }
            var attachment = attachment
            let places = tables.flatMap { $0.places(of: numbers) }
            attachment.mountsElsewhere = places.isEmpty ? nil : places
            return attachment
        }
    }

    /// The attachment of a volume (`volume/NAME`), of a device (`/dev/loop3`), or of what is mounted on a
    /// folder.
    ///
    /// Where a volume is attached from several servers, `server` chooses; with `isOnly` nothing of another server
    /// is found at all.
    public static func find(
        _ name: String, server: String? = nil, isOnly: Bool = false
    ) throws(AttachError) -> Attachment {
        try find(name, server: server, isOnly: isOnly, in: .standard)
    }

    static func find(
        _ name: String, server: String? = nil, isOnly: Bool = false, in store: AttachmentStore
    ) throws(AttachError) -> Attachment {
        let all = list(store)
        let folder = name.hasPrefix("volume/") ? nil : FilePath.absolute(name)
        let named = all.filter {
            $0.volume == name || $0.volume == "volume/\(name)" || $0.device == name
                || (folder.map($0.mounts.contains) ?? false)
        }
        let place = server.map(AttachmentStore.place)
        let chosen = named.filter { AttachmentStore.place($0.server) == place }
        let matches = isOnly || (named.count > 1 && !chosen.isEmpty) ? chosen : named
        if matches.count > 1 {
            let devices = matches.map { "\($0.device) (\($0.server))" }.joined(separator: ", ")
            throw AttachError(
                .usage,
                "\(name) is attached from more than one server; name the device, or the server by --server: \(devices)"
            )
        }
        guard let match = matches.first else {
            let from = named.isEmpty ? "" : " from \(server ?? "")"
            let known = (named.isEmpty ? all : named).map {
                named.isEmpty ? $0.volume : "\($0.volume) from \($0.server)"
            }
            throw AttachError(
                .notFound,
                "\(name) is not attached here\(from); "
                    + (known.isEmpty ? "nothing is attached" : "attached: \(known.joined(separator: ", "))")
                    + "; see 'sluice status'")
        }
        return match
    }
}

/// Paths of files.
enum FilePath {
    /// The path without links, dots and doubled slashes; as it is when there is no such file.
    static func absolute(_ path: String) -> String {
        guard let resolved = unsafe realpath(path, nil) else { return path }
        defer { unsafe free(resolved) }
        return unsafe String(cString: resolved)
    }
}

/// The FUSE mount of an attachment, seen from another process.
enum FuseMount {
    /// Takes the mount away; nothing happens when there is none.
    static func remove(_ folder: String) throws(AttachError) {
        for _ in 0..<2 {
            // Forced: whatever still waits for its server fails, and nobody waits for this.
            guard unsafe umount2(folder, Int32(MNT_FORCE) | Int32(MNT_DETACH) | umountNoFollow) == 0 else {
                guard errno == EINVAL || errno == ENOENT else {
                    throw .system(errno, "cannot unmount \(folder)")
                }
                return
            }
        }
    }

    /// UMOUNT_NOFOLLOW of umount2(2).
    static var umountNoFollow: Int32 { 8 }
}
