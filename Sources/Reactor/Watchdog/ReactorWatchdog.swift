import CURing
import Core
import Glibc
import Synchronization

/// Notices reactors that do not turn, and ends the process when one has stood for too long.
///
/// Two threads: one looks, ten times a second, and waits for nothing but the time; the other tells what was found, and may
/// wait for whatever stands: a log that nobody reads, or a lock that the reactor has. When it comes to the end, an alarm of the
/// kernel ends the process if the last words take too long. Any thread.
public final class ReactorWatchdog: Sendable {
    /// What is waited for, and how long.
    public struct Options: Sendable {
        /// Between two looks, in milliseconds.
        public var intervalMilliseconds: Int64 = 100
        /// From when on a reactor stands, in nanoseconds.
        public var noticeNanoseconds: UInt64 = 500_000_000
        /// From when on the process is ended, in nanoseconds; nil for never.
        public var endNanoseconds: UInt64? = 5_000_000_000
        /// For the last words, before the kernel ends the process by SIGALRM, in seconds.
        public var lastWordsSeconds: UInt32 = 2

        /// The defaults.
        public init() {}
    }

    /// A reactor that stands.
    public struct Stall: Sendable {
        /// Its name.
        public let name: String
        /// Its way in, by which its owner knows it.
        public let remote: ReactorRemote
        /// For how long it has stood, as far as it could have turned, in nanoseconds.
        public let nanoseconds: UInt64
        /// Whether its thread waits in the kernel; otherwise it runs in a circle.
        public let isBlocked: Bool
        /// What it is at.
        public let activity: ReactorPulse.Activity
        /// Where its thread is: return addresses, the innermost first; empty when it did not answer.
        public let frames: [UInt]

        /// The same in words, a line each. Takes a while.
        public var stack: [String] {
            frames.isEmpty ? [] : SymbolTable.withOwn { $0.describe(frames) }
        }
    }

    /// What there is to tell.
    public enum Finding: Sendable {
        /// A reactor stands.
        case stands(Stall)
        /// It turns again, after so many nanoseconds.
        case goesOn(name: String, nanoseconds: UInt64)
    }

    /// What is counted of one reactor.
    public struct Report: Sendable {
        /// Its name.
        public let name: String
        /// How often it stood.
        public var stalls: UInt64 = 0
        /// Whether it stands now.
        public var isStanding = false
    }

    private struct Subject {
        let name: String
        let remote: ReactorRemote
        var judge: StallJudge
    }

    private struct State {
        var subjects: [Subject] = []
        var reports: [Report] = []
        var findings: [Finding] = []
        var isStopping = false
    }

    /// What is waited for.
    public let options: Options
    private let tell: @Sendable (Finding) -> Void
    private let lastWords: @Sendable (Stall) -> Void
    private let state = Mutex(State())
    private let hasFinding = ThreadSemaphore()
    private let stopping = ThreadSemaphore()

    /// Starts both threads.
    ///
    /// - Parameters:
    ///   - tell: called on a thread of its own, which may wait.
    ///   - lastWords: called before the process is ended, on the watchdog's thread; what it says it should say without
    ///     waiting for anybody.
    public init(
        options: Options = Options(), tell: @escaping @Sendable (Finding) -> Void,
        lastWords: @escaping @Sendable (Stall) -> Void
    ) throws(ReactorError) {
        self.options = options
        self.tell = tell
        self.lastWords = lastWords
        ThreadStack.prepare()
        try DetachedThread.start(name: "watchdog") { [self] in look() }
        try DetachedThread.start(name: "watchdog-tells") { [self] in report() }
    }

    /// Looks after a reactor from now on, until it has ended.
    public func watch(_ name: String, _ remote: ReactorRemote) {
        let judge = StallJudge(
            intervalNanoseconds: UInt64(options.intervalMilliseconds) * 1_000_000,
            noticeNanoseconds: options.noticeNanoseconds, endNanoseconds: options.endNanoseconds)
        state.withLock {
            $0.subjects.append(Subject(name: name, remote: remote, judge: judge))
            $0.reports.append(Report(name: name))
        }
    }

    /// Looks no more.
    public func stop() {
        state.withLock { $0.isStopping = true }
        stopping.signal()
        hasFinding.signal()
    }

