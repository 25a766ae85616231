import Capability
import Core
import DriverKit
import Logging
import Reactor
import Synchronization

/// The I/O server's services: pools, volumes, nodes, sessions, and who may do what.
///
/// Any thread may use it. What it shares is under one lock that is taken when something is opened, renewed or
/// administered; requests on handles run in the `ServiceShard` of their reactor without it.
public final class IOServices: Sendable {
    /// How the services are set up.
    public struct Configuration: Sendable {
        /// The cluster's id: the audience that capabilities must name.
        public var cluster: Identifier
        /// The server's name, told to clients for people to read.
        public var serverName: String
        /// Checks signatures of capabilities.
        public var signatures: any SignatureVerifier
        /// Makes a pool's driver; called on the pool's own thread.
        public var driverFactory: @Sendable (PoolDescriptor) throws(StatusError) -> any PoolDriver
        /// The time that capabilities are held against.
        public var wallClock: any WallClock
        /// The time that lives are measured by once they have begun. It counts while the machine is suspended.
        public var lifeClock: any MonotonicClock = LifeClock()
        /// Where session ids and secrets come from.
        public var random: any RandomSource
        /// Where who, what, when and why are written.
        public var logger: Logger
        /// What administrators can follow; whoever makes drivers adds what becomes of their hosts.
        public var events: EventLog
        /// The queue depth that a channel is granted at most, 1…`Limits.slotsPerChannelMax`.
        public var slotsMax: UInt16 = 128
        /// The longest payload that a channel is granted, `Limits.payloadBytesMin`…`Limits.payloadBytesMax`.
        public var payloadBytesMax = UInt32(Limits.payloadBytesMax)
        /// How long a channel may be silent, in seconds; 0 for as long as it likes.
        public var idleSeconds: UInt32 = 0
        /// How long a session that may write nothing outlives its last connection, in seconds.
        public var lingerSeconds: UInt32 = Limits.lingerSeconds
        /// The grant that a capability was issued from, and what all its capabilities may use together; nil where
        /// that is not known. Asked at OPEN and RENEW, on a reactor: it must not wait.
        public var grantCeiling:
            @Sendable (_ capability: Identifier) -> (grant: Identifier, limits: IOLimits)? = {
                _ in nil
            }
        /// Where sessions that may write are written down; nil where none has to outlive the server.
        public var sessionStore: (any SessionStore)?
        /// Where the files of markers are; nil where there are to be none.
        public var markers: MarkerFolder?
        /// Requests at which servers before this one stood.
        public var suspects = Suspects()
        /// Bytes of the arena of one reactor and pool.
        public var arenaBytes = Limits.arenaBytes
        /// Runs what blocks in drivers; nil gives each pool a thread of its own.
        var poolExecutor: PoolWorker.Executor?

        /// A configuration with the defaults for sizes.
        public init(
            cluster: Identifier, serverName: String, signatures: any SignatureVerifier,
            wallClock: any WallClock,
            random: any RandomSource, logger: Logger,
            driverFactory: @escaping @Sendable (PoolDescriptor) throws(StatusError) -> any PoolDriver
        ) {
            self.cluster = cluster
            self.serverName = serverName
            self.signatures = signatures
            self.wallClock = wallClock
            self.random = random
            self.logger = logger
            events = EventLog(wallClock: wallClock)
            self.driverFactory = driverFactory
        }
    }

    /// The configuration that it was made with.
    public let configuration: Configuration

    struct State {
        var directory = Directory()
        var budgets = RateBudgets()
        /// By volume, the oldest first.
        var markers: [Identifier: [Marker]] = [:]
        var verifier: CapabilityVerifier
        /// What is forgotten of revocations.
        var cautiousClock = CautiousClock()
        var shards: [ShardLink] = []
        var poolCount: UInt8 = 0
        /// Numbers of pools that did not start.
        var poolNumbersFree: [UInt8] = []
        /// Names of pools whose driver is being started.
        var poolsStarting: Set<String> = []
        /// Set while no new session is taken.
        var drain: Drain?
        /// Names of pools whose driver is being ended.
        var poolsEnding: Set<String> = []
        /// Its end, in nanoseconds of the clock for lives.
        var drainEnd: UInt64 = 0
        /// Set when the server ends: no driver is started any more.
        var isStopped = false
    }

    /// A shard as other threads may know it: by work posted to its reactor.
    struct ShardLink {
        let number: ObjectIdentifier
        let remote: ReactorRemote
        let shard: Confined<ServiceShard>
    }

    let state: Mutex<State>
    /// Whose turn it is to keep others away from bytes.
    let reservations = Mutex(RangeReservations<ShardLink>())
    /// Requests at which servers before this one stood, and that an event has told of; rarely any.
    let suspectsTold = Mutex<Set<RequestIdentity>>([])
    /// What a watchdog may know of each shard.
    let sights = Mutex<[(remote: ReactorRemote, sight: ShardSight)]>([])

    /// Services without pools, nodes, volumes or trusted keys.
    public init(configuration: Configuration) {
        self.configuration = configuration
        state = Mutex(
            State(
                verifier: CapabilityVerifier(
                    issuerKeys: [:], audience: configuration.cluster, signatures: configuration.signatures)))
    }

    /// Makes the part that serves the channels of one reactor. On that reactor's thread.
    ///
    /// - Throws: what the driver of a pool says when it cannot serve a further reactor.
    public func makeShard(reactor: Reactor) throws(StatusError) -> ServiceShard {
        let shard = ServiceShard(services: self, reactor: reactor)
        sights.withLock { $0.append((reactor.remote, shard.sight)) }
        let pools = state.withLock { state in
            state.shards.append(
                ShardLink(number: ObjectIdentifier(shard), remote: reactor.remote, shard: Confined(shard)))
            return Array(state.directory.pools.values)
        }
        for pool in pools { try shard.addPort(pool) }
        return shard
    }

    func remove(shard: ServiceShard) {
        state.withLock { $0.shards.removeAll { $0.number == ObjectIdentifier(shard) } }
        sights.withLock { $0.removeAll { $0.sight === shard.sight } }
    }

    // MARK: For shards

    var verifier: CapabilityVerifier { state.withLock { $0.verifier } }

    /// Has the driver open a resource, on the pool's thread; `completion` is called there.
    func openOnDriver(
        _ admission: Admission, completion: @escaping @Sendable (Result<ResourceForm, StatusError>) -> Void
    ) {
        let id = admission.resource
        let pool = admission.pool
        let isQueued = pool.worker.post(isOfClient: true) { [self] in
            do throws(StatusError) {
                completion(.success(try open(id, in: pool)))
            } catch { completion(.failure(error)) }
        }
        if !isQueued {
            completion(.failure(StatusError(.busy, "too much work waits for the pool's driver")))
        }
    }
}
