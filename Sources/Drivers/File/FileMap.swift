import Core
import DriverKit
import Glibc

/// What a file system knows about the blocks of a file (`lseek(2)`, SEEK_DATA and SEEK_HOLE).
enum FileMap {
    // Glibc's module leaves out what is not POSIX.
    private static let seekData: Int32 = 3
    private static let seekHole: Int32 = 4

    /// Whether a file has space of its own for all of a range; where the file system does not tell, it counts as such.
    static func isData(fd: Int32, offset: UInt64, length: UInt64) -> Bool {
        let data = lseek(fd, off_t(offset), seekData)
        if data < 0 { return errno != ENXIO }
        guard UInt64(data) == offset else { return false }
        let hole = lseek(fd, off_t(offset), seekHole)
        return hole < 0 || UInt64(hole) >= offset + length
    }

    /// Writes the extents of a range. What a file system does not tell, such as all of a block device, counts as
    /// data; so does a block that is a hole only in part.
    static func write(
        _ map: inout BlockMapWriter, fd: Int32, offset: UInt64, length: UInt64, blockSize: UInt64
    ) {
        let end = offset + length
        var position = offset
        while unsafe map.goesOn {
            // Others may change the file between two calls, so that each result is bounded for itself.
            let found = lseek(fd, off_t(position), seekData)
            if found < 0 {
                let flags: BlockFlags = errno == ENXIO ? .zero : .allocated
                return unsafe map.append(end - position, flags)
            }
            let data = min(end, max(position, UInt64(found) / blockSize * blockSize))
            unsafe map.append(data - position, .zero)
            position = data
            if position == end { return }
            let hole = lseek(fd, max(found, off_t(position)), seekHole)
            let edge = hole < 0 ? end : (UInt64(hole) + blockSize - 1) / blockSize * blockSize
            let next = min(end, max(position + blockSize, edge))
            unsafe map.append(next - position, .allocated)
            position = next
        }
    }
}