    /// What is counted, in the order in which reactors were named.
    public var reports: [Report] { state.withLock { $0.reports } }

    // MARK: The threads

    private func look() {
        while !stopping.wait(milliseconds: options.intervalMilliseconds) {
            // Nobody holds the lock for longer than copying takes.
            let count = state.withLock { $0.subjects.count }
            for index in 0..<count { look(at: index) }
        }
    }

    private func look(at index: Int) {
        var subject = state.withLock { $0.subjects[index] }
        guard let look = ReactorWatchdog.look(at: subject.remote) else { return }
        let verdict = subject.judge.take(look, now: SystemClock.monotonic())
        let judge = subject.judge
        state.withLock { $0.subjects[index].judge = judge }
        switch verdict {
        case .turns, .lingers: break
        case .stands:
            let stall = stall(of: subject)
            found(.stands(stall), at: index, isStanding: true)
        case .goesOn(let nanoseconds):
            found(.goesOn(name: subject.name, nanoseconds: nanoseconds), at: index, isStanding: false)
        case .isLost: end(stall(of: subject))
        }
    }

    private static func look(at remote: ReactorRemote) -> StallJudge.Look? {
        let pulse = remote.pulse
        let thread = pulse.thread
        guard thread != 0, pulse.phase != .absent else { return nil }
        let turn = pulse.turns
        var time = timespec()
        guard unsafe sluice_thread_processor_time(thread, &time) == 0 else { return nil }
        return StallJudge.Look(
            turn: turn, isResting: pulse.phase == .asleep && remote.isEmpty,
            processorNanoseconds: UInt64(time.tv_sec) * 1_000_000_000 + UInt64(time.tv_nsec),
            isBlocked: isBlocked(thread))
    }

    /// Whether a thread waits in the kernel, be it for somebody or for a device.
    private static func isBlocked(_ thread: Int32) -> Bool {
        let fd = unsafe open("/proc/self/task/\(thread)/stat", O_RDONLY | O_CLOEXEC)
        guard fd >= 0 else { return false }
        defer { close(fd) }
        var bytes = [UInt8](repeating: 0, count: 256)
        let count = unsafe read(fd, &bytes, bytes.count)
        // The name may hold anything: the state follows its last parenthesis.
        guard count > 0, let end = bytes[..<count].lastIndex(of: UInt8(ascii: ")")), end + 2 < count else {
            return false
        }
        return bytes[end + 2] == UInt8(ascii: "S") || bytes[end + 2] == UInt8(ascii: "D")
    }

    private func stall(of subject: Subject) -> Stall {
        let pulse = subject.remote.pulse
        return Stall(
            name: subject.name, remote: subject.remote, nanoseconds: subject.judge.standing,
            isBlocked: 2 * subject.judge.blocked > subject.judge.standing, activity: pulse.activity,
            frames: ThreadStack.take(thread: pulse.thread, milliseconds: 200))
    }

    private func found(_ finding: Finding, at index: Int, isStanding: Bool) {
        state.withLock { state in
            state.reports[index].isStanding = isStanding
            state.reports[index].stalls += isStanding ? 1 : 0
            if state.findings.count < Limits.watchdogFindingsMax { state.findings.append(finding) }
        }
        hasFinding.signal()
    }

    private func end(_ stall: Stall) {
        unblock(SIGALRM)
        alarm(options.lastWordsSeconds)
        lastWords(stall)
        _exit(ReactorWatchdog.exitStatus)
    }

    /// What the process ends with when a reactor has stood for too long.
    public static let exitStatus: Int32 = 70

    private func report() {
        while true {
            hasFinding.wait()
            let (next, isStopping) = state.withLock { state in
                (state.findings.isEmpty ? nil : state.findings.removeFirst(), state.isStopping)
            }
            if let next { tell(next) }
            if isStopping { return }
        }
    }
}

extension Limits {
    /// What the watchdog found and nobody has told yet.
    static let watchdogFindingsMax = 64
}

/// Lets the calling thread have a signal, with what it does by default.
private func unblock(_ signal: Int32) {
    var set = sigset_t()
    unsafe sigemptyset(&set)
    unsafe sigaddset(&set, signal)
    unsafe pthread_sigmask(SIG_UNBLOCK, &set, nil)
    _ = Glibc.signal(signal, SIG_DFL)
}
