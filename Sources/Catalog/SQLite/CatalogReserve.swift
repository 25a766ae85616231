import Core
import Glibc
import Synchronization

/// Space that the catalog keeps for the day on which its file system is full: a file beside it, which is let go of then, so
/// that what makes room (deleting, revoking, starting) can still be written down.
///
/// Blocks for as long as a file system takes; on the catalog's queue.
final class CatalogReserve: Sendable {
    private let path: String
    private let isReleased = Atomic<Bool>(false)

    /// The reserve of the catalog at `path`; made, or let go of at once where nothing else is left. Without room for it
    /// it counts as used: it may have been let go of by the server before.
    init(catalog path: String) {
        self.path = path + "-reserve"
        if let space = space(), space.free < Limits.catalogFreeBytesMin {
            _ = release()
        } else if !fill() {
            isReleased.store(true, ordering: .relaxed)
        }
    }

    /// Whether it was let go of, and there has not been room to make it again.
    var isUsed: Bool { isReleased.load(ordering: .relaxed) }

    /// Gives its space to the catalog; false when that was done before.
    func release() -> Bool {
        isReleased.store(true, ordering: .relaxed)
        return unsafe unlink(path) == 0
    }

    /// Makes it, where there is room for it and as much again; false where there is not.
    @discardableResult
    func fill() -> Bool {
        guard let space = space() else { return true }
        let bytes = min(Limits.catalogReserveBytes, space.total / Limits.catalogReserveShare)
        let fd = unsafe open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0o600)
        guard fd >= 0 else { return errno != ENOSPC }
        defer { close(fd) }
        var status = stat()
        guard unsafe fstat(fd, &status) == 0 else { return true }
        let isThere = UInt64(status.st_blocks) * 512 >= bytes
        guard isThere || space.free >= 2 * bytes && posix_fallocate(fd, 0, off_t(bytes)) == 0 else {
            _ = unsafe unlink(path)
            return space.free >= 2 * bytes
        }
        isReleased.store(false, ordering: .relaxed)
        return true
    }

    private func space() -> (total: UInt64, free: UInt64)? {
        let folder = path.lastIndex(of: "/").map { String(path[...$0]) } ?? "."
        var space = statvfs()
        // Some file systems do not tell.
        guard unsafe statvfs(folder, &space) == 0, space.f_blocks > 0 else { return nil }
        return (
            UInt64(space.f_blocks) * UInt64(space.f_frsize), UInt64(space.f_bavail) * UInt64(space.f_frsize)
        )
    }
}
