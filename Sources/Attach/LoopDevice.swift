import CFUSE
import Core
import Glibc

/// Loop devices over a FUSE file (loop(4)).
///
/// These calls block, and wait for the process that serves the file: never call them in that process.
public enum LoopDevice {
    /// What a loop device says of itself.
    struct Status {
        /// The name that its maker gave it.
        var name: String
        var isReadOnly: Bool
    }

    /// Makes a block device over `file`, with direct I/O, and returns its path.
    ///
    /// `name` (below 64 bytes) marks the device as ours, so that nothing else is ever taken down.
    public static func attach(
        file: String, blockSize: UInt32, isReadOnly: Bool, name: String
    ) throws(AttachError) -> String {
        let backing = unsafe open(file, (isReadOnly ? O_RDONLY : O_RDWR) | O_CLOEXEC)
        guard backing >= 0 else { throw .system(errno, "cannot open \(file)") }
        defer { close(backing) }
        let control = unsafe open("/dev/loop-control", O_RDWR | O_CLOEXEC)
        guard control >= 0 else {
            throw .system(errno, "cannot open /dev/loop-control; load the kernel module with 'modprobe loop'")
        }
        defer { close(control) }

        for _ in 0..<AttachLimits.loopAttempts {
            let number = sluice_loop_get_free(control)
            guard number >= 0 else { throw .system(-number, "no free loop device") }
            let path = "/dev/loop\(number)"
            let device = unsafe open(path, (isReadOnly ? O_RDONLY : O_RDWR) | O_CLOEXEC)
            guard device >= 0 else { throw .system(errno, "cannot open \(path)") }
            defer { close(device) }
            let result = unsafe sluice_loop_configure(device, backing, blockSize, isReadOnly ? 1 : 0, name)
            switch result {
            case 0...:
                tune(number: number)
                return path
            // Another process took this device first.
            case -EBUSY, -ENXIO: continue
            default: throw .system(-result, "cannot configure \(path) over \(file)")
            }
        }
        throw AttachError(
            .busy, "every free loop device was taken by another process before it could be used; try again")
    }

    /// One request of the device becomes one request of FUSE.
    private static func tune(number: Int32) {
        let descriptor = unsafe open("/sys/block/loop\(number)/queue/max_sectors_kb", O_WRONLY | O_CLOEXEC)
        guard descriptor >= 0 else { return }
        // Only a matter of speed: an older kernel that refuses splits the requests by itself.
        let text = "\(AttachLimits.transferBytesMax / 1024)"
        _ = unsafe write(descriptor, text, text.utf8.count)
        close(descriptor)
    }

    /// Takes over the new size of `file` and returns it in bytes.
    public static func refreshSize(device path: String, file: String, name: String) throws(AttachError)
        -> UInt64
    {
        let backing = unsafe open(file, O_RDONLY | O_CLOEXEC)
        guard backing >= 0 else { throw .system(errno, "cannot open \(file)") }
        defer { close(backing) }
        var bytes: UInt64 = 0
        let refreshed = unsafe sluice_attach_refresh_size(backing, &bytes)
        guard refreshed >= 0 else { throw .system(-refreshed, "cannot read the size of \(file)") }
        let device = unsafe open(path, O_RDONLY | O_CLOEXEC)
        guard device >= 0 else { throw .system(errno, "cannot open \(path)") }
        defer { close(device) }
        guard try status(device: device, path: path)?.name == name else {
            throw AttachError(.notFound, "\(path) is not the attached device any more")
        }
        let result = sluice_loop_set_capacity(device)
        guard result >= 0 else { throw .system(-result, "cannot set the size of \(path)") }
        return bytes
    }

    /// Writes back what the kernel holds for the device and gives the loop device up.
    ///
    /// Nothing is done when it is already given up. Refused while anything uses the device; the error says
    /// what. With `isForced` other openers do not matter and nothing is written back, but a mounted device
    /// still does.
    ///
    /// `folder` is where its file is: what the device is known by when the file's server is dead, and the
    /// kernel cannot say the name any more.
    public static func release(
        device path: String, name: String, isForced: Bool = false, folder: String
    ) throws(AttachError) {
        let owner = Owner(name: name, folder: folder)
        for _ in 0..<AttachLimits.busyAttempts {
            do throws(AttachError) { return try releaseAtOnce(path, owner, isForced: isForced) } catch {
                // udev and others open each device for a moment, and children have it from fork to exec.
                guard error.reason == .busy, DeviceUse.of(path).mayPass else { throw error }
                Pause.microseconds(AttachLimits.busyAttemptMicroseconds)
            }
        }
        try releaseAtOnce(path, owner, isForced: isForced)
    }

