import Core

/// Where a pool's driver runs.
public enum DriverIsolation: String, Sendable, CaseIterable {
    /// In a sandboxed process of its own.
    case isolated
    /// In the server, for measuring what isolation costs.
    case inline
}

/// How a driver host is, and what became of it so far.
public struct DriverHostReport: Sendable, Hashable {
    /// What the pool's host is doing.
    public enum State: String, Sendable, CaseIterable {
        /// The first host is being started.
        case starting
        /// It serves.
        case running
        /// The last host was lost; the next one is being started, requests wait.
        case recovering
        /// A new host takes over from one that is well.
        case upgrading
        /// Too many hosts were lost; requests fail until an administrator restarts the pool.
        case quarantined
        /// The pool was stopped.
        case stopped
    }

    /// How a host ended.
    public struct End: Sendable, Hashable {
        /// Why a host is no more.
        public enum Cause: String, Sendable, CaseIterable {
            /// It exited or a signal ended it.
            case crash
            /// It stopped answering or a request was overdue.
            case hang
            /// It broke the rules of the shared memory or of the control socket.
            case violation
            /// An administrator asked.
            case restart
            /// A newer host took over.
            case upgrade
        }

        /// Why.
        public var cause: Cause
        /// In words, such as `killed by signal 11`.
        public var message: String
        /// Unix seconds.
        public var at: UInt64

        /// An end.
        public init(cause: Cause, message: String, at: UInt64) {
            self.cause = cause
            self.message = message
            self.at = at
        }
    }

    /// What it is doing.
    public var state: State
    /// Unix seconds since when; nil where nobody has noted that.
    public var stateSince: UInt64?
    /// Why, in words; nil where there is nothing to say.
    public var reason: String?
    /// The host's process; nil when there is none.
    public var processID: Int32?
    /// The user that it runs as; nil when the sandbox could not give it one of its own.
    public var user: UInt32?
    /// Unix seconds when the host that serves began to; nil when none does.
    public var since: UInt64?
    /// Hosts started since the pool was.
    public var starts: UInt64 = 0
    /// Hosts lost, by cause.
    public var ends: [End.Cause: UInt64] = [:]
    /// The last host's end.
    public var lastEnd: End?
    /// How long users waited at the last recovery or upgrade, in nanoseconds.
    public var lastPauseNanoseconds: UInt64?
    /// Requests that were given to a host a second time.
    public var replayed: UInt64 = 0
    /// What the sandbox could not do here, in plain sentences.
    public var sandboxGaps: [String] = []

    /// A report.
    public init(state: State) { self.state = state }
}

/// A change that an administrator wants to hear of.
public struct DriverHostEvent: Sendable, Hashable {
    /// What it came to.
    public var state: DriverHostReport.State
    /// Why, in words.
    public var message: String

    /// An event.
    public init(state: DriverHostReport.State, message: String) {
        self.state = state
        self.message = message
    }
}

/// A driver in a process of its own. The blocking calls are made on the pool's thread, as those of `PoolDriver`.
public protocol SupervisedDriver: PoolDriver {
    /// How its host is. Any thread; never blocks long.
    var report: DriverHostReport { get }

    /// Whether requests fail while too many hosts were lost; otherwise they wait for a restart. Any thread.
    var failsInQuarantine: Bool { get }

    /// Calls `observer` at every change from now on, on a thread of the driver's; it must not block. One at a time.
    func observe(_ observer: @escaping @Sendable (DriverHostEvent) -> Void)

    /// Ends the host and starts another, also out of quarantine; returns when it serves.
    func restart() throws(StatusError)

    /// Starts a host from the program that is installed now and hands over to it; returns the pause in
    /// nanoseconds.
    func upgrade() throws(StatusError) -> UInt64

    /// Ends the host for good.
    func shutDown()
}

extension SupervisedDriver {
    /// No: they wait.
    public var failsInQuarantine: Bool { false }
}
