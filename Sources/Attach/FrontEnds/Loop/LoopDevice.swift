import CFUSE
import Core
import Glibc
import Reactor

/// Loop devices over a FUSE file (loop(4)).
///
/// These calls block, and wait for the process that serves the file: never call them in that process.
public enum LoopDevice {
    /// A loop device that was made.
    struct Made: Sendable, Hashable, Codable {
        /// Its path, `/dev/loop3`.
        var device: String
        var identity: LoopIdentity
    }

    /// Makes a block device over `file`, with direct I/O. Its partitions, if it has any, come with it, and go when it
    /// is given up.
    ///
    /// `name` (below 64 bytes) marks the device as ours, so that nothing else is ever taken down.
    static func attach(
        file: String, blockSize: UInt32, isReadOnly: Bool, name: String
    ) throws(AttachError) -> Made {
        let backing = unsafe open(file, (isReadOnly ? O_RDONLY : O_RDWR) | O_CLOEXEC)
        guard backing >= 0 else { throw .system(errno, "cannot open \(file)") }
        defer { close(backing) }
        var status = stat()
        guard unsafe fstat(backing, &status) == 0 else {
            throw .system(errno, "cannot ask for the state of \(file)")
        }
        let control = unsafe open("/dev/loop-control", O_RDWR | O_CLOEXEC)
        guard control >= 0 else {
            throw .system(errno, "cannot open /dev/loop-control; load the kernel module with 'modprobe loop'")
        }
        defer { close(control) }

        let deadline = SystemClock.monotonic() + AttachLimits.loopClaimNanoseconds
        var (tries, added) = (0, 0)
        var tried: Set<Int32> = []
        while true {
            let number = try next(control, tried: &tried, added: &added)
            let path = "/dev/loop\(number)"
            let device = unsafe open(path, (isReadOnly ? O_RDONLY : O_RDWR) | O_CLOEXEC)
            guard device >= 0 else { throw .system(errno, "cannot open \(path)") }
            defer { close(device) }
            let result = unsafe sluice_loop_configure(device, backing, blockSize, isReadOnly ? 1 : 0, name)
            switch result {
            case 0...:
                do throws(AttachError) {
                    let made = Made(device: path, identity: try identity(of: device, path, backing: status))
                    tune(number: number)
                    addPartitions(device, path)
                    return made
                } catch {
                    // Without that nobody could tell later whose it is.
                    _ = sluice_loop_clear(device)
                    throw error
                }
            // Somebody has made a device of it, or has it open exclusively, for a moment or for long.
            case -EBUSY, -ENXIO:
                guard SystemClock.monotonic() < deadline else {
                    throw AttachError(
                        .busy,
                        "\(path) and \(tries) more loop devices were taken by other processes before they could "
                            + "be used; try again")
                }
                tries += 1
                Pause.microseconds(AttachLimits.loopClaimPause(tries))
            default: throw .system(-result, "cannot configure \(path) over \(file)")
            }
        }
    }

    /// The number of a loop device to try: the lowest that is free; where that could not be had, the next that is; then
    /// one that is made for it and that nobody knows yet; and then all of that again.
    private static func next(
        _ control: Int32, tried: inout Set<Int32>, added: inout Int
    ) throws(AttachError) -> Int32 {
        let lowest = sluice_loop_get_free(control)
        guard lowest >= 0 else { throw .system(-lowest, "no free loop device") }
        if tried.insert(lowest).inserted { return lowest }
        let others = TextFile.names(in: "/sys/block").filter { name in
            name.hasPrefix("loop") && TextFile.read("/sys/block/\(name)/loop/backing_file") == nil
        }
        for number in others.compactMap({ Int32($0.dropFirst(4)) }).sorted()
        where tried.insert(number).inserted {
            return number
        }
        if added < AttachLimits.loopDevicesAddedMax {
            let number = sluice_loop_add(control)
            if number >= 0 {
                added += 1
                tried.insert(number)
                return number
            }
        }
        tried = [lowest]
        return lowest
    }

    private static func identity(
        of device: Int32, _ path: String, backing: stat
    ) throws(AttachError) -> LoopIdentity {
        guard let number = DiskNumbers.number(path) else {
            throw AttachError(.system, "\(path) is no block device")
        }
        var sequence: UInt64 = 0
        let isKnown = unsafe sluice_attach_disk_sequence(device, &sequence) >= 0
        return LoopIdentity(
            number: number, sequence: isKnown ? sequence : nil, fileDevice: UInt64(backing.st_dev),
            fileInode: UInt64(backing.st_ino), boot: ProcessIdentity.currentBoot)
    }

