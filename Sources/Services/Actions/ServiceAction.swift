import Core
import DriverKit

/// What becomes of writes for which a pool has no space.
public enum FullPolicy: String, Sendable, Codable, CaseIterable {
    /// The client is told to wait (`noSpaceYet`), and goes on when there is space.
    case wait
    /// They fail (`noSpace`).
    case fail
}

/// How full a pool is, and what there is to know about it.
public struct PoolSpace: Sendable, Hashable {
    /// As its driver tells it.
    public var capacity: PoolCapacity
    /// What each volume takes, in bytes; not every driver knows.
    public var used: [Identifier: UInt64]
    /// What its driver wants an operator to know, in sentences.
    public var notes: [String]
    /// Writes that found no space since the pool's start.
    public var refusals: UInt64
    /// When the last of them was, in Unix seconds.
    public var lastRefusal: UInt64?

    /// A pool's space.
    public init(
        capacity: PoolCapacity, used: [Identifier: UInt64] = [:], notes: [String] = [], refusals: UInt64 = 0,
        lastRefusal: UInt64? = nil
    ) {
        self.capacity = capacity
        self.used = used
        self.notes = notes
        self.refusals = refusals
        self.lastRefusal = lastRefusal
    }
}

/// A configured driver instance.
public struct PoolDescriptor: Sendable, Hashable {
    /// The pool's name, unique on the server.
    public let name: String
    /// The driver's name, such as `file`.
    public let driver: String
    /// The driver's settings.
    public let settings: [String: String]
    /// The folder that the driver may use.
    public let folder: String
    /// Where its driver runs.
    public let isolation: DriverIsolation
    /// What becomes of writes for which there is no space.
    public let whenFull: FullPolicy

    /// A pool.
    public init(
        name: String, driver: String, settings: [String: String], folder: String,
        isolation: DriverIsolation = .isolated, whenFull: FullPolicy = .wait
    ) {
        self.whenFull = whenFull
        self.name = name
        self.driver = driver
        self.settings = settings
        self.folder = folder
        self.isolation = isolation
    }
}

/// A volume as the data path needs to know it.
public struct VolumeDescriptor: Sendable, Hashable {
    /// The volume's id; a new volume of an old name has another.
    public let id: Identifier
    /// The volume's name, for logs and messages.
    public var name: String
    /// The pool that holds it.
    public let pool: String
    /// Bytes.
    public var size: UInt64
    /// How many sessions may write.
    public var accessMode: AccessMode
    /// Capabilities of another epoch do not count.
    public var epoch: UInt64
    /// Why it is not the first any more, for those who come with an older capability.
    public var epochReason: String?
    /// What all its users may use together.
    public var limits: RateLimits
    /// The size of its blocks, in bytes, whatever its pool lies on; nil: that of the pool.
    public var blockSize: UInt32?

    /// A volume.
    public init(
        id: Identifier, name: String, pool: String, size: UInt64, accessMode: AccessMode, epoch: UInt64,
        epochReason: String? = nil, limits: RateLimits = .none, blockSize: UInt32? = nil
    ) {
        self.blockSize = blockSize
        self.id = id
        self.name = name
        self.pool = pool
        self.size = size
        self.accessMode = accessMode
        self.epoch = epoch
        self.epochReason = epochReason
        self.limits = limits
    }
}

