import Core
import Glibc

// SAFETY: the mapping lives as long as this; what is in it is touched by atomics only.
/// A marker's bits in its file: they outlive the server's process, however that ends, but not the machine's run unless
/// they were sealed.
@safe
final class MarkerBitmap: @unchecked Sendable {
    /// The bits; whoever uses them keeps this object as long.
    let bits: MarkerBits
    private let header: MarkerHeader
    private let memory: UnsafeMutableRawPointer
    private let byteCount: Int
    private let fd: Int32

    /// Takes over an open file that is as long as the header says; nil (and the file is closed) when it cannot be
    /// mapped.
    init?(fd: Int32, header: MarkerHeader) {
        let byteCount = header.fileBytes - MarkerHeader.blockBytes
        // The pages are read now and kept, so that reactors do not wait for a disk.
        let memory = unsafe mmap(
            nil, byteCount, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd,
            off_t(MarkerHeader.blockBytes))
        guard let memory = unsafe memory, unsafe memory != MAP_FAILED else {
            Glibc.close(fd)
            return nil
        }
        // A server that may not lock memory has page faults where memory is short.
        _ = unsafe mlock(memory, byteCount)
        unsafe self.memory = unsafe memory
        self.byteCount = byteCount
        self.fd = fd
        self.header = header
        bits = unsafe MarkerBits(memory: memory, size: header.size, shift: header.shift)
    }

    deinit {
        unsafe munmap(memory, byteCount)
        Glibc.close(fd)
    }

    /// See `MarkerBits`.
    func mark(_ offset: UInt64, _ length: UInt64) {
        withExtendedLifetime(self) { bits.mark(offset, length) }
    }

    /// See `MarkerBits`.
    func run(from offset: UInt64, to end: UInt64) -> (end: UInt64, isChanged: Bool) {
        withExtendedLifetime(self) { bits.run(from: offset, to: end) }
    }

    /// How many bytes of a volume of `size` bytes count as changed.
    func changedBytes(size: UInt64) -> UInt64 {
        withExtendedLifetime(self) { bits.changedBytes + (size > bits.size ? size - bits.size : 0) }
    }

    /// Whether the bits are as they were when they were sealed; before anybody sets one.
    func isAsSealed(_ header: MarkerHeader) -> Bool {
        withExtendedLifetime(self) { bits.checksum == header.bitsChecksum }
    }

    /// Makes the bits durable and notes that they are whole, when nobody sets any more; answers the errno.
    func seal() -> Int32 {
        // First the bits, then the word that they can be relied on.
        guard fdatasync(fd) == 0 else { return errno }
        var sealed = header
        sealed.isClosed = true
        sealed.bitsChecksum = withExtendedLifetime(self) { bits.checksum }
        return MarkerFile.write(sealed, to: fd)
    }
}

/// The system calls for a marker's file.
enum MarkerFile {
    /// Opens a file for its header and bits; nil for whatever is no file of a marker.
    static func open(_ path: String) -> (fd: Int32, header: MarkerHeader)? {
        let fd = unsafe Glibc.open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK)
        guard fd >= 0 else { return nil }
        var info = stat()
        var block = [UInt8](repeating: 0, count: MarkerHeader.byteCount)
        let isRead =
            unsafe fstat(fd, &info) == 0 && info.st_mode & S_IFMT == S_IFREG
            && block.withUnsafeMutableBytes { unsafe pread(fd, $0.baseAddress, $0.count, 0) } == block.count
        guard isRead, let header = MarkerHeader(bytes: block), info.st_size == off_t(header.fileBytes) else {
            Glibc.close(fd)
            return nil
        }
        return (fd, header)
    }

    /// Makes a file whose blocks all have their space, so that no write to the mapping finds the disk full; answers the
    /// errno.
    static func create(_ path: String, _ header: MarkerHeader) -> Result<Int32, MarkerFileError> {
        unsafe unlink(path)
        let fd = unsafe Glibc.open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0o600)
        guard fd >= 0 else { return .failure(MarkerFileError(errno: errno)) }
        var code = posix_fallocate(fd, 0, off_t(header.fileBytes))
        if code == 0 { code = write(header, to: fd) }
        if code == 0 { code = syncFolder(of: path) }
        guard code == 0 else {
            Glibc.close(fd)
            unsafe unlink(path)
            return .failure(MarkerFileError(errno: code))
        }
        return .success(fd)
    }

    /// Writes the header and makes it durable; answers the errno.
    static func write(_ header: MarkerHeader, to fd: Int32) -> Int32 {
        let bytes = header.bytes
        let count = unsafe bytes.withUnsafeBytes { unsafe pwrite(fd, $0.baseAddress, $0.count, 0) }
        guard count == bytes.count else { return count < 0 ? errno : EIO }
        return fdatasync(fd) == 0 ? 0 : errno
    }

    /// Removes a file for good; answers the errno. One that is not there is fine.
    static func remove(_ path: String) -> Int32 {
        if unsafe unlink(path) != 0 { return errno == ENOENT ? 0 : errno }
        return syncFolder(of: path)
    }

    private static func syncFolder(of path: String) -> Int32 {
        let folder = path.lastIndex(of: "/").map { String(path[..<$0]) } ?? "."
        let fd = unsafe Glibc.open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC)
        guard fd >= 0 else { return errno }
        defer { Glibc.close(fd) }
        return fsync(fd) == 0 ? 0 : errno
    }

    /// The names of files in a folder; none when there is no folder.
    static func names(in folder: String) -> [String] {
        guard let stream = unsafe opendir(folder) else { return [] }
        defer { unsafe closedir(stream) }
        var names: [String] = []
        while let entry = unsafe readdir(stream) {
            let name = unsafe withUnsafePointer(to: &entry.pointee.d_name) { pointer in
                unsafe pointer.withMemoryRebound(to: CChar.self, capacity: Int(NAME_MAX) + 1) {
                    unsafe String(cString: $0)
                }
            }
            names.append(name)
        }
        return names
    }

    static func makeFolder(_ path: String) -> Int32 {
        unsafe mkdir(path, 0o700) == 0 || errno == EEXIST ? 0 : errno
    }
}

/// Why a marker's file cannot be made.
struct MarkerFileError: Error {
    let errno: Int32

    /// What the errno means.
    static func text(_ errno: Int32) -> String { unsafe String(cString: strerror(errno)) }

    var isFull: Bool { errno == ENOSPC || errno == EDQUOT }
}
