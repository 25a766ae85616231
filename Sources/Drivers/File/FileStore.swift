import Core
import DriverKit
import Glibc
import Reactor

/// Where the volumes of a `file` pool are. Blocking calls, one at a time.
protocol FileStore: AnyObject, Sendable {
    /// What an operator should know.
    var notes: [String] { get }
    func create(_ id: Identifier, size: UInt64) throws(StatusError)
    func resize(_ id: Identifier, to size: UInt64) throws(StatusError)
    func delete(_ id: Identifier) throws(StatusError)
    func volumes() throws(StatusError) -> [Identifier: UInt64]
    func capacity() throws(StatusError) -> PoolCapacity
    func open(_ id: Identifier) throws(StatusError) -> OpenVolume
    /// A second open file of the volume's, which is never synced.
    func witness(_ id: Identifier) throws(StatusError) -> FileDescriptor
    /// Does a second's worth of what a volume of this size still needs; how many bytes that leaves.
    func prepare(_ id: Identifier, to size: UInt64) throws(StatusError) -> UInt64
    /// What each volume takes, in bytes.
    func usage() throws(StatusError) -> [Identifier: UInt64]
    /// What writes may still take, in bytes; nil where every volume has its space for good. Any thread.
    func freeBytes() -> UInt64?
}

/// The pool's own folder: locked, so that no second server uses it. Its path is used by `init` alone: later
/// on, the process may not be able to follow it.
final class PoolFolder: Sendable {
    /// For messages.
    let path: String
    private let descriptor: FileDescriptor

    /// Opens and locks the folder, or takes over the open folder of the pool's last process with its lock:
    /// `flock(2)` belongs to the open file, whoever has it.
    ///
    /// - Parameter lock: the name under which the store keeps the open folder.
    init(_ path: String, store: any DescriptorStore, lock: String = "lock") throws(StatusError) {
        self.path = path
        if let kept = try store.descriptor(lock) {
            descriptor = kept
        } else {
            descriptor = try PoolFolder.make(path)
        }
        if !PoolFolder.lock(descriptor.raw) {
            if errno == EWOULDBLOCK {
                throw StatusError(
                    .busy,
                    "another pool, of this server or of another one, uses the folder \(path): choose another folder"
                )
            }
            throw PoolFolder.failure("the lock of the pool's folder \(path)", errno)
        }
        try store.keep(descriptor, as: lock)
    }

    /// Locks an open file; false with errno when it stays locked by another. A server that was killed holds
    /// its locks until the kernel has ended its I/O.
    static func lock(_ fd: Int32) -> Bool {
        for _ in 0..<Limits.poolLockAttemptsMax {
            if flock(fd, LOCK_EX | LOCK_NB) == 0 { return true }
            if errno != EWOULDBLOCK { return false }
            _ = poll(nil, 0, Limits.poolLockAttemptMilliseconds)
            errno = EWOULDBLOCK
        }
        return false
    }

