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
    }

    /// Mounts the device on a folder, after making a file system on it when `format` names one.
    ///
    /// Formatting is refused for a device that holds something already.
    public static func mount(
        _ attachment: Attachment, on folder: String, format: FileSystem? = nil, isReadOnly: Bool = false
    ) throws(AttachError) {
        let path = FilePath.absolute(folder)
        try check(folder: path)
        if let format {
            try make(format, on: attachment)
        } else if try content(of: attachment.device) == nil {
            throw AttachError(
                .usage,
                "\(attachment.volume) holds no file system yet; make one with: "
                    + "sluice mount \(attachment.volume) \(folder) --mkfs ext4")
        }
        let options = isReadOnly || attachment.isReadOnly ? ["-o", "ro"] : []
        try run(
            ["mount"] + options + ["--", attachment.device, path],
            "cannot mount \(attachment.volume) on \(path)")
    }

    /// Unmounts the attached device that is mounted on a folder, and returns its attachment as it was.
    public static func unmount(_ folder: String) throws(AttachError) -> Attachment {
        let path = FilePath.absolute(folder)
        guard let attachment = Attachments.list().first(where: { $0.mounts.contains(path) }) else {
            throw AttachError(.notFound, "no volume is mounted on \(path); see 'sluice status'")
        }
        try run(["umount", "--", path], "cannot unmount \(path); 'fuser -vm \(path)' says who uses it")
        return attachment
    }

    private static func check(folder: String) throws(AttachError) {
        var status = stat()
        guard unsafe stat(folder, &status) == 0 else {
            guard errno == ENOENT else { throw .system(errno, folder) }
            throw AttachError(.notFound, "there is no folder \(folder); first run: mkdir -p \(folder)")
        }
        guard status.st_mode & S_IFMT == S_IFDIR else {
            throw AttachError(.usage, "\(folder) is not a folder")
        }
        if let mount = MountTable.read().first(where: { $0.folder == folder }) {
            throw AttachError(.busy, "\(mount.source) is mounted on \(folder) already")
        }
    }

    private static func make(_ format: FileSystem, on attachment: Attachment) throws(AttachError) {
        if attachment.isReadOnly {
            throw AttachError(
                .usage, "\(attachment.volume) is attached read-only: no file system can be made on it")
        }
        if let content = try content(of: attachment.device) {
            throw AttachError(
                .busy,
                "\(attachment.volume) holds \(content) already; leave out --mkfs to mount it, or "
                    + "empty it first with: wipefs --all \(attachment.device)")
        }
        try run(
            ["mkfs.\(format.rawValue)", "-q", attachment.device],
            "cannot make a file system on \(attachment.volume)", package: format.package)
    }

    /// What is on a device, as blkid(8) recognises it: `ext4`, `a partition table (gpt)`; nil when it is
    /// empty.
    static func content(of device: String) throws(AttachError) -> String? {
        let result = try Subprocess.run(["blkid", "-p", "-o", "export", "--", device])
        switch result.code {
        case 0: break
        case 2: return nil
        default: throw AttachError(.system, "cannot tell what is on \(device): \(words(result))")
        }
        let fields = result.output.split(separator: "\n").map { $0.split(separator: "=", maxSplits: 1) }
        for (name, text) in [("TYPE", ""), ("PTTYPE", "a partition table ")] {
            if let value = fields.first(where: { $0.count == 2 && $0[0] == name })?[1] { return text + value }
        }
        return "something"
    }

    private static func run(_ command: [String], _ what: String, package: String? = nil) throws(AttachError) {
        let result: Subprocess.Result
        do {
            result = try Subprocess.run(command)
        } catch {
            let advice = package.map { "; install it with: apt install \($0)" } ?? ""
            throw AttachError(error.reason, error.message + advice)
        }
        guard result.code == 0 else {
            throw AttachError(result.code == 32 ? .busy : .system, "\(what): \(words(result))")
        }
    }

    private static func words(_ result: Subprocess.Result) -> String {
        let text = (result.errors + result.output).split(separator: "\n").joined(separator: "; ")
        return text.isEmpty ? "exit code \(result.code)" : text
    }
}
