import Catalog
import Core
import Logging
import Logs
import Reactor
import Services
import Synchronization
import TLS

/// What the control plane needs of the data side.
public protocol ServicePort: Sendable {
    /// Performs an action; see `IOServices.perform`.
    @discardableResult
    func perform<Answer: Sendable>(_ action: ServiceAction<Answer>) async throws(StatusError) -> Answer
}

extension IOServices: ServicePort {}

/// The control API's logic: records in, records out, and one `ServiceAction` for whatever touches a device or a reactor.
///
/// Any thread. Nothing here blocks: the catalog and the drivers have threads of their own.
public final class ControlPlane: Sendable {
    /// What a control plane is made of.
    public struct Configuration: Sendable {
        /// The cluster's keys and certificates.
        public var authority: Authority
        /// The records; this is their only writer.
        public var store: RecordStore
        /// The data side.
        public var services: any ServicePort
        /// What administrators can follow; the same log that the services have.
        public var events: EventLog
        /// Who writes sessions down; nil where they end with the server.
        public var sessionKeeper: SessionKeeper?
        /// What looks after the server's reactors; nil where nobody does.
        public var watchdog: ReactorWatchdog?
        /// How often servers before this one were ended by it, as far as that is remembered.
        public var watchdogEnds: UInt64 = 0
        /// The folder under which pools have theirs.
        public var poolsFolder: String
        /// Whether what a pool of such a driver and settings holds is gone when the server has ended.
        public var isVolatile: @Sendable (_ driver: String, _ settings: [String: String]) -> Bool
        /// How many capabilities may be on record.
        public var capabilityRecords = CapabilityRecordLimits()
        /// The time of day.
        public var wallClock: any WallClock
        /// The time that nobody sets.
        public var lifeClock: any MonotonicClock = LifeClock()
        /// Where ids come from.
        public var random: any RandomSource
        /// Where it says who did what.
        public var logger: Logger
        /// What becomes of the lines that loggers write; nil where nobody looks.
        public var log: LogSink?
        /// Where events are written down; nil where they are in memory only.
        public var eventFile: EventFile?

        /// A configuration.
        public init(
            authority: Authority, store: RecordStore, services: any ServicePort, events: EventLog,
            isVolatile: @escaping @Sendable (_ driver: String, _ settings: [String: String]) -> Bool,
            poolsFolder: String, wallClock: any WallClock, random: any RandomSource, logger: Logger
        ) {
            self.isVolatile = isVolatile
            self.authority = authority
            self.store = store
            self.services = services
            self.events = events
            self.poolsFolder = poolsFolder
            self.wallClock = wallClock
            self.random = random
            self.logger = logger
        }
    }

    /// What is only known while the server runs.
    struct Live: Sendable {
        var isReady = false
        /// Set while the server is being drained.
        var drain: (drain: Drain, since: UInt64)?
        var startedAt: UInt64 = 0
        var control: [String] = []
        var channel: [String] = []
        /// Why a pool does not run, by name.
        var poolFaults: [String: Fault] = [:]
        /// Why a volume cannot be used, by id.
        var volumeFaults: [Identifier: String] = [:]
        /// By the clock for lives, in nanoseconds.
        var lastSweep: UInt64 = 0
        /// Nodes whose capabilities were looked through in vain, and until when that counts; by the same clock.
        var capabilityLooks: [String: UInt64] = [:]
        /// How full pools are, as was last looked, by name.
        var spaces: [String: WatchedSpace] = [:]
        /// Since when pools are being looked at, by name.
        var looks: [String: PoolLook] = [:]
        /// Work that takes long.
        var operations = Operations()
        /// What has ended is removed by it.
        var cautiousClock = CautiousClock()
        /// Answers to `GET /v1/volumes/{name}` for volumes that are ready and at rest.
        var readyAnswers: [String: ReadyAnswer] = [:]
    }

    /// Of this start of the server.
    let run: Identifier
    let store: RecordStore
    let services: any ServicePort
    let events: EventLog
    let sessionKeeper: SessionKeeper?
    let watchdog: ReactorWatchdog?
    let watchdogEnds: UInt64
    let poolsFolder: String
    let volatility: @Sendable (String, [String: String]) -> Bool
    let capabilityRecords: CapabilityRecordLimits
    let wallClock: any WallClock
    let lifeClock: any MonotonicClock
    let random: any RandomSource
    let logger: Logger
    let log: LogSink?
    let eventFile: EventFile?
    let locks = KeyedLock()
    let counters = ControlCounters()
    let live = Mutex(Live())
    let keeper: Mutex<Authority>
    let reports = Mutex(CertificateReports())
    let certificateUser = Mutex<(@Sendable (Authority) -> Void)?>(nil)

    /// The cluster's keys and the certificates that are in use now.
    var authority: Authority { keeper.withLock { $0 } }

    /// A control plane that answers nothing but `/livez` and `/readyz` until `start` has returned.
    public init(_ configuration: Configuration) {
        run = .random(using: configuration.random)
        keeper = Mutex(configuration.authority)
        store = configuration.store
        services = configuration.services
        events = configuration.events
        sessionKeeper = configuration.sessionKeeper
        watchdog = configuration.watchdog
        watchdogEnds = configuration.watchdogEnds
        poolsFolder = configuration.poolsFolder
        volatility = configuration.isVolatile
        capabilityRecords = configuration.capabilityRecords
        wallClock = configuration.wallClock
        lifeClock = configuration.lifeClock
        random = configuration.random
        logger = configuration.logger
        log = configuration.log
        eventFile = configuration.eventFile
    }

    /// Whether `start` has returned and `drain` was not called.
    public var isReady: Bool { live.withLock { $0.isReady } }

    /// Tells clients where the server listens (`GET /v1/server`).
    public func announce(control: [String], channel: [String]) {
        live.withLock { live in
            live.control = control
            live.channel = channel
        }
    }

    /// Whether new sessions are taken.
    var isDraining: Bool { live.withLock { $0.drain != nil } }

    /// Refuses requests from now on, and ends the answers that go on for as long as they are read: the server is
    /// stopping.
    public func drain() {
        live.withLock { $0.isReady = false }
        events.finish()
    }
}
