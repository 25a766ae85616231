import Glibc
import Reactor

/// The signals that end a command from outside, kept from doing so while it has something to take back. On the thread of
/// a command that has one.
public final class HeldSignals {
    private var held: sigset_t
    private var before: sigset_t
    private var numbers: [Int32] = []

    /// Holds those of SIGINT, SIGTERM and SIGHUP that would end the process.
    public init() {
        held = sigset_t()
        before = sigset_t()
        unsafe sigemptyset(&held)
        for number in [SIGINT, SIGTERM, SIGHUP] {
            var action = sigaction()
            // Whoever started it, such as nohup(1), wants it to go on.
            guard unsafe sigaction(number, nil, &action) == 0,
                unsafe unsafeBitCast(action.__sigaction_handler.sa_handler, to: Int.self) == 0
            else { continue }
            numbers.append(number)
            unsafe sigaddset(&held, number)
        }
        unsafe pthread_sigmask(SIG_BLOCK, &held, &before)
    }

    deinit { unsafe pthread_sigmask(SIG_SETMASK, &before, nil) }

    /// One that has come; nil when none has. It does not come again.
    public func taken() -> Int32? {
        var none = timespec()
        let number = unsafe sigtimedwait(&held, nil, &none)
        return number > 0 ? number : nil
    }

    /// From now on, also after this object, one that comes ends the process after this line on standard error.
    public func say(_ line: String) {
        let text = unsafe strdup("sluice: \(line)\n")
        unsafe LastWords.text = unsafe text
        for number in numbers {
            _ = signal(number) { number in
                if let text = unsafe LastWords.text {
                    _ = unsafe write(STDERR_FILENO, text, strlen(text))
                }
                _ = signal(number, SIG_DFL)
                raise(number)
            }
        }
    }

    /// What a signal has the process say. It is never given back: a signal may come at any time.
    private enum LastWords {
        // SAFETY: written by the one thread of a command before the handler is set that reads them, and then replaced
        // by a whole line while the old one stays.
        nonisolated(unsafe) static var text: UnsafeMutablePointer<CChar>? = nil
    }
}
