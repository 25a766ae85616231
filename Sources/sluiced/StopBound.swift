import Core
import Foundation
import Glibc
import Logging
import Reactor

extension Limits {
    /// The most seconds from SIGTERM to the end of the process, when nothing else is set: five for the control API, ten
    /// for requests under way, thirty for driver hosts whose device hangs, and what these take beside.
    static let stopSecondsDefault = 50
    /// What may be set, in seconds.
    static let stopSecondsRange = 3...3600
    /// How long before its end the process writes down what it has said, events and log each for half of it at most.
    fileprivate static let stopWordsMilliseconds: UInt64 = 200
}

/// Ends the process when ending in order takes too long, and says what it waited for: whatever hangs, a stop has an end.
///
/// Its timers are on the thread of the signals, which waits for nobody. Nothing is lost by it: what was acknowledged is
/// with the device or the kernel, sessions are in the catalog, and driver hosts end with the server.
final class StopBound: CompletionTarget {
    private enum Token {
        static let ask: UInt32 = 0
        static let tell: UInt32 = 1
        static let end: UInt32 = 2
    }

    private let seconds: Int
    private let witness: Daemon.Ending
    private let words: LastWords
    private let logger: Logger

    private init(seconds: Int, witness: Daemon.Ending, words: LastWords, logger: Logger) {
        self.seconds = seconds
        self.witness = witness
        self.words = words
        self.logger = logger
    }

    /// Starts the clock. On the reactor's thread.
    static func start(
        on reactor: Reactor, seconds: Int, witness: Daemon.Ending, words: LastWords, logger: Logger
    ) {
        let bound = StopBound(seconds: seconds, witness: witness, words: words, logger: logger)
        let target = reactor.register(bound)
        let second: UInt64 = 1_000_000_000
        let end = UInt64(seconds) * second
        _ = reactor.setTimer(after: end - 2 * second, target: target, token: Token.ask)
        _ = reactor.setTimer(after: end - second, target: target, token: Token.tell)
        _ = reactor.setTimer(
            after: end - Limits.stopWordsMilliseconds * 1_000_000, target: target, token: Token.end)
    }

    func completed(token: UInt32, result: Int32, flags: CompletionFlags) {
        switch token {
        case Token.ask: ask()
        case Token.tell: tell()
        case Token.end:
            words.write(milliseconds: Int64(Limits.stopWordsMilliseconds / 2))
            _exit(1)
        default: break
        }
    }

    /// Asks what is unfinished, on a thread of its own: a thread that hangs may have a lock that the answer needs.
    private func ask() {
        let witness = witness
        Thread.detachNewThread { witness.ask() }
    }

    /// Tells the log, on a thread of its own: where the log goes may hang, too.
    private func tell() {
        let (witness, logger, seconds) = (witness, logger, seconds)
        Thread.detachNewThread {
            logger.critical(
                "the server does not end in order and is ended by force; clients resume with the next one",
                metadata: ["seconds": "\(seconds)", "hangs": "\(witness)"])
        }
    }
}
