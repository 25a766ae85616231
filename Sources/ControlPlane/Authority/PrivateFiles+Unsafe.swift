import Glibc

/// Files and folders that only their owner may read, written so that a crash leaves the old file or the new one.
public enum PrivateFiles {
    /// Makes a folder with mode 0700; one that is there is fine.
    public static func makeFolder(_ path: String) throws(AuthorityError) {
        guard unsafe mkdir(path, 0o700) != 0 else { return }
        let code = errno
        guard code == EEXIST, isFolder(path) else { throw failure(path, code) }
    }

    /// Writes a file with mode 0600: under another name first, synced, then renamed over `path`, and the folder synced.
    public static func write(_ bytes: [UInt8], to path: String) throws(AuthorityError) {
        let draft = path + ".new"
        unsafe unlink(draft)
        let fd = unsafe open(draft, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0o600)
        guard fd >= 0 else { throw failure(path, errno) }
        do throws(AuthorityError) {
            try writeAll(bytes, to: fd, path: path)
            guard fsync(fd) == 0 else { throw failure(path, errno) }
        } catch {
            Glibc.close(fd)
            unsafe unlink(draft)
            throw error
        }
        Glibc.close(fd)
        guard unsafe rename(draft, path) == 0 else { throw failure(path, errno) }
        try syncFolder(of: path)
    }

    /// The content of a file of at most `bytesMax` bytes.
    public static func read(_ path: String, bytesMax: Int = 1 << 20) throws(AuthorityError) -> [UInt8] {
        let fd = unsafe open(path, O_RDONLY | O_CLOEXEC)
        guard fd >= 0 else { throw failure(path, errno) }
        defer { Glibc.close(fd) }
        var content: [UInt8] = []
        var piece = [UInt8](repeating: 0, count: 65536)
        while true {
            let count = unsafe piece.withUnsafeMutableBytes { buffer in
                unsafe Glibc.read(fd, buffer.baseAddress, buffer.count)
            }
            guard count >= 0 else { throw failure(path, errno) }
            if count == 0 { return content }
            content.append(contentsOf: piece[..<count])
            guard content.count <= bytesMax else {
                throw .file(path: path, reason: "is larger than expected")
            }
        }
    }

    /// The names in a folder, without `.` and `..`, in order; nil when there is no folder.
    public static func names(in folder: String) throws(AuthorityError) -> [String]? {
        guard let stream = unsafe opendir(folder) else {
            if errno == ENOENT { return nil }
            throw failure(folder, errno)
        }
        defer { unsafe closedir(stream) }
        var names: [String] = []
        while true {
            // A listing that fails ends like one that is complete.
            errno = 0
            guard let entry = unsafe readdir(stream) else {
                guard errno == 0 else { throw failure(folder, errno) }
                return names.sorted()
            }
            let name = unsafe withUnsafePointer(to: &entry.pointee.d_name) { pointer in
                unsafe pointer.withMemoryRebound(to: CChar.self, capacity: Int(NAME_MAX) + 1) {
                    unsafe String(cString: $0)
                }
            }
            if name != ".", name != ".." { names.append(name) }
        }
    }

    /// Whether there is something at `path`.
    public static func exists(_ path: String) -> Bool { unsafe access(path, F_OK) == 0 }

    /// Whether the folder in which `path` would be is not there.
    static func isMissing(parentOf path: String) -> Bool {
        guard let slash = path.lastIndex(of: "/"), slash != path.startIndex else { return false }
        return unsafe access(String(path[..<slash]), F_OK) != 0 && errno == ENOENT
    }

    /// Removes a folder that holds nothing; any other stays.
    static func removeEmptyFolder(_ path: String) { unsafe rmdir(path) }

    /// Removes a file, or a folder with all that it holds; links are removed, not followed.
    static func removeAll(_ path: String) throws(AuthorityError) {
        if isFolder(path) {
            for name in try names(in: path) ?? [] { try removeAll("\(path)/\(name)") }
            guard unsafe rmdir(path) == 0 else { throw failure(path, errno) }
        } else if unsafe unlink(path) != 0, errno != ENOENT {
            throw failure(path, errno)
        }
    }

    /// Removes a file, and tells whether there is none now.
    static func remove(_ path: String) -> Bool { unsafe unlink(path) == 0 || errno == ENOENT }

    /// Removes a folder that holds nothing, and tells whether there is none now.
    static func removeFolder(_ path: String) -> Bool { unsafe rmdir(path) == 0 || errno == ENOENT }

    /// Takes a lock on `path` that ends with the process; nil when another process holds it. Never closed.
    static func lock(_ path: String) throws(AuthorityError) -> Int32? {
        let fd = unsafe open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0o600)
        guard fd >= 0 else { throw failure(path, errno) }
        if flock(fd, LOCK_EX | LOCK_NB) == 0 { return fd }
        let code = errno
        Glibc.close(fd)
        guard code == EWOULDBLOCK else { throw failure(path, code) }
        return nil
    }

    /// Gives a lock back.
    static func unlock(_ fd: Int32) { Glibc.close(fd) }

    private static func isFolder(_ path: String) -> Bool {
        var info = stat()
        return unsafe lstat(path, &info) == 0 && info.st_mode & S_IFMT == S_IFDIR
    }

    private static func writeAll(_ bytes: [UInt8], to fd: Int32, path: String) throws(AuthorityError) {
        var written = 0
        while written < bytes.count {
            let count = unsafe bytes[written...].withUnsafeBytes { buffer in
                unsafe Glibc.write(fd, buffer.baseAddress, buffer.count)
            }
            guard count > 0 else { throw failure(path, errno) }
            written += count
        }
    }

    private static func syncFolder(of path: String) throws(AuthorityError) {
        let folder = path.lastIndex(of: "/").map { $0 == path.startIndex ? "/" : String(path[..<$0]) } ?? "."
        let fd = unsafe open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC)
        guard fd >= 0 else { throw failure(folder, errno) }
        defer { Glibc.close(fd) }
        guard fsync(fd) == 0 else { throw failure(folder, errno) }
    }

    private static func failure(_ path: String, _ code: Int32) -> AuthorityError {
        let text = unsafe String(cString: strerror(code))
        let hint = code == EROFS ? " (the file system is mounted read-only)" : ""
        return .file(path: path, reason: text + hint)
    }
}
