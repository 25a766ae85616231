import Glibc
import Synchronization

/// One value from one thread to another that waits for it.
final class HandOver<Value: Sendable>: Sendable {
    private let value = Mutex<Value?>(nil)
    private let ready = Gate()

    /// The two ends: one gives the value, the other blocks until it is there.
    static func pair() -> (give: @Sendable (Value) -> Void, take: () -> Value) {
        let handOver = HandOver()
        return ({ handOver.give($0) }, { handOver.take() })
    }

    private func give(_ new: Value) {
        value.withLock { $0 = new }
        ready.open()
    }

    private func take() -> Value {
        ready.wait()
        guard let value = value.withLock({ $0 }) else {
            preconditionFailure("the gate opened without a value")
        }
        return value
    }
}

/// A semaphore that is signalled once (`sem_overview(7)`).
@safe
private final class Gate: @unchecked Sendable {
    // SAFETY: the pointer never changes, and sem_post and sem_wait may be called by any thread.
    private let pointer: UnsafeMutablePointer<sem_t>

    init() {
        unsafe pointer = UnsafeMutablePointer<sem_t>.allocate(capacity: 1)
        guard unsafe sem_init(pointer, 0, 0) == 0 else { preconditionFailure("a semaphore cannot be made") }
    }

    deinit {
        unsafe sem_destroy(pointer)
        unsafe pointer.deallocate()
    }

    func open() {
        unsafe sem_post(pointer)
    }

    func wait() {
        while unsafe sem_wait(pointer) != 0 {}
    }
}
