import CFUSE
import Core
import Glibc

/// A loop device with a file, told apart from every other that has had or will have its name.
struct LoopIdentity: Sendable, Hashable, Codable {
    /// Major and minor number, `7:3`.
    var number: String
    /// The disk's sequence number, which each file of a loop device gets anew; nil before Linux 5.15.
    var sequence: UInt64?
    /// The file system and the inode of the file behind it.
    var fileDevice: UInt64
    var fileInode: UInt64
    /// The run of the machine that all this belongs to, from /proc/sys/kernel/random/boot_id.
    var boot: String

    /// Whether the device of that number is still this one, with its file. Reads /sys alone, and never waits for the
    /// process that serves the file.
    var isPresent: Bool {
        guard boot == ProcessIdentity.currentBoot else { return false }
        let folder = "/sys/dev/block/\(number)"
        guard TextFile.read("\(folder)/loop/backing_file") != nil else { return false }
        guard let sequence, let now = TextFile.read("\(folder)/diskseq") else {
            // The FUSE mount has a device number of its own, which lives as long as the device has its file.
            return MountTable.read().contains { $0.deviceNumber == Self.number(dev_t(fileDevice)) }
        }
        return now.split(separator: "\n").first == Substring("\(sequence)")
    }

    /// Whether an open descriptor is that of this device. While it is open nobody else can get the device.
    func isThat(of descriptor: Int32) -> Bool {
        var status = stat()
        guard boot == ProcessIdentity.currentBoot, unsafe fstat(descriptor, &status) == 0,
            status.st_mode & S_IFMT == S_IFBLK, number == Self.number(status.st_rdev)
        else { return false }
        var now: UInt64 = 0
        guard let sequence, unsafe sluice_attach_disk_sequence(descriptor, &now) >= 0 else {
            return isPresent
        }
        return now == sequence && isPresent
    }

    private static func number(_ device: dev_t) -> String {
        "\(gnu_dev_major(device)):\(gnu_dev_minor(device))"
    }
}

/// What tells the loop device of an attachment from others.
struct LoopOwner: Sendable, Hashable {
    /// The block device, `/dev/loop3`.
    var device: String
    /// What it is marked with.
    var mark: String
    /// Where its file is.
    var folder: String
    /// Nil in records of versions that did not note it.
    var identity: LoopIdentity?

    /// The file behind the device is in `folder`: what an old version's device is known by when its server is dead, and
    /// the kernel cannot say the mark any more.
    private var holdsFile: Bool {
        let name = device.split(separator: "/").last ?? ""
        // The folder itself may be a dead mount, which cannot be looked at.
        let parts = folder.split(separator: "/")
        let parent = FilePath.absolute("/" + parts.dropLast().joined(separator: "/"))
        return TextFile.read("/sys/block/\(name)/loop/backing_file")?
            .hasPrefix("\(parent)/\(parts.last ?? "")/") ?? false
    }

    /// Whether the device is still the attachment's. Waits for nobody.
    var isPresent: Bool { identity?.isPresent ?? holdsFile }

    /// Whether this open descriptor is the attachment's device.
    func isThat(of descriptor: Int32) -> Bool {
        if let identity { return identity.isThat(of: descriptor) }
        return LoopDevice.name(of: descriptor) == mark || holdsFile
    }
}

extension AttachmentRecord {
    /// What its loop device is known by.
    var loop: LoopOwner { LoopOwner(device: device, mark: mark, folder: folder, identity: identity) }
}

/// An attachment's device, kept open: as long as it is, it cannot become anybody else's.
public final class HeldDevice {
    /// The block device, `/dev/loop3`.
    public let path: String
    let descriptor: Int32

    /// Opens the device and makes sure that it is the attachment's.
    init(_ record: AttachmentRecord) throws(AttachError) {
        path = record.device
        let opened = unsafe open(record.device, O_RDONLY | O_CLOEXEC)
        let problem = opened < 0 ? errno : 0
        descriptor = opened
        guard opened >= 0 || problem == ENOENT || problem == ENXIO else {
            throw .system(problem, "cannot open \(record.device)")
        }
        guard opened >= 0, record.loop.isThat(of: opened) else {
            throw AttachError(
                .notFound,
                "\(record.device) is not the device of volume/\(record.volume) any more, and was not touched; "
                    + "see 'sluice status'")
        }
    }

    deinit { if descriptor >= 0 { close(descriptor) } }
}
