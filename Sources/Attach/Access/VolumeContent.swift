import Core
import Glibc
import SluiceClient

/// What is on an attached volume that something is to be written over. Everything here blocks; never call it in a process
/// that serves a volume.
public enum VolumeContent {
    /// What is there, in words such as `ext4 'data', 12MiB allocated`; nil when the volume is blank for certain: no known
    /// signature, and nothing but zeroes.
    ///
    /// - Parameters:
    ///   - extents: what the server knows of the device's bytes, in order and whole; nil where it does not say. What it
    ///     does not call zero is read.
    ///   - interruption: ends the reading.
    ///   - reading: is told how many bytes are read, when that takes a while.
    /// - Throws: `AttachError` when something could not be read: nobody knows then what is there.
    public static func find(
        on device: HeldDevice, extents: [VolumeExtent]?, _ interruption: Interruption? = nil,
        reading: (UInt64) -> Void = { _ in }
    ) throws(AttachError) -> String? {
        let unsure = extents?.filter { !$0.flags.contains(.zero) }
        let allocated = unsure.map { extents in extents.reduce(UInt64(0)) { $0 + $1.length } }
        let amount = allocated.map { ", \(ByteCount($0)) allocated" } ?? ""
        if let signature = try signature(on: device) { return signature + amount }
        let size = try size(of: device)
        let base = extents?.first?.offset ?? 0
        let ranges: [(UInt64, UInt64)] =
            unsure.map { extents in extents.map { ($0.offset - base, $0.length) } } ?? [(UInt64(0), size)]
        let total = allocated ?? size
        guard total <= AttachLimits.contentBytesMax else {
            return "\(ByteCount(total)) that may be data, too much to read all of it"
        }
        if total > AttachLimits.contentBytesQuick { reading(total) }
        for (offset, length) in ends(size) + ranges {
            if let place = try firstByte(
                on: device, from: offset, to: min(offset + length, size), interruption)
            {
                return "data, such as at byte \(place)\(amount)"
            }
        }
        return nil
    }

    /// What a device says it is, as blkid(8) recognises it: `ext4`, `a partition table (gpt)`; nil when that knows
    /// nothing of it, or could not read.
    static func signature(on device: HeldDevice) throws(AttachError) -> String? {
        let result = try Subprocess.run(["blkid", "-p", "-o", "export", "--", device.path])
        switch result.code {
        case 0: break
        case 2: return nil
        case 8: return "more than one file system's signature"
        default:
            throw AttachError(
                .system, "cannot tell what is on \(device.path): \(result.errors) (blkid: \(result.code))")
        }
        let fields = result.output.split(separator: "\n").map { $0.split(separator: "=", maxSplits: 1) }
        func value(_ name: String) -> Substring? {
            fields.first { $0.count == 2 && $0[0] == name }?[1]
        }
        let label = value("LABEL").map { " '\($0)'" } ?? ""
        if let type = value("TYPE") { return type + label }
        return value("PTTYPE").map { "a partition table (\($0))" } ?? "something"
    }

    /// Reads where file systems and partition tables have their marks.
    ///
    /// - Throws: `AttachError` when that cannot be read, so that no tool's "nothing found" means anything.
    static func checkReadable(_ device: HeldDevice) throws(AttachError) {
        for (offset, length) in ends(try size(of: device)) {
            _ = try firstByte(on: device, from: offset, to: offset + length)
        }
    }

    private static func ends(_ size: UInt64) -> [(UInt64, UInt64)] {
        let length = min(size, AttachLimits.contentEndBytes)
        return [(0, length), (size - length, length)]
    }

    private static func size(of device: HeldDevice) throws(AttachError) -> UInt64 {
        let end = lseek(device.descriptor, 0, SEEK_END)
        guard end > 0 else {
            throw .system(end < 0 ? errno : ENXIO, "cannot tell the size of \(device.path)")
        }
        return UInt64(end)
    }

    /// Where the first byte is that is not zero; nil when all are.
    private static func firstByte(
        on device: HeldDevice, from: UInt64, to: UInt64, _ interruption: Interruption? = nil
    ) throws(AttachError) -> UInt64? {
        let zeroes = [UInt8](repeating: 0, count: 1 << 20)
        var chunk = zeroes
        var offset = from
        while offset < to {
            try interruption?.check()
            let count = unsafe pread(
                device.descriptor, &chunk, Int(min(UInt64(chunk.count), to - offset)), off_t(offset))
            if count < 0, errno == EINTR { continue }
            guard count > 0 else {
                throw .system(
                    count < 0 ? errno : EIO,
                    "\(device.path) cannot be read at byte \(offset), so nobody knows what is on it")
            }
            if unsafe memcmp(chunk, zeroes, count) != 0, let place = chunk.firstIndex(where: { $0 != 0 }) {
                return offset + UInt64(place)
            }
            offset += UInt64(count)
        }
        return nil
    }
}
