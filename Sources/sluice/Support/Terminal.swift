import Core
import Glibc
import Synchronization

/// What goes to standard output and standard error: the one way there, and nothing of it can steer a terminal.
enum Terminal {
    /// What standard output did not take, as an errno; 0 while it takes everything. Commands finish what they do
    /// nevertheless.
    private static let outputProblem = Atomic<Int32>(0)
    /// How long a write may wait for its reader, in milliseconds; negative: as long as it takes.
    private static let patienceMilliseconds = Atomic<Int32>(-1)

    /// Writes lines to standard output: a table or sentence of our own, or JSON, whose values stay what they are.
    static func line(_ text: String) {
        guard outputProblem.load(ordering: .relaxed) == 0 else { return }
        let problem = write(ShownText.lines(text) + "\n", to: STDOUT_FILENO)
        if problem != 0 { outputProblem.store(problem, ordering: .relaxed) }
    }

    /// Writes one line to standard error.
    static func note(_ text: String) {
        _ = write(ShownText.line(Failure.oneLine(text)) + "\n", to: STDERR_FILENO)
    }

    /// Writes lines of our own to standard error.
    static func notes(_ text: String) { _ = write(ShownText.lines(text) + "\n", to: STDERR_FILENO) }

    /// Rewrites the line on standard error, for progress; call it only if `hasErrorTerminal`.
    static func progress(_ text: String) { _ = write("\r\u{1b}[K" + ShownText.line(text), to: STDERR_FILENO) }

    /// Whether a person types standard input.
    static var hasInputTerminal: Bool { isatty(STDIN_FILENO) == 1 }
    /// Whether a person looks at standard error.
    static var hasErrorTerminal: Bool { isatty(STDERR_FILENO) == 1 }

    /// Whether lines still reach somebody; a command that goes on until it is ended ends when they do not.
    static var isHeard: Bool { outputProblem.load(ordering: .relaxed) == 0 }

    /// From now on nothing that is written may hold this process up: others depend on it.
    static func neverWait() { patienceMilliseconds.store(1000, ordering: .relaxed) }

    /// Says what became of the output, last of all: a reader that has gone ends the process by SIGPIPE, as it does
    /// other programs; output that found no room is a failure.
    static func finish() throws {
        let problem = outputProblem.load(ordering: .relaxed)
        guard problem != 0 else { return }
        if problem == EPIPE {
            var set = sigset_t()
            unsafe sigemptyset(&set)
            unsafe sigaddset(&set, SIGPIPE)
            _ = signal(SIGPIPE, SIG_DFL)
            unsafe pthread_sigmask(SIG_UNBLOCK, &set, nil)
            raise(SIGPIPE)
        }
        throw Failure(
            .failure,
            "done, but standard output did not take all: \(unsafe String(cString: strerror(problem)))")
    }

    /// The errno that kept the text from being written; 0 for none.
    private static func write(_ text: String, to descriptor: Int32) -> Int32 {
        var rest = Array(text.utf8)[...]
        let patience = patienceMilliseconds.load(ordering: .relaxed)
        while !rest.isEmpty {
            if patience >= 0 {
                var entry = pollfd(fd: descriptor, events: Int16(POLLOUT), revents: 0)
                if unsafe poll(&entry, 1, patience) == 0 { return EAGAIN }
            }
            // Of a pipe that poll(2) calls writable this much is taken at once.
            let piece = patience >= 0 ? rest.prefix(Int(PIPE_BUF)) : rest
            let count = unsafe piece.withUnsafeBytes {
                unsafe Glibc.write(descriptor, $0.baseAddress, $0.count)
            }
            if count < 0, errno == EINTR { continue }
            if count < 0, errno == EAGAIN {
                var entry = pollfd(fd: descriptor, events: Int16(POLLOUT), revents: 0)
                _ = unsafe poll(&entry, 1, 1000)
                continue
            }
            guard count > 0 else { return count == 0 ? EIO : errno }
            rest = rest.dropFirst(count)
        }
        return 0
    }
}
