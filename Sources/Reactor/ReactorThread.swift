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
        let box = unsafe Unmanaged.passRetained(start)
        let result = unsafe pthread_create(
            &thread, nil,
            { argument in
                guard let argument = unsafe argument else { return nil }
                unsafe Unmanaged<ThreadStart>.fromOpaque(argument).takeRetainedValue().run()
                return nil
            }, unsafe box.toOpaque())
        if result != 0 {
            unsafe box.release()
            throw .system(call: "pthread_create", errno: result)
        }
    }
}

/// What the new thread needs; handed over once.
private final class ThreadStart {
    private let options: Reactor.Options
    private var reactor: Reactor?
    private let body: @Sendable (Reactor) -> Void

    init(options: Reactor.Options, reactor: Reactor, body: @Sendable @escaping (Reactor) -> Void) {
        self.options = options
        self.reactor = reactor
        self.body = body
    }

    func run() {
        guard let reactor else { preconditionFailure("a thread started twice") }
        self.reactor = nil
        unsafe sluice_name_thread(options.name)
        if let cpu = options.cpu { _ = sluice_set_affinity(Int32(truncatingIfNeeded: cpu)) }
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
        let reactor = try Reactor(options)
        let thread = ReactorThread(remote: reactor.remote, executor: reactor.executor)
        try thread.launch(ThreadStart(options: options, reactor: reactor, body: body))
        return thread
    }
}