    private static func make(_ path: String) throws(StatusError) -> FileDescriptor {
        if unsafe mkdir(path, 0o700) != 0 && errno != EEXIST {
            throw PoolFolder.failure("the pool's folder \(path)", errno)
        }
        let fd = unsafe Glibc.open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC)
        if fd < 0 { throw PoolFolder.failure("the pool's folder \(path)", errno) }
        return FileDescriptor(owning: fd)
    }

    /// Whether it is a file under one name. The pool makes no others: somebody else has put those into the folder,
    /// such as an earlier process of the pool that an attacker had taken over.
    static func isOwn(_ status: stat) -> Bool {
        status.st_mode & S_IFMT == S_IFREG && status.st_nlink == 1
    }

    /// Opens a file of the folder. What is not the pool's own is not opened, since opening a FIFO waits for ever.
    func open(_ name: String, _ flags: Int32, mode: mode_t = 0o600) throws(StatusError) -> FileDescriptor {
        if let status = try status(name), !PoolFolder.isOwn(status) { throw strange(name) }
        let file = try openAnything(name, flags, mode: mode)
        var status = stat()
        if unsafe fstat(file.raw, &status) != 0 {
            throw PoolFolder.failure("the file \(name) in \(path)", errno)
        }
        guard PoolFolder.isOwn(status) else { throw strange(name) }
        return file
    }

    private func strange(_ name: String) -> StatusError {
        StatusError(
            .ioError,
            "\(name) in \(path) is not a file, or has a second name: the pool did not make it so, and leaves it alone"
        )
    }

    private func openAnything(
        _ name: String, _ flags: Int32, mode: mode_t = 0
    ) throws(StatusError) -> FileDescriptor {
        let fd = unsafe openat(descriptor.raw, name, flags | O_CLOEXEC | O_NOFOLLOW, mode)
        if fd < 0 { throw PoolFolder.failure("the file \(name) in \(path)", errno) }
        return FileDescriptor(owning: fd)
    }

    /// The words of a small file; nil when there is none.
    func words(_ name: String) throws(StatusError) -> [String]? {
        guard try status(name) != nil else { return nil }
        let file = try open(name, O_RDONLY)
        var bytes = [UInt8](repeating: 0, count: 128)
        let count = unsafe bytes.withUnsafeMutableBytes {
            unsafe Glibc.read(file.raw, $0.baseAddress, $0.count)
        }
        if count < 0 { throw PoolFolder.failure("the file \(name) in \(path)", errno) }
        return String(decoding: bytes.prefix(count), as: UTF8.self).split(whereSeparator: \.isWhitespace)
            .map(String.init)
    }

    /// Puts words into a small file, in place of what was there; durable.
    func write(_ words: [String], to name: String) throws(StatusError) {
        let new = name + ".new"
        let file = try open(new, O_RDWR | O_CREAT | O_TRUNC)
        let text = [UInt8]((words.joined(separator: " ") + "\n").utf8)
        let written = unsafe text.withUnsafeBytes { unsafe Glibc.write(file.raw, $0.baseAddress, $0.count) }
        if written < 0 || fsync(file.raw) != 0 {
            throw PoolFolder.failure("the file \(new) in \(path)", errno)
        }
        if written != text.count { throw PoolFolder.failure("the file \(new) in \(path)", ENOSPC) }
        try rename(new, to: name)
        try sync()
    }

    func rename(_ old: String, to new: String) throws(StatusError) {
        if unsafe renameat(descriptor.raw, old, descriptor.raw, new) != 0 {
            throw PoolFolder.failure("the file \(new) in \(path)", errno)
        }
    }

    /// Removes a file; one that is not there is no error.
    func remove(_ name: String) throws(StatusError) {
        if unsafe unlinkat(descriptor.raw, name, 0) != 0 && errno != ENOENT {
            throw PoolFolder.failure("the file \(name) in \(path)", errno)
        }
    }

    /// Makes names durable.
    func sync() throws(StatusError) {
        if fsync(descriptor.raw) != 0 { throw PoolFolder.failure("the pool's folder \(path)", errno) }
    }

    /// The names in the folder.
    func names() throws(StatusError) -> [String] {
        // A listing has a position: it needs an open folder of its own.
        let own = try openAnything(".", O_RDONLY | O_DIRECTORY).take()
        guard let listing = unsafe fdopendir(own) else {
            let cause = errno
            _ = close(own)
            throw PoolFolder.failure("the pool's folder \(path)", cause)
        }
        defer { unsafe closedir(listing) }
        var names: [String] = []
        while true {
            // A listing that fails ends like one that is complete.
            errno = 0
            guard let entry = unsafe readdir(listing) else {
                if errno != 0 { throw PoolFolder.failure("the pool's folder \(path)", errno) }
                return names
            }
            let name = unsafe withUnsafePointer(to: &entry.pointee.d_name) { tuple in
                unsafe tuple.withMemoryRebound(to: CChar.self, capacity: 256) { unsafe String(cString: $0) }
            }
            if name != "." && name != ".." { names.append(name) }
        }
    }

    /// What has the name, links not followed; nil when nothing has.
    func status(_ name: String) throws(StatusError) -> stat? {
        var status = stat()
        if unsafe fstatat(descriptor.raw, name, &status, AT_SYMLINK_NOFOLLOW) == 0 { return status }
        if errno == ENOENT { return nil }
        throw PoolFolder.failure("the file \(name) in \(path)", errno)
    }

    /// Total bytes of the file system, and what the pool may still take of it: a margin is left to others, the server's
    /// catalog among them where both are on one file system.
    func space() throws(StatusError) -> (total: UInt64, free: UInt64) {
        var space = statvfs()
        if unsafe fstatvfs(descriptor.raw, &space) != 0 {
            throw PoolFolder.failure("the pool's folder \(path)", errno)
        }
        let total = UInt64(space.f_blocks) * UInt64(space.f_frsize)
        let free = UInt64(space.f_bavail) * UInt64(space.f_frsize)
        let margin = PoolFolder.margin(total: total)
        return (total, free > margin ? free - margin : 0)
    }

    /// What a pool leaves of a file system of so many bytes: no less than the catalog keeps for itself, which may
    /// be free some day and is not the pool's.
    static func margin(total: UInt64) -> UInt64 {
        let least =
            Limits.poolMarginBytes.lowerBound
            + min(total / Limits.poolMarginSmallShare, Limits.poolMarginSmallBytes)
        return min(max(total / Limits.poolMarginShare, least), Limits.poolMarginBytes.upperBound)
    }

    /// A failed system call in words.
    static func failure(_ what: String, _ errno: Int32) -> StatusError {
        let advice =
            switch errno {
            case EROFS: "; the file system is read-only, remount it writable"
            case EACCES, EPERM: "; the server's user may not do this, check owner and mode"
            case ENOSPC, EDQUOT: "; free space or give the file system more"
            default: ""
            }
        let status: Status =
            switch errno {
            case ENOENT: .notFound
            case EACCES, EPERM: .denied
            default: Status.fromDevice(errno: errno)
            }
        return StatusError(status, "\(what): \(ReactorError.text(errno: errno))\(advice)")
    }
}
