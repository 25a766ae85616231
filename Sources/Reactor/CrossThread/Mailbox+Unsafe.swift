import Glibc

/// Messages from any thread to one that waits for them.
@safe public final class Mailbox<Message: Sendable>: @unchecked Sendable {
    // SAFETY: `messages` is touched only with `mutex` held.
    private var messages: [Message] = []
    private let mutex = UnsafeMutablePointer<pthread_mutex_t>.allocate(capacity: 1)
    private let condition = UnsafeMutablePointer<pthread_cond_t>.allocate(capacity: 1)

    /// An empty one.
    public init() {
        unsafe pthread_mutex_init(mutex, nil)
        var attributes = pthread_condattr_t()
        unsafe pthread_condattr_init(&attributes)
        unsafe pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC)
        unsafe pthread_cond_init(condition, &attributes)
        unsafe pthread_condattr_destroy(&attributes)
    }

    deinit {
        unsafe pthread_cond_destroy(condition)
        unsafe pthread_mutex_destroy(mutex)
        unsafe condition.deallocate()
        unsafe mutex.deallocate()
    }

    /// Leaves a message. Any thread; never waits long.
    public func post(_ message: Message) { post(message) { _ in false } }

    /// Leaves a message, in the place of those that wait and are old then. Any thread; never waits long.
    public func post(_ message: Message, inPlaceOf isOld: (Message) -> Bool) {
        unsafe pthread_mutex_lock(mutex)
        messages.removeAll(where: isOld)
        messages.append(message)
        unsafe pthread_cond_signal(condition)
        unsafe pthread_mutex_unlock(mutex)
    }

    /// Messages that wait.
    public var count: Int {
        unsafe pthread_mutex_lock(mutex)
        defer { unsafe pthread_mutex_unlock(mutex) }
        return messages.count
    }

    /// The oldest message; waits for one. Blocks.
    public func take() -> Message {
        while true {
            if let message = take(until: .max) { return message }
        }
    }

    /// The oldest message; nil when none has come before the monotonic time in nanoseconds. Blocks until then.
    public func take(until deadline: UInt64) -> Message? {
        unsafe pthread_mutex_lock(mutex)
        defer { unsafe pthread_mutex_unlock(mutex) }
        var time = timespec(
            tv_sec: Int(min(deadline / 1_000_000_000, UInt64(Int32.max))),
            tv_nsec: Int(deadline % 1_000_000_000))
        while messages.isEmpty {
            if unsafe pthread_cond_timedwait(condition, mutex, &time) == ETIMEDOUT { break }
        }
        return messages.isEmpty ? nil : messages.removeFirst()
    }
}