    /// A kernel that was built without partition tables leaves them to partx(8).
    private static func addPartitions(_ device: Int32, _ path: String) {
        var start = [UInt8](repeating: 0, count: 2 * 4096)
        guard unsafe pread(device, &start, start.count, 0) == start.count,
            PartitionTable.isThere(in: start),
            DiskNumbers(path: path)?.partitions.isEmpty ?? false
        else { return }
        // Without it they are not there; the device is.
        _ = try? Subprocess.run(["partx", "--add", "--", path])
    }

    /// One request of the device becomes one request of FUSE.
    private static func tune(number: Int32) {
        let descriptor = unsafe open("/sys/block/loop\(number)/queue/max_sectors_kb", O_WRONLY | O_CLOEXEC)
        guard descriptor >= 0 else { return }
        // This is a matter of speed alone: an older kernel that refuses it splits the requests by itself.
        let text = "\(AttachLimits.transferBytesMax / 1024)"
        _ = unsafe write(descriptor, text, text.utf8.count)
        close(descriptor)
    }

    /// Takes over the new size of `file` and returns it in bytes.
    static func refreshSize(_ loop: LoopOwner, file: String) throws(AttachError) -> UInt64 {
        let backing = unsafe open(file, O_RDONLY | O_CLOEXEC)
        guard backing >= 0 else { throw .system(errno, "cannot open \(file)") }
        defer { close(backing) }
        var bytes: UInt64 = 0
        let refreshed = unsafe sluice_attach_refresh_size(backing, &bytes)
        guard refreshed >= 0 else { throw .system(-refreshed, "cannot read the size of \(file)") }
        let device = unsafe open(loop.device, O_RDONLY | O_CLOEXEC)
        guard device >= 0 else { throw .system(errno, "cannot open \(loop.device)") }
        defer { close(device) }
        guard loop.isThat(of: device) else {
            throw AttachError(.notFound, "\(loop.device) is not the attached device any more")
        }
        let result = sluice_loop_set_capacity(device)
        guard result >= 0 else { throw .system(-result, "cannot set the size of \(loop.device)") }
        return bytes
    }

    /// Writes back what the kernel holds for the device.
    static func flush(_ loop: LoopOwner) throws(AttachError) {
        let device = unsafe open(loop.device, O_RDONLY | O_CLOEXEC)
        guard device >= 0 else { throw .system(errno, "cannot open \(loop.device)") }
        defer { close(device) }
        guard loop.isThat(of: device) else {
            throw AttachError(.notFound, "\(loop.device) is not the attached device any more")
        }
        guard fsync(device) == 0 else {
            throw .system(errno, "cannot write back what is held for \(loop.device)")
        }
    }

    /// Whether that is the loop device of an attachment: by its mark, or, where the kernel cannot ask for that any
    /// more, because the server of its file is dead.
    static func isLeftOver(_ path: String) -> Bool {
        guard path.hasPrefix("/dev/loop") else { return false }
        let device = unsafe open(path, O_RDONLY | O_CLOEXEC)
        guard device >= 0 else { return false }
        defer { close(device) }
        var flags: UInt32 = 0
        var text = [CChar](repeating: 0, count: Int(LO_NAME_SIZE))
        let result = unsafe sluice_loop_status(device, &text, &flags)
        return result == -ENOTCONN || result == -ECONNABORTED
            || (name(of: device)?.hasPrefix("sluice:") ?? false)
    }

    /// The name that its maker gave to an open loop device; nil when it has no file, or its file's server is dead.
    static func name(of device: Int32) -> String? {
        var flags: UInt32 = 0
        var text = [CChar](repeating: 0, count: Int(LO_NAME_SIZE))
        guard unsafe sluice_loop_status(device, &text, &flags) >= 0 else { return nil }
        return String(decoding: text.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self)
    }
}

/// Partition tables, as far as it matters whether there is one.
enum PartitionTable {
    /// Whether these bytes, the first of a disk, hold a DOS label's mark or a GPT's, with sectors of 512 or 4096 bytes.
    static func isThere(in bytes: [UInt8]) -> Bool {
        func has(_ mark: [UInt8], at position: Int) -> Bool {
            bytes.count >= position + mark.count && Array(bytes[position..<(position + mark.count)]) == mark
        }
        let gpt = Array("EFI PART".utf8)
        return has([0x55, 0xAA], at: 510) || has(gpt, at: 512) || has(gpt, at: 4096)
    }
}
