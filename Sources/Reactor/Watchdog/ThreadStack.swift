import CURing
import Core
import Glibc

/// Where a thread of this process is, asked of the thread itself by a signal.
///
/// The signal's handler takes return addresses into memory that is there from the start and posts a semaphore: it
/// allocates nothing and takes no lock. Who asks waits for a bounded time, since a thread that is in the kernel and
/// cannot be interrupted does not answer. One at a time: the watchdog's thread.
@safe
enum ThreadStack {
    /// Ignored by default, so that one which comes late does no harm.
    private static let signal = SIGURG
    static let framesMax = 64

    // SAFETY: the memory is never given back. `frames` is written by the handler, which runs only after `ask` has set
    // `wanted`, and read by who asked, after the semaphore.
    @safe
    private final class Desk: @unchecked Sendable {
        let frames: UnsafeMutablePointer<UnsafeMutableRawPointer?>
        let answered = ThreadSemaphore()
        let wanted: UnsafeMutablePointer<Int32>
        let count: UnsafeMutablePointer<Int32>
        /// Where the thread was interrupted.
        let place: UnsafeMutablePointer<UInt>

        init() {
            unsafe frames = .allocate(capacity: ThreadStack.framesMax)
            unsafe frames.initialize(repeating: nil, count: ThreadStack.framesMax)
            unsafe wanted = .allocate(capacity: 1)
            unsafe wanted.initialize(to: 0)
            unsafe count = .allocate(capacity: 1)
            unsafe count.initialize(to: 0)
            unsafe place = .allocate(capacity: 1)
            unsafe place.initialize(to: 0)
        }
    }

    private static let desk = Desk()

    /// Sets the handler, and has the unwinder load what it needs: not in a handler. Call it once, before `take`.
    static func prepare() {
        let desk = desk
        _ = unsafe sluice_backtrace(desk.frames, Int32(framesMax))
        _ = unsafe sluice_handle_signal(signal) { _, _, context in
            unsafe ThreadStack.note(sluice_interrupted_address(context))
        }
    }

    /// Lets the calling thread be asked: threads that Dispatch has made, and those that these make, block most signals.
    static func allow() {
        var set = sigset_t()
        unsafe sigemptyset(&set)
        unsafe sigaddset(&set, signal)
        unsafe pthread_sigmask(SIG_UNBLOCK, &set, nil)
    }

    /// The return addresses of a thread, the innermost first; empty when it does not answer in time.
    static func take(thread: Int32, milliseconds: Int64) -> [UInt] {
        let desk = desk
        // An answer that came too late for the last question.
        while desk.answered.wait(milliseconds: 0) {}
        unsafe desk.count.pointee = 0
        unsafe desk.wanted.pointee = thread
        defer { unsafe desk.wanted.pointee = 0 }
        guard sluice_signal_thread(thread, signal) == 0, desk.answered.wait(milliseconds: milliseconds) else {
            return []
        }
        let count = unsafe Int(desk.count.pointee)
        let all = (0..<count).compactMap { unsafe desk.frames[$0].map { UInt(bitPattern: $0) } }
        // The first are the handler's own.
        let place = unsafe desk.place.pointee
        return Array(all[(all.firstIndex(of: place) ?? 0)...])
    }

    /// The handler's body.
    private static func note(_ place: UInt) {
        let desk = desk
        let number = errno
        if unsafe desk.wanted.pointee == sluice_thread_id() {
            unsafe desk.wanted.pointee = 0
            unsafe desk.place.pointee = place
            unsafe desk.count.pointee = unsafe sluice_backtrace(desk.frames, Int32(framesMax))
            desk.answered.signal()
        }
        errno = number
    }
}
