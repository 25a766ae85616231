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
    /// The block device, such as `/dev/loop3`.
    public var device: String
    /// Bytes.
    public var size: UInt64
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
    /// `attached`; `reconnecting`, while requests wait for the server; `disconnected` or `revoked`, when every
    /// request fails; `stale`, when its process has ended.
    public var state: String
    /// What there is to say about the state.
    public var message: String?
    /// The folders that the device is mounted on now.
    public var mounts: [String]
    /// Where the process that serves it writes its log.
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
        blockSize = record.blockSize
        isReadOnly = record.isReadOnly
        channels = record.channels
        pid = record.process.pid
        since = record.since
        state = record.process.isAlive ? record.state.rawValue : "stale"
        message =
            record.process.isAlive
            ? record.message : "its process has ended; clean up with: sluice detach volume/\(record.volume)"
        self.mounts = mounts.filter { $0.source == record.device }.map(\.folder)
        logFile = store.logFile(record.key)
        detachesOnUnmount = record.detachesOnUnmount
        key = record.key
    }
}

/// The attachments of this machine. Everything here blocks; never call it in a process that serves one.
public enum Attachments {
    /// All of them, those whose process has ended too, by name.
    public static func list() -> [Attachment] { list(.standard) }

    static func list(_ store: AttachmentStore) -> [Attachment] {
        let mounts = MountTable.read()
        return store.records().map { Attachment($0, store: store, mounts: mounts) }
    }

    /// The attachment of a volume (`volume/NAME`), of a device (`/dev/loop3`), or of what is mounted on a
    /// folder.
    public static func find(_ name: String) throws(AttachError) -> Attachment {
        try find(name, in: .standard)
    }

    static func find(_ name: String, in store: AttachmentStore) throws(AttachError) -> Attachment {
        let all = list(store)
        let folder = name.hasPrefix("volume/") ? nil : FilePath.absolute(name)
        let matches = all.filter {
            $0.volume == name || $0.volume == "volume/\(name)" || $0.device == name || (folder.map($0.mounts.contains) ?? false)
        }
        if matches.count > 1 {
            let devices = matches.map { "\($0.device) (\($0.server))" }.joined(separator: ", ")
            throw AttachError(
                .usage, "\(name) is attached from more than one server; name the device: \(devices)")
        }
        guard let match = matches.first else {
            let known =
                all.isEmpty ? "nothing is attached" : "attached: \(all.map(\.volume).joined(separator: ", "))"
            throw AttachError(.notFound, "\(name) is not attached here; \(known); see 'sluice status'")
        }
        return match
    }

    /// Writes everything back, takes the device away and ends the process that serves it.
    ///
    /// Refused while the device is mounted or otherwise used; the error says where. With `isForced` data that
    /// cannot be written back is given up, and processes that only have the device open are no obstacle.
    /// While the server is away this waits for it, after `waiting` was called with the reason; with `isForced`
    /// it does not.
    public static func detach(
        _ attachment: Attachment, isForced: Bool = false, waiting: (String) -> Void = { _ in }
    ) throws(AttachError) {
        try detach(attachment, isForced: isForced, in: .standard, waiting: waiting)
    }

    static func detach(
        _ attachment: Attachment, isForced: Bool, in store: AttachmentStore,
        waiting: (String) -> Void = { _ in }
    ) throws(AttachError) {
        guard var record = store.record(attachment.key), record.device == attachment.device else {
            throw AttachError(.notFound, "\(attachment.volume) is not attached any more")
        }
        guard record.process.isAlive else { return try clear(record, in: store) }
        if record.state == .reconnecting {
            let use = DeviceUse.of(record.device)
            guard use.mounts.isEmpty else { throw use.refusal(of: record.device) }
            if isForced {
                // Whoever waits for the device holds it: everything that waits must fail first.
                _ = record.process.signal(AttachProcess.giveUpSignal)
            } else {
                waiting(record.message ?? "")
                // Not in the kernel, where nothing could interrupt it.
                while record.state == .reconnecting, record.process.isAlive {
                    Pause.microseconds(AttachLimits.reconnectPollMicroseconds)
                    guard let now = store.record(attachment.key), now.mark == record.mark else { return }
                    record = now
                }
                guard record.process.isAlive else { return try clear(record, in: store) }
            }
        }
        // A device that fails everything has nothing left to write back to.
        let givesUp = isForced || record.state != .attached
        try LoopDevice.release(
            device: record.device, name: record.mark, isForced: givesUp, folder: record.folder)
        guard record.process.signal(SIGTERM) else { return try clear(record, in: store) }
        guard record.process.waitUntilEnded(milliseconds: AttachLimits.detachMilliseconds) else {
            throw AttachError(
                .busy,
                "\(record.device) is given up, but process \(record.process.pid) has not ended in "
                    + "\(AttachLimits.detachMilliseconds / 1000) seconds; its log is "
                    + store.logFile(record.key)
            )
        }
        // The process takes its record away; one that died on the way leaves that to us.
        if store.record(record.key)?.mark == record.mark { try clear(record, in: store) }
    }

    /// Takes away what an ended process has left behind: the loop device, the mount, the record.
    static func clear(_ record: AttachmentRecord, in store: AttachmentStore) throws(AttachError) {
        try LoopDevice.release(
            device: record.device, name: record.mark, isForced: true, folder: record.folder)
        try FuseMount.remove(record.folder)
        _ = unsafe unlink(SuccessionChannel.path(record.process.pid, in: store.folder))
        store.remove(record.key)
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
            guard unsafe umount2(folder, Int32(MNT_DETACH) | umountNoFollow) == 0 else {
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
