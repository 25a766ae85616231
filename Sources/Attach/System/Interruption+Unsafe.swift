import Core
import Glibc
import Reactor
import Synchronization

/// Hears the signals that end a command while it has something to take back, whatever it waits for just then.
///
/// The first ends the program that the command waits for, if any, and the command takes back what it began. Where it does
/// not come to that within seconds, a thread does it in its place and ends the process. The next signal ends the process
/// at once, which says what stays.
public final class Interruption: Sendable {
    private struct State {
        /// The first one that came.
        var signal: Int32?
        /// The program that is waited for.
        var program: Int32?
        /// What the program that is waited for leaves when it is broken off: one line.
        var leaves: String?
        /// The command, or the thread in its place, is past what could be broken off.
        var isOver = false
        /// There is nothing to take back.
        var isDone = false
    }

    private let state = Mutex(State())
    private let stays: String
    private let takeBack: @Sendable () -> String

    /// Hears signals from now on, until the process ends.
    ///
    /// - Parameters:
    ///   - stays: what a second signal leaves, and the command that takes it away: one line.
    ///   - takeBack: does so in place of a command that hangs, and says what became of it: one line. On a thread of its own.
    public init(stays: String, takeBack: @escaping @Sendable () -> String) {
        self.stays = stays
        self.takeBack = takeBack
        var heard = sigset_t()
        unsafe sigemptyset(&heard)
        for number in [SIGINT, SIGTERM, SIGHUP] {
            var action = sigaction()
            // Whoever started it, such as nohup(1), wants it to go on.
            guard unsafe sigaction(number, nil, &action) == 0,
                unsafe unsafeBitCast(action.__sigaction_handler.sa_handler, to: Int.self) != 1
            else { continue }
            unsafe sigaddset(&heard, number)
        }
        unsafe pthread_sigmask(SIG_BLOCK, &heard, nil)
        let set = heard
        inBackground("interruption") { [self] in
            listen(set)
        } otherwise: { _ in
            // As without it: a signal ends the process, and leaves what it began.
            unsafe pthread_sigmask(SIG_UNBLOCK, &heard, nil)
        }
    }

    /// Whether a signal has come.
    public var hasCome: Bool { state.withLock { $0.signal != nil } }

    /// In words.
    public var word: String {
        state.withLock { $0.signal } == SIGINT ? "interrupted" : "stopped by a signal"
    }

    /// - Throws: an `AttachError` when a signal has come.
    public func check() throws(AttachError) {
        if hasCome { throw AttachError(.interrupted, word) }
    }

    /// From now on the command itself deals with what it began, or, with `isDone`, leaves it as it is. Does not return
    /// where that was too late.
    public func end(isDone: Bool) {
        let wasOver = state.withLock { state in
            defer { (state.isOver, state.isDone) = (true, isDone) }
            return state.isOver
        }
        while wasOver { pause() }
    }

    /// Runs a program to its end, or until a signal ends it, and collects what it writes. Blocks.
    ///
    /// - Parameter leaves: what it leaves where it is broken off, for whoever hears that: one line.
    func run(_ arguments: [String], leaves: String? = nil) throws(AttachError) -> Subprocess.Result {
        try check()
        state.withLock { $0.leaves = leaves }
        defer { state.withLock { $0.program = nil } }
        let result = try Subprocess.run(arguments, inNewSession: true) { [self] program in
            let signal = state.withLock { state in
                state.program = program
                return state.signal
            }
            if signal != nil { kill(program, SIGTERM) }
        }
        if hasCome, let leaves { throw AttachError(.interrupted, "\(word); \(leaves)") }
        try check()
        state.withLock { $0.leaves = nil }
        return result
    }

    // MARK: The thread

    private func listen(_ heard: sigset_t) {
        var set = heard
        while true {
            var number: Int32 = 0
            guard unsafe sigwait(&set, &number) == 0 else { return }
            let (goesOn, isDone) = state.withLock { state in
                defer { state.signal = state.signal ?? number }
                return (state.signal == nil && !state.isOver, state.isDone)
            }
            guard goesOn else { leave(isDone ? nil : stays, number) }
            if !endsByItself(heard) {
                let first = number
                let left = state.withLock { $0.leaves }.map { "; \($0)" } ?? ""
                // It may take long: the next signal is heard meanwhile.
                inBackground("take back") { [self] in
                    leave(takeBack() + left, first)
                } otherwise: { [self] _ in
                    leave(stays, first)
                }
            }
        }
    }

    /// Ends the program that is waited for, and waits a while for the command; whether that deals with it. The next signal
    /// is not kept waiting.
    private func endsByItself(_ heard: sigset_t) -> Bool {
        var heard = heard
        let begin = SystemClock.monotonic()
        while true {
            let elapsed = SystemClock.monotonic() - begin
            let isSettled = state.withLock { state -> Bool? in
                if state.isOver { return true }
                if let program = state.program {
                    kill(program, elapsed > AttachLimits.endProgramNanoseconds ? SIGKILL : SIGTERM)
                }
                let patience = AttachLimits.endProgramNanoseconds * (state.program == nil ? 1 : 2)
                guard elapsed > patience else { return nil }
                state.isOver = true
                return false
            }
            if let isSettled { return isSettled }
            var patience = timespec(tv_sec: 0, tv_nsec: 50_000_000)
            let next = unsafe sigtimedwait(&heard, nil, &patience)
            if next > 0 { leave(state.withLock { $0.isDone } ? nil : stays, next) }
        }
    }

    private func leave(_ words: String?, _ number: Int32) -> Never {
        if let words {
            let text = "sluice: \(words)\n"
            _ = unsafe write(STDERR_FILENO, text, text.utf8.count)
        }
        _exit(number == SIGINT || words != nil ? 130 : 128 + number)
    }
}
