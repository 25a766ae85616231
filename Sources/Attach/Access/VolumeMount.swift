import Core
import Glibc

/// File systems on attached devices. Everything here blocks; never call it in a process that serves one.
public enum VolumeMount {
    /// The file systems that can be made.
    public enum FileSystem: String, CaseIterable, Sendable {
        case ext4
        case xfs

        /// The Debian package that holds its mkfs.
        var package: String {
            switch self {
            case .ext4: "e2fsprogs"
            case .xfs: "xfsprogs"
            }
        }

        /// Has mkfs write over what is there.
        var forceOption: String {
            switch self {
            case .ext4: "-F"
            case .xfs: "-f"
            }
        }
    }

    /// How to mount.
    public struct Options: Sendable {
        /// No writes.
        public var isReadOnly = false
        /// Programs of the file system may change the user they run as, which the default (`nosuid`) prevents: whoever
        /// can write to the volume elsewhere could become root here.
        public var allowsSetUserID = false
        /// Its device nodes are devices, which the default (`nodev`) prevents.
        public var allowsDevices = false

        /// The defaults.
        public init() {}

        /// What mount(8) is told.
        var text: String {
            [isReadOnly ? "ro" : nil, allowsSetUserID ? nil : "nosuid", allowsDevices ? nil : "nodev"]
                .compactMap { $0 }.joined(separator: ",")
        }
    }

    /// Keeps an attachment's device from becoming anybody else's, after a look that it has not.
    public static func hold(_ attachment: Attachment) throws(AttachError) -> HeldDevice {
        guard let record = AttachmentStore.standard.record(attachment.key) else {
            throw AttachError(.notFound, "\(attachment.volume) is not attached any more")
        }
        return try HeldDevice(record)
    }

    /// Refuses a folder that is none, or on which something is mounted.
    public static func check(folder: String) throws(AttachError) {
        try check(path: FilePath.absolute(folder))
    }

    /// Refuses an attachment of which every request fails.
    public static func check(serving attachment: Attachment) throws(AttachError) {
        guard let state = AttachmentRecord.State(rawValue: attachment.state), !state.isServing else { return }
        let advice =
            attachment.lostRequests > 0
            ? "Check what is on it, give what was lost up, then mount again: sluice detach --force \(attachment.volume)"
            : "Take it away, then mount again: sluice detach \(attachment.volume)"
        throw AttachError(
            state == .revoked ? .denied : .unreachable,
            "\(attachment.volume) is attached as \(attachment.device), and \(state.rawValue)"
                + (attachment.message.map { ": \($0)" } ?? "") + "; every request of it fails. \(advice)")
    }

    /// Mounts the device on a folder.
    public static func mount(
        _ attachment: Attachment, _ device: HeldDevice, on folder: String, _ options: Options = Options(),
        _ interruption: Interruption? = nil
    ) throws(AttachError) {
        let path = FilePath.absolute(folder)
        try check(path: path)
        if try VolumeContent.signature(on: device) == nil {
            // "Nothing found" is also what a failed read looks like.
            do throws(AttachError) { try VolumeContent.checkReadable(device) } catch {
                // Whoever took the right away meanwhile is the reason, not the device.
                if let now = Attachments.list().first(where: { $0.key == attachment.key }) {
                    try check(serving: now)
                }
                throw error
            }
            throw AttachError(
                .usage,
                "\(attachment.volume) holds no file system yet; make one with: "
                    + "sluice mount \(attachment.volume) \(folder) --mkfs ext4")
        }
        var options = options
        options.isReadOnly = options.isReadOnly || attachment.isReadOnly
        let text = options.text
        try run(
            ["mount"] + (text.isEmpty ? [] : ["-o", text]) + ["--", device.path, path],
            "cannot mount \(attachment.volume) on \(path)", interruption)
    }

    /// Unmounts the attached device that is mounted on a folder, and returns its attachment as it was.
    ///
    /// - Throws: `AttachError`, also when it is unmounted, and what was written may be lost: the attachment stays then, and
    ///   says so.
    public static func unmount(_ folder: String) throws(AttachError) -> Attachment {
        let path = FilePath.absolute(folder)
        let attachment = Attachments.list().first { $0.mounts.contains(path) }
        guard let attachment else { throw try unmountLeftOver(path) }
        try run(["umount", "--", path], "cannot unmount \(path); 'fuser -vm \(path)' says who uses it")
        let unmounted = "\(attachment.volume) is unmounted from \(path)"
        if let loss = Attachments.loss(of: attachment) {
            let log = attachment.logFile.map { "; its log is \($0)" } ?? ""
            throw AttachError(
                .system,
                "\(unmounted), but what was written may be lost: \(loss); check the file system\(log). The attachment is "
                    + "kept until that is given up: sluice detach --force \(attachment.volume)")
        }
        if attachment.state == "stale", !attachment.isReadOnly {
            throw AttachError(
                .system,
                "\(unmounted), but nothing served its device any more: what was not written back by then is lost; check the "
                    + "file system. Clean up with: sluice detach \(attachment.volume)")
        }
        return attachment
    }

