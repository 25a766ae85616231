import Core
import DriverKit
import Glibc
import Reactor

/// Where the volumes of a `file` pool are. Blocking calls, one at a time.
protocol FileStore: AnyObject, Sendable {
    /// What an operator should know.
    var notes: [String] { get }
    func create(_ id: Identifier, size: UInt64) throws(DriverError)
    func resize(_ id: Identifier, to size: UInt64) throws(DriverError)
    func delete(_ id: Identifier) throws(DriverError)
    func volumes() throws(DriverError) -> [Identifier: UInt64]
    func capacity() throws(DriverError) -> PoolCapacity
    func open(_ id: Identifier) throws(DriverError) -> OpenVolume
    /// A second open file of the volume's, which is never synced.
    func witness(_ id: Identifier) throws(DriverError) -> FileDescriptor
}

/// The pool's own folder: locked, so that no second server uses it. Its path is used by `init` alone: later
/// on, the process may not be able to follow it.
final class PoolFolder: Sendable {
    /// For messages.
    let path: String
    private let descriptor: FileDescriptor

    private static let lock = "lock"

    /// Opens and locks the folder, or takes over the open folder of the pool's last process with its lock:
    /// `flock(2)` belongs to the open file, whoever has it.
    init(_ path: String, store: any DescriptorStore) throws(DriverError) {
        self.path = path
        if let kept = try store.descriptor(PoolFolder.lock) {
            descriptor = kept
        } else {
            descriptor = try PoolFolder.make(path)
        }
        if !PoolFolder.lock(descriptor.raw) {
            if errno == EWOULDBLOCK {
                throw DriverError(.busy, "another server uses the pool's folder \(path); stop it first")
            }
            throw PoolFolder.failure("the lock of the pool's folder \(path)", errno)
        }
        try store.keep(descriptor, as: PoolFolder.lock)
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

    private static func make(_ path: String) throws(DriverError) -> FileDescriptor {
        if unsafe mkdir(path, 0o700) != 0 && errno != EEXIST {
            throw PoolFolder.failure("the pool's folder \(path)", errno)
        }
        let fd = unsafe Glibc.open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC)
        if fd < 0 { throw PoolFolder.failure("the pool's folder \(path)", errno) }
        return FileDescriptor(owning: fd)
    }

    /// Opens a file of the folder.
    func open(_ name: String, _ flags: Int32, mode: mode_t = 0o600) throws(DriverError) -> FileDescriptor {
        let fd = unsafe openat(descriptor.raw, name, flags | O_CLOEXEC | O_NOFOLLOW, mode)
        if fd < 0 { throw PoolFolder.failure("the file \(name) in \(path)", errno) }
        return FileDescriptor(owning: fd)
    }

    func rename(_ old: String, to new: String) throws(DriverError) {
        if unsafe renameat(descriptor.raw, old, descriptor.raw, new) != 0 {
            throw PoolFolder.failure("the file \(new) in \(path)", errno)
        }
    }

    /// Removes a file; one that is not there is no error.
    func remove(_ name: String) throws(DriverError) {
        if unsafe unlinkat(descriptor.raw, name, 0) != 0 && errno != ENOENT {
            throw PoolFolder.failure("the file \(name) in \(path)", errno)
        }
    }

    /// Makes names durable.
    func sync() throws(DriverError) {
        if fsync(descriptor.raw) != 0 { throw PoolFolder.failure("the pool's folder \(path)", errno) }
    }

    /// The names in the folder.
    func names() throws(DriverError) -> [String] {
        // A listing has a position: it needs an open folder of its own.
        let own = try open(".", O_RDONLY | O_DIRECTORY).take()
        guard let listing = unsafe fdopendir(own) else {
            let cause = errno
            _ = close(own)
            throw PoolFolder.failure("the pool's folder \(path)", cause)
        }
        defer { unsafe closedir(listing) }
        var names: [String] = []
        while let entry = unsafe readdir(listing) {
            let name = unsafe withUnsafePointer(to: &entry.pointee.d_name) { tuple in
                unsafe tuple.withMemoryRebound(to: CChar.self, capacity: 256) { unsafe String(cString: $0) }
            }
            if name != "." && name != ".." { names.append(name) }
        }
        return names
    }

    func status(_ name: String) -> stat? {
        var status = stat()
        return unsafe fstatat(descriptor.raw, name, &status, AT_SYMLINK_NOFOLLOW) == 0 ? status : nil
    }

    /// Total and available bytes of the file system.
    func space() throws(DriverError) -> (total: UInt64, free: UInt64) {
        var space = statvfs()
        if unsafe fstatvfs(descriptor.raw, &space) != 0 {
            throw PoolFolder.failure("the pool's folder \(path)", errno)
        }
        return (
            UInt64(space.f_blocks) * UInt64(space.f_frsize), UInt64(space.f_bavail) * UInt64(space.f_frsize)
        )
    }

    /// A failed system call in words.
    static func failure(_ what: String, _ errno: Int32) -> DriverError {
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
        return DriverError(status, "\(what): \(ReactorError.text(errno: errno))\(advice)")
    }
}
