import Glibc

/// What goes to standard output and standard error.
enum Terminal {
    /// Writes a line to standard output.
    static func line(_ text: String) { write(text + "\n", to: STDOUT_FILENO) }

    /// Writes a line to standard error.
    static func note(_ text: String) { write(text + "\n", to: STDERR_FILENO) }

    /// Rewrites the line on standard error, for progress; call it only if `hasErrorTerminal`.
    static func progress(_ text: String) { write("\r\u{1b}[K" + text, to: STDERR_FILENO) }

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
