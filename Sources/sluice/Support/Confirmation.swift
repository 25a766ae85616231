import Glibc

/// Asks before something is destroyed.
enum Confirmation {
    /// Returns when `what` (a sentence such as "volume/db holds ext4") may be destroyed: whoever sits at a terminal types
    /// the name for that.
    ///
    /// - Parameter otherwise: what says so on the command line, such as `--force`.
    /// - Throws: `Failure` when it was not typed, or nobody is there to be asked.
    static func ask(_ what: String, name: String, otherwise: String) throws {
        guard isAnswered else {
            throw Failure(.conflict, "\(what); nothing was done. To destroy that: \(otherwise)")
        }
        try type(name, "\(what). Type \(name) to destroy that; anything else stops here.")
    }

    /// Asks whoever sits at a terminal before users are cut off, who lose what they have not written back. A program,
    /// which may do so because somebody does not answer any more, is not asked.
    ///
    /// - Throws: `Failure` when the name was not typed.
    static func askPerson(_ what: String, name: String) throws {
        if isAnswered { try type(name, "\(what). Type \(name) to go on; anything else stops here.") }
    }

    private static var isAnswered: Bool { isatty(STDIN_FILENO) == 1 && Terminal.hasErrorTerminal }

    private static func type(_ name: String, _ question: String) throws {
        Terminal.note(question)
        guard readLine(strippingNewline: true) == name else {
            throw Failure(.conflict, "\(name) was not typed; nothing was done")
        }
    }
}
