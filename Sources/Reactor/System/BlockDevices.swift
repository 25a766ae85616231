import CURing
import Glibc

/// What block devices and direct I/O need beyond reading and writing. Calls block; not for a data reactor's
/// thread.
public enum BlockDevices {
    /// The flag of `open(2)` for I/O past the page cache, which the Glibc module lacks.
    public static var openDirect: Int32 { Int32(SLUICE_O_DIRECT) }

    /// Whether the descriptor is a block device.
    public static func isBlockDevice(fd: Int32) -> Bool {
        var status = stat()
        return unsafe fstat(fd, &status) == 0 && status.st_mode & S_IFMT == S_IFBLK
    }

    /// The device's size in bytes.
    public static func size(fd: Int32) throws(ReactorError) -> UInt64 {
        var bytes: UInt64 = 0
        _ = try unsafe checked("ioctl(BLKGETSIZE64)", sluice_block_size_bytes(fd, &bytes))
        return bytes
    }

    /// The smallest unit that the device reads and writes, in bytes.
    public static func logicalBlockSize(fd: Int32) throws(ReactorError) -> UInt32 {
        var bytes: Int32 = 0
        _ = try unsafe checked("ioctl(BLKSSZGET)", sluice_block_logical_size(fd, &bytes))
        return UInt32(bitPattern: bytes)
    }

    /// Tells the device that a range's content is not needed.
    public static func discard(fd: Int32, offset: UInt64, length: UInt64) throws(ReactorError) {
        _ = try checked("ioctl(BLKDISCARD)", sluice_block_discard(fd, offset, length))
    }

    /// Makes a range read as zeroes.
    public static func zeroOut(fd: Int32, offset: UInt64, length: UInt64) throws(ReactorError) {
        _ = try checked("ioctl(BLKZEROOUT)", sluice_block_zero_out(fd, offset, length))
    }

    /// The alignment that direct I/O on the file needs, in bytes; nil where kernel or file system do not say.
    /// Both are 0 on a file that has no direct I/O.
    public static func directAlignment(fd: Int32) -> (memory: UInt32, offset: UInt32)? {
        var memory: UInt32 = 0
        var offset: UInt32 = 0
        guard unsafe sluice_direct_alignment(fd, &memory, &offset) == 0 else { return nil }
        return (memory, offset)
    }

    /// The positive errno of a write-back that failed since this open file was opened or last asked; nil when
    /// none did. Writes and syncs nothing (`sync_file_range(2)` of a range without pages): what is dirty may
    /// still fail later.
    public static func takeWriteBackError(fd: Int32) -> Int32? {
        sluice_take_write_back_error(fd) == 0 ? nil : errno
    }
}
