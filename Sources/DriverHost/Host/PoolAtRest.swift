import Core
import DriverKit
import Glibc
import Reactor

/// Waits until nothing of an earlier server can touch a pool any more.
///
/// A server that is killed takes its driver hosts with it, and not their I/O: what the kernel has of it goes on, and
/// would land on top of what the next server writes. Each host's rings hold the host's lock of the pool's folder
/// (`DescriptorStoreName.isLock`) until the last of that I/O has ended, so the lock says when the pool is at rest.
enum PoolAtRest {
    /// Whether nobody holds the lock of the pool's folder. A folder that cannot be opened is the host's to complain of.
    static func isNow(_ folder: String) -> Bool {
        let descriptor = open(folder)
        return descriptor.raw < 0 || flock(descriptor.raw, LOCK_EX | LOCK_NB) == 0
    }

    /// Calls `body`, on a thread of its own, when nobody holds the lock.
    static func wait(_ folder: String, _ body: @escaping @Sendable () -> Void) throws(ReactorError) {
        try DetachedThread.start(name: "pool-at-rest") {
            let descriptor = open(folder)
            // A lock that cannot be had says nothing of the pool: it is asked for again.
            while descriptor.raw >= 0, flock(descriptor.raw, LOCK_EX) != 0 {
                if errno != EINTR { _ = poll(nil, 0, Limits.lockAgainMilliseconds) }
            }
            _ = consume descriptor
            body()
        }
    }

    private static func open(_ folder: String) -> FileDescriptor {
        FileDescriptor(owning: unsafe Glibc.open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC))
    }
}
