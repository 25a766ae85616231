import Core
import Glibc

/// What goes to standard output and standard error: the one way there, and nothing of it can steer a terminal.
enum Terminal {
    /// Writes lines to standard output: a table or sentence of our own, or JSON, whose values stay what they are.
    static func line(_ text: String) { write(ShownText.lines(text) + "\n", to: STDOUT_FILENO) }

    /// Writes one line to standard error.
    static func note(_ text: String) {
        write(ShownText.line(Failure.oneLine(text)) + "\n", to: STDERR_FILENO)
    }

    /// Writes lines of our own to standard error.
    static func notes(_ text: String) { write(ShownText.lines(text) + "\n", to: STDERR_FILENO) }

    /// Rewrites the line on standard error, for progress; call it only if `hasErrorTerminal`.
    static func progress(_ text: String) { write("\r\u{1b}[K" + ShownText.line(text), to: STDERR_FILENO) }

    /// Whether a person looks at standard output.
    static var hasOutputTerminal: Bool { isatty(STDOUT_FILENO) == 1 }
    /// Whether a person looks at standard error.
    static var hasErrorTerminal: Bool { isatty(STDERR_FILENO) == 1 }

    private static func write(_ text: String, to descriptor: Int32) {
        var rest = Array(text.utf8)[...]
        while !rest.isEmpty {
            let count = unsafe rest.withUnsafeBytes {
                unsafe Glibc.write(descriptor, $0.baseAddress, $0.count)
            }
            if count < 0, errno == EINTR { continue }
            guard count > 0 else { return }
            rest = rest.dropFirst(count)
        }
    }
}
