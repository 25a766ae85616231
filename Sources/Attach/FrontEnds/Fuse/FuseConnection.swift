import CFUSE
import Glibc

/// A FUSE mount and the descriptor of /dev/fuse that serves it.
///
/// One thread. The process that holds it must never touch the mount itself: it would wait for its own answer.
@safe final class FuseConnection {
    /// /dev/fuse; never blocks.
    let descriptor: Int32
    /// Where the mount is that this connection takes away at its end.
    private var folder: String?

    /// Mounts at an existing folder; `source` is what the mount table shows.
    init(mountingAt folder: String, source: String) throws(AttachError) {
        let device = unsafe open("/dev/fuse", O_RDWR | O_CLOEXEC | O_NONBLOCK)
        guard device >= 0 else {
            throw AttachError(
                .denied,
                "cannot open /dev/fuse (\(AttachError.describe(errno))): it needs root and the kernel module "
                    + "fuse (modprobe fuse)")
        }
        let result = unsafe sluice_fuse_mount(device, folder, source, AttachLimits.transferBytesMax)
        guard result >= 0 else {
            close(device)
            throw AttachError(
                .denied, "cannot mount FUSE at \(folder) (\(AttachError.describe(-result))): it needs root")
        }
        descriptor = device
        self.folder = folder
    }

    /// Goes on with a mount that another process made at `folder`: `descriptor` is its /dev/fuse, and belongs to
    /// this object from now on.
    init(adopting descriptor: Int32, folder: String) {
        self.descriptor = descriptor
        self.folder = folder
    }

    deinit {
        end()
        close(descriptor)
    }

    /// Leaves the mount to another process.
    func leave() { folder = nil }

    /// Cuts the connection, whatever waits for it, and takes the mount away, if it is still there.
    func end() {
        guard let folder else { return }
        self.folder = nil
        // Forced: entries of a ring hold /dev/fuse open, and closing it would not cut anything.
        _ = unsafe umount2(folder, Int32(MNT_FORCE) | Int32(MNT_DETACH) | FuseMount.umountNoFollow)
    }

    /// Takes the next message of the kernel: its bytes, or -errno (`-EAGAIN`: none now, `-ENODEV`: the mount
    /// is gone).
    func receive(into buffer: UnsafeMutableRawPointer, capacity: Int) -> Int32 {
        let count = unsafe Glibc.read(descriptor, buffer, capacity)
        return count < 0 ? -errno : Int32(count)
    }

    /// Answers a message. The kernel may have given the request up meanwhile: that is nobody's concern.
    func answer(_ unique: UInt64, error: Int32 = 0, bytes: UnsafeRawPointer? = nil, count: Int = 0) {
        _ = unsafe sluice_fuse_answer(descriptor, unique, -error, bytes, count)
    }
}

/// What the kernel lets others do with a FUSE connection: /sys/fs/fuse/connections.
enum FuseControl {
    /// How many requests the kernel sends at once that nobody waits for, which are all reads and writes of a loop
    /// device with direct I/O. With 0 they wait in the kernel.
    ///
    /// Blocks for moments only; the mount itself is not touched.
    static func set(backgroundMax: Int, folder: String) throws(AttachError) {
        // The mount table, since asking the folder would ask its server.
        guard let mount = MountTable.read().last(where: { $0.folder == folder }),
            let minor = mount.deviceNumber.split(separator: ":").last
        else { throw AttachError(.notFound, "nothing is mounted at \(folder)") }
        let path = "/sys/fs/fuse/connections/\(minor)/max_background"
        if unsafe access(path, F_OK) != 0 {
            let result = sluice_fuse_mount_control()
            guard result >= 0 else { throw .system(-result, "cannot mount /sys/fs/fuse/connections") }
        }
        let file = unsafe open(path, O_WRONLY | O_CLOEXEC)
        guard file >= 0 else { throw .system(errno, "cannot open \(path)") }
        defer { close(file) }
        let text = "\(backgroundMax)"
        guard unsafe write(file, text, text.utf8.count) == text.utf8.count else {
            throw .system(errno, "cannot write \(path)")
        }
    }
}
