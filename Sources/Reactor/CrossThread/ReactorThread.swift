import CURing
import Glibc

/// A reactor on a thread of its own.
public final class ReactorThread: @unchecked Sendable {
    // SAFETY: `thread` is written once before the value is shared; `join()` may be called once, by its
    // contract.

    /// The way in from other threads.
    public let remote: ReactorRemote
    /// Runs actors on the reactor's thread.
    public let executor: ReactorExecutor
    private var thread = pthread_t()

    fileprivate init(remote: ReactorRemote, executor: ReactorExecutor) {
        self.remote = remote
        self.executor = executor
    }

    /// Waits for the thread to end. Call it once, from another thread, after `remote.stop()`.
    public func join() {
        pthread_join(thread, nil)
    }

    fileprivate func launch(_ start: ThreadStart) throws(ReactorError) {
        thread = try SystemThread.start { start.run() }
    }
}

/// What the new thread needs; handed over once.
private final class ThreadStart {
    private var reactor: Reactor?
    private let body: @Sendable (Reactor) -> Void

    init(reactor: Reactor, body: @Sendable @escaping (Reactor) -> Void) {
        self.reactor = reactor
        self.body = body
    }

    func run() {
        guard let reactor else { preconditionFailure("a thread started twice") }
        self.reactor = nil
        unsafe sluice_name_thread(reactor.options.name)
        if let cpu = reactor.options.cpu { _ = sluice_set_affinity(Int32(truncatingIfNeeded: cpu)) }
        reactor.remote.adoptThread()
        body(reactor)
        reactor.run()
    }
}

extension Reactor {
    /// Starts a reactor on a thread of its own; `body` runs first on that thread, then the reactor until
    /// stopped.
    ///
    /// A CPU that cannot be pinned to (offline, or not in the process's set) is ignored.
    public static func start(
        _ options: Options = Options(), onThread body: @Sendable @escaping (Reactor) -> Void
    ) throws(ReactorError) -> ReactorThread {
        try Reactor(options).launch(onThread: body)
    }

    /// Starts this reactor, which no thread has run, on a thread of its own; `body` runs first on it. The
    /// caller must not touch the reactor any more.
    ///
    /// For a ring that must exist before its thread may: before the process goes into a sandbox, say.
    public func launch(onThread body: @Sendable @escaping (Reactor) -> Void) throws(ReactorError)
        -> ReactorThread
    {
        precondition(unsafe !state.pointee.isStarted, "a reactor runs once")
        let thread = ReactorThread(remote: remote, executor: executor)
        try thread.launch(ThreadStart(reactor: self, body: body))
        return thread
    }
}
