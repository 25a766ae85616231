import Core
import DriverKit
import Glibc
import Reactor

/// A driver in a process of its own, seen as any other driver. What drivers of one kind are asked is in an
/// extension for each kind; a host's driver refuses the words of another one.
///
/// Control calls go over the control socket, requests through shared memory. When the host is lost, both wait
/// for the next one: users see a pause.
public final class IsolatedDriver: SupervisedDriver {
    /// How a pool's host is run.
    public struct Options: Sendable {
        /// The program, `sluice-driver`: an absolute path.
        public var executable: String
        /// The driver's name.
        public var driver: String
        /// What its resources are.
        public var kind: ResourceKind
        /// The pool's settings.
        public var settings: [String: String]
        /// The pool's folder; it is given to the host's user.
        public var folder: String
        /// The user that the host becomes; nil: the server's own, where the server is not root.
        public var user: UInt32?
        /// The most reactors that it serves.
        public var queues = 1
        /// How long requests may take before the host counts as hung.
        public var deadlines = RequestDeadlines()
        /// When hosts are started again, and when not any more.
        public var policy = HostPolicy()
        /// The time that reports show.
        public var wallClock: any WallClock
        /// Hears of every change; called on the keeper's thread, must not block.
        public var onEvent: @Sendable (DriverHostEvent) -> Void = { _ in }

        /// Options with the defaults.
        public init(
            executable: String, driver: String, kind: ResourceKind = .volume, settings: [String: String],
            folder: String, wallClock: any WallClock
        ) {
            self.executable = executable
            self.driver = driver
            self.kind = kind
            self.settings = settings
            self.folder = folder
            self.wallClock = wallClock
            user = geteuid() == 0 ? PoolUser.id(folder: folder) : nil
        }
    }

    let keeper: HostKeeper

    /// What the pool's resources are.
    public var kind: ResourceKind { keeper.options.kind }

    /// Starts a host and returns when it serves. Blocks.
    ///
    /// - Throws: what the driver says about its settings and its device, or why no host can run here.
    public init(_ options: Options) throws(StatusError) {
        if unsafe mkdir(options.folder, 0o700) != 0 && errno != EEXIST {
            let words = ReactorError.text(errno: errno)
            throw StatusError(.driverFailed, "the pool's folder \(options.folder): \(words)")
        }
        let settings = try PoolSettings(options.settings)
        var options = options
        options.settings = settings.ofDriver
        options.policy.failsInQuarantine = settings.failsInQuarantine
        keeper = try HostKeeper(options: options)
        do throws(StatusError) { try keeper.firstStart.take().get() } catch {
            keeper.shutDown()
            throw error
        }
    }

    deinit { keeper.shutDown() }

    /// What the driver in the host says, and what the sandbox could not do.
    public var notes: [String] {
        keeper.shared.withLock { $0.notes + $0.report.sandboxGaps }
    }

    /// How the host is.
    public var report: DriverHostReport { keeper.shared.withLock { $0.report } }

    /// Whether requests fail in quarantine.
    public var failsInQuarantine: Bool { keeper.shared.withLock { $0.failsInQuarantine } }

    /// Has `observer` called at every change, on the keeper's thread.
    public func observe(_ observer: @escaping @Sendable (DriverHostEvent) -> Void) {
        keeper.shared.withLock { $0.observer = observer }
    }

    /// How full the pool is.
    public func capacity() throws(StatusError) -> PoolCapacity {
        guard case .capacity(let total, let used, let free) = try keeper.call(.capacity) else {
            throw StatusError(.driverFailed, "the driver host does not say how full the pool is")
        }
        return PoolCapacity(total: total, used: used, free: free)
    }

    /// The request side for one reactor.
    public func makeQueue(
        reactor: Reactor, arena: Arena, submissions: SubmissionRing, completions: CompletionRing,
        onCompletions: @escaping () -> Void
    ) throws(StatusError) -> any DriverQueue {
        let queue = try keeper.add { number in
            IsolatedQueue(
                number: number, reactor: reactor, arena: arena, submissions: submissions,
                completions: completions, onCompletions: onCompletions, keeper: keeper)
        }
        queue.start()
        return queue
    }

    /// Ends the host and starts another.
    public func restart() throws(StatusError) {
        let answer = HostKeeper.Answer<Void>()
        keeper.post(.restart(answer))
        try Self.outcome(answer)
    }

    /// Hands over to a host of the program that is installed now.
    public func upgrade() throws(StatusError) -> UInt64 {
        let answer = HostKeeper.Answer<UInt64>()
        keeper.post(.upgrade(answer))
        return try Self.outcome(answer)
    }

    /// What came of it. When that takes too long the caller hears so, and the keeper goes on with it all the same.
    private static func outcome<Value>(_ answer: HostKeeper.Answer<Value>) throws(StatusError) -> Value {
        guard let result = answer.take(milliseconds: Limits.controlCallMillisecondsMax) else {
            throw StatusError(.driverRecovering, "the pool's driver is still being replaced")
        }
        return try result.get()
    }

    /// Takes over changed settings, now and at every start to come.
    public func configure(settings: [String: String]) throws(StatusError) {
        let settings = try PoolSettings(settings)
        // What is not the driver's works without one.
        if settings.ofDriver != keeper.shared.withLock({ $0.settings }) {
            _ = try keeper.call(.configure(settings.ofDriver))
        }
        keeper.shared.withLock { $0.failsInQuarantine = settings.failsInQuarantine }
        keeper.post(.quarantineFails(settings.failsInQuarantine))
    }

    /// Ends the host for good.
    public func shutDown() { keeper.shutDown() }
}