/// Everything that the control plane can ask of the services: their whole interface.
///
/// Actions that take authority away (`revokeCapability`, `removeNode`, `setNode` and `updateVolume` with a new
/// epoch, `fenceVolume`, `endSession`, `deleteVolume`) return when they are in force on every reactor: every
/// further request is refused, and the requests that were in flight have ended or will never run. A driver in a
/// process of its own delays that by five seconds at most, as long as the kernel can end the process.
public enum ServiceAction: Sendable {
    /// Replaces the keys (key id to Ed25519 public key) whose capabilities count.
    case trust(keys: [[UInt8]: [UInt8]])
    /// Starts a pool's driver. Once per name.
    case addPool(PoolDescriptor)
    /// Stops a pool that has no volumes, and forgets it.
    case removePool(String)
    /// What becomes of writes to a pool for which there is no space, from now on.
    case setFullPolicy(String, FullPolicy)
    /// Asks a pool's driver how full it is. → `space`
    case poolSpace(String)
    /// How the pools' driver hosts are. → `driverHosts`
    case driverHosts
    /// Ends a pool's driver host and starts another, also out of quarantine; returns when it serves.
    case restartDriver(String)
    /// Hands a pool over to a driver host from the program that is installed now. → `pause`
    case upgradeDriver(String)
    /// Gives a pool's driver new settings while it runs: all of them, not only those that change.
    case configurePool(String, [String: String])
    /// Makes the volume on its device and publishes it; repeating it is harmless. → `geometry`, or `preparing` where that
    /// takes longer than a moment: then `prepareVolume` goes on.
    case createVolume(VolumeDescriptor)
    /// Does another second's work on a volume that is published: it is being made, or it is to have more bytes. → `geometry`
    /// when it is made, else `preparing`; with nothing left, `resizeVolume` is quick.
    case prepareVolume(Identifier, to: UInt64)
    /// Makes a volume that exists on its device known to the data path, with its markers of before the server's start;
    /// they are not complete where the volume's contents are not those of before.
    case publishVolume(VolumeDescriptor, markers: [Identifier] = [], contentsLost: Bool = false)
    /// Sets a marker: from now on it is noted what of the volume is changed. What was acknowledged before is durable when
    /// this returns. → `markers`
    case createMarker(Identifier, volume: Identifier)
    /// Removes a marker; repeating it is harmless.
    case deleteMarker(Identifier, volume: Identifier)
    /// → `markers`
    case volumeMarkers(Identifier)
    /// Removes what is left of markers but those, by volume.
    case sweepMarkers([Identifier: [Identifier]])
    /// Grows a volume, however long that takes. → `geometry`
    case resizeVolume(Identifier, UInt64)
    /// Changes name, access mode, limits or epoch; pool and size stay.
    case updateVolume(VolumeDescriptor)
    /// Cuts off everybody who has a volume open, by its new epoch; the reason is told to them. → `fenced`
    case fenceVolume(VolumeDescriptor, reason: String)
    /// Who may write to a volume now. → `writers`
    case volumeWriters(Identifier)
    /// Ends all use of a volume and removes it from its device, also one that is not published; repeating it is harmless.
    /// Refused while its pool does not run.
    case deleteVolume(Identifier, pool: String)
    /// Ends all use of a volume and forgets it; what its device holds stays there. Repeating it is harmless.
    case forgetVolume(Identifier)
    /// The volumes that exist on a pool's device, with their sizes. → `volumes`
    case volumesOnDevice(String)
    /// Adds a node, or changes its name or epoch.
    case setNode(id: Identifier, name: String, epoch: UInt64)
    /// Forgets a node: no capability of it counts any more.
    case removeNode(Identifier)
    /// Changes what all capabilities of a grant may use together.
    case limitGrant(Identifier, RateLimits)
    /// Ends a capability for good; `expiry` (unix seconds) is when it would have ended by itself.
    case revokeCapability(Identifier, expiry: UInt64, reason: String)
    /// Ends several capabilities for good, as `revokeCapability` does one.
    case revokeCapabilities([(id: Identifier, expiry: UInt64)], reason: String)
    /// Takes in sessions of before a restart of the server, and who wrote to which volume last; once, when volumes are
    /// published and before the first channel comes.
    case restoreSessions([SavedSession], writers: [Identifier: VolumeWriter])
    /// → `sessions`
    case listSessions
    /// Ends the connections of a session, whose client may go on with it.
    case disconnectSession(Identifier, reason: String)
    /// Ends a session for good: what it has under way has ended or never runs, and nothing is kept of it.
    case endSession(Identifier, reason: String)
    /// Takes no new session, tells all that are there, and with somewhere else to go sends them there in the end; nil
    /// calls it off.
    case drain(Drain?)
    /// → `statistics`
    case statistics
}

/// What an action answers.
public enum ServiceOutcome: Sendable {
    /// It is done.
    case done
    /// A volume's shape.
    case geometry(VolumeGeometry)
    /// A volume's markers, the oldest first.
    case markers([MarkerInfo])
    /// A pool's space.
    case space(PoolSpace)
    /// The volume cannot be opened yet: so many of its bytes are still to be prepared.
    case preparing(left: UInt64)
    /// By pool: how its driver host is; nil for a driver that runs in the server.
    case driverHosts([String: DriverHostReport?])
    /// How long users had to wait, in nanoseconds.
    case pause(UInt64)
    /// The sessions there are, in order of their start.
    case sessions([SessionInfo])
    /// The sessions that were cut off, in order of their ids.
    case fenced([FencedSession])
    /// The oldest first.
    case writers([WriterInfo])
    /// Volumes on a device: id to size in bytes.
    case volumes([Identifier: UInt64])
    /// Counters since the start.
    case statistics(Statistics)
}

/// A session that may write to a volume.
public struct WriterInfo: Sendable, Hashable {
    /// The session's id.
    public let session: Identifier
    /// The node whose capability it used first; nil when that node is gone.
    public let nodeName: String?
    /// Unix seconds since when it may write.
    public let since: UInt64
    /// Unix seconds since when it has had no connection; nil while it has one.
    public let disconnectedSince: UInt64?
}