    /// Unmounts the device of an attachment that nothing is known of any more, and returns the error that says what that
    /// means.
    private static func unmountLeftOver(_ path: String) throws(AttachError) -> AttachError {
        guard let mount = MountTable.read().last(where: { $0.folder == path }),
            LoopDevice.isLeftOver(mount.source)
        else { return AttachError(.notFound, "no volume is mounted on \(path); see 'sluice status'") }
        try run(["umount", "--", path], "cannot unmount \(path); 'fuser -vm \(path)' says who uses it")
        return AttachError(
            .system,
            "\(path) is unmounted, but nothing served its device \(mount.source) any more, whose attachment is gone: what "
                + "was not written back by then is lost; check the file system")
    }

    private static func check(path folder: String) throws(AttachError) {
        var status = stat()
        guard unsafe stat(folder, &status) == 0 else {
            guard errno == ENOENT else { throw .system(errno, folder) }
            throw AttachError(.notFound, "there is no folder \(folder); first run: mkdir -p \(folder)")
        }
        guard status.st_mode & S_IFMT == S_IFDIR else {
            throw AttachError(.usage, "\(folder) is not a folder")
        }
        if let mount = MountTable.read().first(where: { $0.folder == folder }) {
            throw AttachError(
                .busy, "\(mount.source) is mounted on \(folder) already; first run: sluice umount \(folder)")
        }
    }

    /// Takes back what a mount that came to nothing has begun: what is mounted, and the attachment.
    public static func undo(
        _ attachment: Attachment, on folder: String, isForced: Bool
    ) throws(AttachError) {
        let path = FilePath.absolute(folder)
        if MountTable.read().contains(where: { $0.folder == path && $0.source == attachment.device }) {
            try run(["umount", "--", path], "cannot unmount \(path)")
        }
        try Attachments.detach(attachment, isForced: isForced, acceptsLoss: true)
    }

    /// Makes a file system on the device. With `overwrites` also over what is there, which is lost; otherwise the
    /// caller knows by `VolumeContent.find` that nothing is.
    public static func make(
        _ format: FileSystem, on attachment: Attachment, _ device: HeldDevice, overwrites: Bool,
        _ interruption: Interruption? = nil
    ) throws(AttachError) {
        if attachment.isReadOnly {
            throw AttachError(
                .usage, "\(attachment.volume) is attached read-only: no file system can be made on it")
        }
        let use = DeviceUse.quick(device.path)
        guard use.mayPass else { throw use.refusal(of: device.path) }
        try run(
            ["mkfs.\(format.rawValue)", "-q"] + (overwrites ? [format.forceOption] : []) + [device.path],
            "cannot make a file system on \(attachment.volume)", package: format.package, interruption,
            leaves:
                "a part of the \(format.rawValue) is on \(attachment.volume): to make it anew, add --force")
    }

    /// Writes back what the kernel holds for an attachment's device, so that the server's block map tells of it.
    public static func flush(_ attachment: Attachment) throws(AttachError) {
        guard let record = AttachmentStore.standard.record(attachment.key) else {
            throw AttachError(.notFound, "\(attachment.volume) is not attached any more")
        }
        try LoopHelper.flush(record.loop)
    }

    private static func run(
        _ command: [String], _ what: String, package: String? = nil, _ interruption: Interruption? = nil,
        leaves: String? = nil
    ) throws(AttachError) {
        let result: Subprocess.Result
        do throws(AttachError) {
            result =
                if let interruption {
                    try interruption.run(command, leaves: leaves)
                } else {
                    try Subprocess.run(command)
                }
        } catch {
            if error.reason == .interrupted { throw error }
            let advice = package.map { "; install it with: apt install \($0)" } ?? ""
            throw AttachError(error.reason, error.message + advice)
        }
        guard result.code == 0 else {
            throw AttachError(result.code == 32 ? .busy : .system, "\(what): \(words(result))")
        }
    }

    private static func words(_ result: Subprocess.Result) -> String {
        // Some programs of mkfs follow a reason with all that they can be told.
        let text = (result.errors + result.output).split(separator: "\n")
            .prefix { !$0.lowercased().hasPrefix("usage:") }.joined(separator: "; ")
        return text.isEmpty ? "exit code \(result.code)" : text
    }
}
