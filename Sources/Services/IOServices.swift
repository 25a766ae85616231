import Capability
import Core
import DriverKit
import Logging
import Reactor
import Synchronization
import Wire

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
        public var driverFactory: @Sendable (PoolDescriptor) throws(DriverError) -> any Driver
        /// The time that capabilities are held against.
        public var wallClock: any WallClock
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
        /// Bytes of the arena of one reactor and pool.
        public var arenaBytes = Limits.arenaBytes

        /// A configuration with the defaults for sizes.
        public init(
            cluster: Identifier, serverName: String, signatures: any SignatureVerifier,
            wallClock: any WallClock,
            random: any RandomSource, logger: Logger,
            driverFactory: @escaping @Sendable (PoolDescriptor) throws(DriverError) -> any Driver
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
        var verifier: CapabilityVerifier
        var shards: [ShardLink] = []
        var poolCount: UInt8 = 0
        /// Numbers of pools that did not start.
        var poolNumbersFree: [UInt8] = []
        /// Names of pools whose driver is being started.
        var poolsStarting: Set<String> = []
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
    public func makeShard(reactor: Reactor) throws(ServiceError) -> ServiceShard {
        let shard = ServiceShard(services: self, reactor: reactor)
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
    }

    // MARK: For shards

    var verifier: CapabilityVerifier { state.withLock { $0.verifier } }

    /// A channel's place in a session.
    struct Membership {
        let session: Identifier
        let channel: UInt16
        /// For a new session its secret; nil for a channel that joined.
        let secret: [UInt8]?
    }

    /// Puts a channel into the session that its HELLO names, or into a new one.
    func join(_ hello: Hello, thumbprint: Digest32, peerAddress: String) -> Result<Membership, Refusal> {
        if hello.isJoining {
            return state.withLock { state in
                state.directory.sessions.join(hello.session, secret: hello.secret, thumbprint: thumbprint)
                    .map { Membership(session: hello.session, channel: $0, secret: nil) }
            }
        }
        let id = Identifier.random(using: configuration.random)
        let secret = configuration.random.bytes(Hello.secretByteCount)
        let session = SessionRegistry.Session(
            id: id, secret: SecretBytes(secret), thumbprint: thumbprint, clientName: hello.clientName,
            peerAddress: peerAddress, since: configuration.wallClock.now())
        let status = state.withLock { $0.directory.sessions.create(session) }
        guard status == .ok else {
            return .failure(Refusal(status, "the server has its most sessions"))
        }
        configuration.events.append(
            .sessionStarted, subject: "session/\(id)",
            message:
                "client \(hello.clientName.isEmpty ? "without a name" : hello.clientName) from \(peerAddress)"
        )
        return .success(Membership(session: id, channel: 0, secret: secret))
    }

    /// Takes a channel out of its session; true when that ended the session.
    func leave(_ session: Identifier, channel: UInt16) -> Bool {
        let (isLast, node) = state.withLock { state in
            let node = state.directory.sessions.sessions[session]?.node
            let name = node.flatMap { state.directory.nodes[$0]?.name }
            return (state.directory.sessions.leave(session, channel: channel), name)
        }
        if isLast {
            configuration.events.append(
                .sessionEnded, subject: "session/\(session)",
                message: node.map { "of node \($0)" } ?? "of a client that opened nothing")
        }
        return isLast
    }

    func admit(
        _ capability: EffectiveCapability, wanted: Rights, session: Identifier
    ) -> Result<Admission, Refusal> {
        let now = configuration.wallClock.now()
        return state.withLock {
            $0.directory.admit(capability, wanted: wanted, session: session, now: now)
        }
    }

    func standing(_ capability: EffectiveCapability) -> Refusal? {
        state.withLock { $0.directory.standing(capability) }
    }

    func claimWriter(of volume: Identifier, session: Identifier) -> Refusal? {
        let now = configuration.wallClock.now()
        return state.withLock { $0.directory.claimWriter(of: volume, session: session, now: now) }
    }

    func releaseWriter(of volume: Identifier, session: Identifier) {
        state.withLock { $0.directory.releaseWriter(of: volume, session: session) }
    }

    /// Has the driver open a volume, on the pool's thread; `completion` is called there.
    func openOnDriver(
        _ admission: Admission, completion: @escaping @Sendable (Result<VolumeGeometry, ServiceError>) -> Void
    ) {
        let id = admission.volume.id
        let pool = admission.pool
        let isQueued = pool.worker.post { [self] in
            do throws(ServiceError) {
                completion(.success(try open(id, in: pool)))
            } catch { completion(.failure(error)) }
        }
        if !isQueued {
            completion(.failure(ServiceError(.busy, "too much work waits for the pool's driver")))
        }
    }

    /// Opens a volume unless it is open. On the pool's thread.
    func open(_ id: Identifier, in pool: Pool) throws(ServiceError) -> VolumeGeometry {
        let known = state.withLock { $0.directory.volumes[id] }
        guard let known, !known.isGoing else { throw ServiceError(.notFound, "there is no such volume") }
        if let geometry = known.geometry { return geometry }
        let geometry: VolumeGeometry
        do throws(DriverError) {
            geometry = try pool.driver.openVolume(id, index: known.index)
        } catch { throw ServiceError(error) }
        state.withLock { $0.directory.volumes[id]?.geometry = geometry }
        return geometry
    }
}

extension ServiceError {
    /// What a driver said.
    init(_ error: DriverError) {
        self.init(error.status, error.message)
    }

    init(_ refusal: Refusal) {
        self.init(refusal.status, refusal.message)
    }
}
