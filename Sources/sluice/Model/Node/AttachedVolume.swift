import Attach
import Core

/// A volume that is attached to this machine.
struct AttachedVolume: Presentable {
    /// `volume/NAME`.
    var volume: String
    var volumeID: String
    var server: String
    /// The block device.
    var device: String
    /// Bytes.
    var size: UInt64
    /// Bytes.
    var blockSize: UInt32
    var isReadOnly: Bool
    var channels: Int
    /// The process that serves the device.
    var pid: Int32
    var since: String
    var state: String
    var message: String?
    /// Since when requests have failed.
    var failedSince: String?
    var failedRequests: UInt64
    /// How many of them may have lost what was written.
    var lostRequests: UInt64
    /// Why the first did.
    var failure: String?
    /// The folders that it and its partitions are mounted on.
    var mounts: [String]
    /// Where they are mounted in other mount namespaces, when they are not in this one.
    var mountsElsewhere: [MountElsewhere]?
    /// Block devices.
    var partitions: [String]
    /// Bytes that its process has in memory, and that it has locked, whether used or not.
    var memory: UInt64?
    var lockedMemory: UInt64?
    var logFile: String?

    static let columns = [
        "VOLUME", "DEVICE", "SIZE", "ACCESS", "STATE", "MOUNTED ON", "PID", "MEMORY", "SINCE",
    ]

    var row: [String] {
        [
            volume, device, size > 0 ? ByteCount(size).description : "",
            isReadOnly ? "read-only" : "read-write", state,
            (mounts + (mountsElsewhere ?? []).map { "\($0.folder) (elsewhere)" }).joined(separator: ","),
            "\(pid)",
            memory.map { ByteCount(($0 >> 20) << 20).description } ?? "",
            since,
        ]
    }

    init(_ attachment: Attachment) {
        volume = attachment.volume
        volumeID = attachment.volumeID
        server = attachment.server
        device = attachment.device
        size = attachment.size
        blockSize = attachment.blockSize
        isReadOnly = attachment.isReadOnly
        channels = attachment.channels
        pid = attachment.pid
        since = TimeText.text(attachment.since)
        state = attachment.state
        message = attachment.message
        failedSince = attachment.failedSince.map { TimeText.text($0) }
        failedRequests = attachment.failedRequests
        lostRequests = attachment.lostRequests
        failure = attachment.failure
        mounts = attachment.mounts
        mountsElsewhere = attachment.mountsElsewhere
        partitions = attachment.partitions
        memory = attachment.memory
        lockedMemory = attachment.lockedMemory
        logFile = attachment.logFile
    }
}

/// What `sluice mount` and `sluice umount` print as JSON or YAML.
struct MountedVolume: Encodable {
    /// `volume/NAME`.
    var volume: String
    var device: String
    var folder: String
    var isMounted: Bool
}
