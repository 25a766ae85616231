import CURing
import Glibc

/// A child process, held by a pidfd: its number cannot be reused under our hands.
public final class ChildProcess {
    /// How a process ended.
    public enum Exit: Hashable, Sendable {
        /// It returned this status.
        case exited(Int32)
        /// This signal ended it.
        case signalled(Int32)
    }

    /// The process id, for messages.
    public let processID: Int32
    private let descriptor: FileDescriptor
    private var exit: Exit?

    /// Starts a program with default signal handling.
    ///
    /// - Parameters:
    ///   - executable: its path; no search.
    ///   - arguments: without the program's own name.
    ///   - environment: `NAME=value` strings.
    ///   - descriptors: (ours, the child's) pairs; everything else that is close-on-exec is closed.
    public init(
        executable: String, arguments: [String], environment: [String],
        descriptors: [(ours: Int32, childs: Int32)] = []
    ) throws(ReactorError) {
        processID = try ChildProcess.spawn(executable, [executable] + arguments, environment, descriptors)
        let opened = sluice_pidfd_open(processID)
        if opened < 0 {
            let cause = errno
            _ = kill(processID, SIGKILL)
            var status: Int32 = 0
            _ = unsafe waitpid(processID, &status, 0)
            throw .system(call: "pidfd_open", errno: cause)
        }
        descriptor = FileDescriptor(owning: opened)
    }

    /// Kills the process where it still runs, so that none is left behind.
    deinit {
        if exit == nil {
            signal(SIGKILL)
            _ = wait()
        }
    }

    /// Sends a signal; nothing happens when the process has ended.
    public func signal(_ number: Int32) {
        _ = sluice_pidfd_send_signal(descriptor.raw, number)
    }

    /// Waits for the end. Not for a reactor's thread.
    @discardableResult
    public func wait() -> Exit {
        while true {
            if let exit = reap(block: true) { return exit }
        }
    }

    /// How it ended, if it has; never blocks.
    public var exitIfEnded: Exit? { reap(block: false) }

    /// A pidfd of it, readable when it has ended (`pidfd_open(2)`).
    public func duplicateDescriptor() throws(ReactorError) -> FileDescriptor {
        try descriptor.duplicate()
    }

    /// Calls the handler on the reactor's thread when the process has ended. The process object lives until
    /// then.
    public func onExit(reactor: Reactor, _ handler: @escaping (Exit) -> Void) {
        let watcher = ExitWatcher(process: self, reactor: reactor, handler: handler)
        let target = reactor.register(watcher)
        watcher.target = target
        reactor.poll(fd: descriptor.raw, events: UInt32(POLLIN), target: target, token: 0)
    }

    fileprivate func reap(block: Bool) -> Exit? {
        if let exit { return exit }
        var hasExited: Int32 = 0
        var code: Int32 = 0
        if unsafe sluice_pidfd_wait(descriptor.raw, block ? 1 : 0, &hasExited, &code) == 0 {
            exit = hasExited != 0 ? .exited(code) : .signalled(code)
        } else if errno == ECHILD {
            exit = .signalled(SIGKILL)
        }
        return exit
    }

    private static func spawn(
        _ executable: String, _ arguments: [String], _ environment: [String],
        _ descriptors: [(ours: Int32, childs: Int32)]
    ) throws(ReactorError) -> Int32 {
        var actions = unsafe posix_spawn_file_actions_t()
        var attributes = posix_spawnattr_t()
        unsafe posix_spawn_file_actions_init(&actions)
        unsafe posix_spawnattr_init(&attributes)
        defer {
            unsafe posix_spawn_file_actions_destroy(&actions)
            unsafe posix_spawnattr_destroy(&attributes)
        }
        for (ours, childs) in descriptors { unsafe posix_spawn_file_actions_adddup2(&actions, ours, childs) }
        var none = sigset_t()
        var all = sigset_t()
        unsafe sigemptyset(&none)
        unsafe sigfillset(&all)
        unsafe posix_spawnattr_setsigmask(&attributes, &none)
        unsafe posix_spawnattr_setsigdefault(&attributes, &all)
        unsafe posix_spawnattr_setflags(&attributes, Int16(POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF))
        var argv: [UnsafeMutablePointer<CChar>?] = unsafe arguments.map { unsafe strdup($0) } + [nil]
        var envp: [UnsafeMutablePointer<CChar>?] = unsafe environment.map { unsafe strdup($0) } + [nil]
        defer { unsafe (argv + envp).forEach { unsafe free($0) } }
        var processID: pid_t = 0
        let result = unsafe posix_spawn(&processID, executable, &actions, &attributes, &argv, &envp)
        if result != 0 { throw .system(call: "posix_spawn \(executable)", errno: result) }
        return processID
    }
}

/// Keeps the process alive while the reactor polls its descriptor.
private final class ExitWatcher: CompletionTarget {
    private let process: ChildProcess
    private let reactor: Reactor
    private let handler: (ChildProcess.Exit) -> Void
    var target: TargetID?

    init(process: ChildProcess, reactor: Reactor, handler: @escaping (ChildProcess.Exit) -> Void) {
        self.process = process
        self.reactor = reactor
        self.handler = handler
    }

    func completed(token: UInt32, result: Int32, flags: CompletionFlags) {
        guard let target else { return }
        if result >= 0, let exit = process.reap(block: false) {
            reactor.unregister(target)
            handler(exit)
        } else if result >= 0 {
            reactor.poll(fd: process.pollDescriptor, events: UInt32(POLLIN), target: target, token: 0)
        } else {
            reactor.unregister(target)
        }
    }
}

extension ChildProcess {
    fileprivate var pollDescriptor: Int32 { descriptor.raw }
}
