import Glibc

/// Asks before something is destroyed.
enum Confirmation {
    /// Returns when `what` (a sentence such as "volume/db holds ext4") may be destroyed: whoever sits at a terminal types
    /// the name for that.
    ///
    /// - Parameter otherwise: what says so on the command line, such as `--force`.
    /// - Throws: `Failure` when it was not typed, or nobody is there to be asked.
    static func ask(_ what: String, name: String, otherwise: String) throws {
        guard isatty(STDIN_FILENO) == 1, Terminal.hasErrorTerminal else {
            throw Failure(.conflict, "\(what); nothing was done. To destroy that: \(otherwise)")
        }
        Terminal.note("\(what). Type \(name) to destroy that; anything else stops here.")
        guard readLine(strippingNewline: true) == name else {
            throw Failure(.conflict, "\(name) was not typed; nothing was done")
        }
    }
}
