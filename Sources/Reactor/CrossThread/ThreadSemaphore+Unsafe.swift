import CURing
import Glibc

/// A counting semaphore (`sem_overview(7)`). Any thread.
@safe
public final class ThreadSemaphore: @unchecked Sendable {
    // SAFETY: the pointer never changes, and sem_post and sem_wait may be called by any thread.
    private let pointer: UnsafeMutablePointer<sem_t>

    /// A semaphore with the count 0.
    public init() {
        unsafe pointer = UnsafeMutablePointer<sem_t>.allocate(capacity: 1)
        guard unsafe sem_init(pointer, 0, 0) == 0 else { preconditionFailure("a semaphore cannot be made") }
    }

    deinit {
        unsafe sem_destroy(pointer)
        unsafe pointer.deallocate()
    }

    /// Counts up; wakes one that waits.
    public func signal() {
        unsafe sem_post(pointer)
    }

    /// Waits until the count is above 0, and counts down. Blocks.
    public func wait() {
        while unsafe sem_wait(pointer) != 0 {}
    }

    /// Waits at most so many milliseconds; false when the count stayed 0. Blocks.
    public func wait(milliseconds: Int64) -> Bool {
        var deadline = timespec()
        unsafe clock_gettime(CLOCK_MONOTONIC, &deadline)
        let nanoseconds = deadline.tv_nsec + Int(milliseconds % 1000) * 1_000_000
        deadline.tv_sec += Int(milliseconds / 1000) + nanoseconds / 1_000_000_000
        deadline.tv_nsec = nanoseconds % 1_000_000_000
        while unsafe sluice_semaphore_wait(pointer, &deadline) != 0 {
            if errno == ETIMEDOUT { return false }
        }
        return true
    }
}