    /// What tells our device from others.
    private struct Owner {
        let name: String
        let folder: String

        /// The folder itself may be a dead mount, which cannot be looked at.
        init(name: String, folder: String) {
            self.name = name
            let parts = folder.split(separator: "/")
            let parent = FilePath.absolute("/" + parts.dropLast().joined(separator: "/"))
            self.folder = "\(parent)/\(parts.last ?? "")"
        }

        func holds(_ file: String?) -> Bool { file?.hasPrefix(folder + "/") ?? false }
    }

    private static func releaseAtOnce(_ path: String, _ owner: Owner, isForced: Bool) throws(AttachError) {
        let device = unsafe open(path, O_RDWR | O_EXCL | O_CLOEXEC)
        if device < 0, errno == EROFS || errno == EACCES {
            return try releaseReadOnly(path, owner, isForced: isForced)
        }
        try release(opened: device, errorNumber: errno, path: path, owner, isForced: isForced)
    }

    private static func releaseReadOnly(_ path: String, _ owner: Owner, isForced: Bool) throws(AttachError) {
        let device = unsafe open(path, O_RDONLY | O_EXCL | O_CLOEXEC)
        try release(opened: device, errorNumber: errno, path: path, owner, isForced: isForced)
    }

    private static func release(
        opened device: Int32, errorNumber: Int32, path: String, _ owner: Owner, isForced: Bool
    ) throws(AttachError) {
        guard device >= 0 else {
            switch errorNumber {
            case EBUSY: throw DeviceUse.of(path).refusal(of: path)
            case ENOENT, ENXIO: return
            default: throw .system(errorNumber, "cannot open \(path)")
            }
        }
        do {
            defer { close(device) }
            guard try isOwned(device: device, path: path, by: owner) else { return }
            let use = DeviceUse.of(path)
            guard use.isNone || (isForced && use.mounts.isEmpty) else { throw use.refusal(of: path) }
            if !isForced, fsync(device) != 0 {
                let error = errno
                throw AttachError(
                    .system,
                    "data for \(path) could not be written to the server (\(AttachError.describe(error))); "
                        + "it is still attached. To give that data up: sluice detach --force \(path)")
            }
            let result = sluice_loop_clear(device)
            guard result >= 0 || result == -ENXIO else { throw .system(-result, "cannot give up \(path)") }
        }
        try waitUntilFree(path, owner)
    }

    private static func isOwned(device: Int32, path: String, by owner: Owner) throws(AttachError) -> Bool {
        do {
            return try status(device: device, path: path)?.name == owner.name
        } catch {
            guard owner.holds(backingFile(path)) else { throw error }
            return true
        }
    }

    /// The file behind a loop device, as the kernel names it; nil when it has none.
    private static func backingFile(_ path: String) -> String? {
        let device = path.split(separator: "/").last.map(String.init) ?? path
        return TextFile.read("/sys/block/\(device)/loop/backing_file")?.split(separator: "\n").first.map(
            String.init)
    }

    /// Whether the loop device at `path` is the one with that name.
    static func isOurs(_ path: String, name: String) -> Bool {
        let device = unsafe open(path, O_RDONLY | O_CLOEXEC)
        guard device >= 0 else { return false }
        defer { close(device) }
        return (try? status(device: device, path: path))?.name == name
    }

    private static func status(device: Int32, path: String) throws(AttachError) -> Status? {
        var flags: UInt32 = 0
        var text = [CChar](repeating: 0, count: Int(LO_NAME_SIZE))
        let result = unsafe sluice_loop_status(device, &text, &flags)
        guard result != -ENXIO else { return nil }
        guard result >= 0 else { throw .system(-result, "cannot ask \(path) for its state") }
        let name = String(decoding: text.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self)
        return Status(name: name, isReadOnly: flags & UInt32(LO_FLAGS_READ_ONLY) != 0)
    }

    /// The kernel lets go of the file when the last opener has closed the device, which udev may be for a
    /// moment.
    private static func waitUntilFree(_ path: String, _ owner: Owner) throws(AttachError) {
        for _ in 0..<(AttachLimits.loopReleaseMilliseconds / 10) {
            guard isOurs(path, name: owner.name) || owner.holds(backingFile(path)) else { return }
            Pause.microseconds(10_000)
        }
        throw DeviceUse.of(path).refusal(of: path)
    }
}