/// A session that lost its handles on a volume.
public struct FencedSession: Sendable, Hashable {
    /// The session's id.
    public let session: Identifier
    /// The node whose capability it used first; nil when that node is gone.
    public let nodeName: String?
    /// Whether it could write.
    public let wasWriting: Bool
}

/// What a session keeps others from writing to.
public struct WriteClaim: Sendable, Hashable {
    /// The volume's name.
    public let volume: String
    /// Unix seconds since when.
    public let since: UInt64
    /// Unix seconds at which it ends if nothing is heard of the session.
    public let expiry: UInt64
}

/// One session, as an administrator sees it.
public struct SessionInfo: Sendable, Hashable {
    /// A handle that the session has open.
    public struct OpenVolume: Sendable, Hashable {
        /// The volume's id.
        public let id: Identifier
        /// The volume's name.
        public let name: String
        /// The rights of the handle.
        public let rights: Rights
        /// The capability that it came from.
        public let capability: Identifier
    }

    /// The session's id.
    public let id: Identifier
    /// The node whose capability it used first; nil before the first OPEN.
    public let node: Identifier?
    /// That node's name.
    public let nodeName: String?
    /// SHA-256 of the client key's SubjectPublicKeyInfo.
    public let thumbprint: Digest32
    /// What the client calls itself; not to be trusted.
    public let clientName: String
    /// The address that the session came from.
    public let peerAddress: String
    /// Unix seconds of its start.
    public let since: UInt64
    /// Unix seconds since when it has had no connection; nil while it has one.
    public let disconnectedSince: UInt64?
    /// Channels that are connected.
    public internal(set) var channels = 0
    /// Volumes that it may write to, also without a connection.
    public internal(set) var claims: [WriteClaim] = []
    /// What it has open, once per handle.
    public internal(set) var openVolumes: [OpenVolume] = []
    /// Requests since its start, on channels that are still connected.
    public internal(set) var requests: UInt64 = 0
    /// Payload bytes read, likewise.
    public internal(set) var bytesRead: UInt64 = 0
    /// Payload bytes written, likewise.
    public internal(set) var bytesWritten: UInt64 = 0
    /// Requests that are not answered yet.
    public internal(set) var inFlight = 0
}

/// Counters of all data channels since the server started.
public struct Statistics: Sendable, Hashable {
    /// Sessions that exist.
    public internal(set) var sessions = 0
    /// Channels that are connected.
    public internal(set) var channels = 0
    /// Handles that are open.
    public internal(set) var handles = 0
    /// Requests that are not answered yet.
    public internal(set) var inFlight = 0
    /// READ requests.
    public internal(set) var reads: UInt64 = 0
    /// WRITE requests.
    public internal(set) var writes: UInt64 = 0
    /// FLUSH requests.
    public internal(set) var flushes: UInt64 = 0
    /// DISCARD and WRITE_ZEROES requests.
    public internal(set) var discards: UInt64 = 0
    /// OPEN, CLOSE and the other control requests.
    public internal(set) var controls: UInt64 = 0
    /// Payload bytes read.
    public internal(set) var bytesRead: UInt64 = 0
    /// Payload bytes written.
    public internal(set) var bytesWritten: UInt64 = 0
    /// By pool: requests that wait because its driver is away.
    public internal(set) var waitingForDriver: [String: UInt64] = [:]
    /// Requests that waited for a limit.
    public internal(set) var delayed: UInt64 = 0
    /// Channels whose next request finds no room in the buffers of a pool, or in its node's part of them.
    public internal(set) var waitingForRoom = 0
    /// What nodes have of the buffers of pools, in bytes; those that have something.
    public internal(set) var bufferBytes: [Identifier: Int] = [:]
    /// Requests that were answered with a status other than `ok`, by status.
    public internal(set) var refusals: [Status: UInt64] = [:]

    /// No counts.
    public init() {}

    /// Adds the counts of another shard.
    mutating func add(_ other: Statistics) {
        sessions += other.sessions
        channels += other.channels
        handles += other.handles
        inFlight += other.inFlight
        reads += other.reads
        writes += other.writes
        flushes += other.flushes
        discards += other.discards
        controls += other.controls
        bytesRead += other.bytesRead
        bytesWritten += other.bytesWritten
        delayed += other.delayed
        waitingForRoom += other.waitingForRoom
        bufferBytes.merge(other.bufferBytes, uniquingKeysWith: +)
        waitingForDriver.merge(other.waitingForDriver, uniquingKeysWith: +)
        refusals.merge(other.refusals, uniquingKeysWith: +)
    }
}
