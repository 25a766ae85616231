import Core

/// Which resource is meant.
public struct ResourceReference: Sendable, Hashable {
    /// The kind of the resource.
    public let kind: ResourceKind
    /// The resource's id: a new resource of the same name is not meant.
    public let id: Identifier
    /// The resource's name.
    public let name: String

    /// A reference.
    public init(kind: ResourceKind, id: Identifier, name: String) {
        self.kind = kind
        self.id = id
        self.name = name
    }

    /// `volume/demo`
    public var text: String { "\(kind.name)/\(name)" }
}

extension VolumeRecord {
    /// This volume.
    public var reference: ResourceReference { ResourceReference(kind: .volume, id: id, name: name) }
}

/// The policy that a node may have these rights on this resource.
public struct GrantRecord: NamedRecord, Hashable {
    /// `grants/`
    public static let prefix = "grants/"
    /// The node's id in hex.
    public var group: String? { nodeID.hex }

    /// The id: a new one of an old name has another.
    public let id: Identifier
    /// The name, a DNS label.
    public let name: String
    /// Who may.
    public let nodeID: Identifier
    /// That node's name.
    public let nodeName: String
    /// The kind of the resource.
    public let kind: ResourceKind
    /// The resource's id: a new resource of the same name is not meant.
    public let resourceID: Identifier
    /// The resource's name.
    public let resourceName: String
    /// What the node may do.
    public var rights: Rights
    /// Where; nil for all of it.
    public var range: ByteRange?
    /// How fast.
    public var limits: IOLimits
    /// The longest life of a capability, in seconds.
    public var lifetimeSecondsMax: UInt64
    /// Unix seconds after which nothing is issued, and what was issued has ended; nil for no end.
    public var expiresAt: UInt64?
    /// How often a holder may pass a capability on to another key.
    public var delegationDepth: UInt8
    /// The user's labels.
    public var labels: [String: String]
    /// Unix seconds.
    public let createdAt: UInt64
    /// When it last changed, Unix seconds.
    public var updatedAt: UInt64
    /// Counts the changes; the ETag of the API.
    public var version: UInt64 = 1

    /// A new grant.
    public init(
        id: Identifier, name: String, node: NodeRecord, on resource: ResourceReference, rights: Rights,
        range: ByteRange?,
        limits: IOLimits, lifetimeSecondsMax: UInt64, expiresAt: UInt64?, delegationDepth: UInt8,
        labels: [String: String], createdAt: UInt64
    ) {
        self.id = id
        self.name = name
        nodeID = node.id
        nodeName = node.name
        kind = resource.kind
        resourceID = resource.id
        resourceName = resource.name
        self.rights = rights
        self.range = range
        self.limits = limits
        self.lifetimeSecondsMax = lifetimeSecondsMax
        self.expiresAt = expiresAt
        self.delegationDepth = delegationDepth
        self.labels = labels
        self.createdAt = createdAt
        updatedAt = createdAt
    }
}

/// What was issued, so that it can be listed and revoked. The token itself is not stored.
public struct CapabilityRecord: Record, Hashable {
    /// `capabilities/`
    public static let prefix = "capabilities/"
    /// The id in hex.
    public var recordKey: String { id.hex }
    /// The node's id in hex.
    public var group: String? { nodeID.hex }

    /// The capability's id.
    public let id: Identifier
    /// Whom it is for.
    public let nodeID: Identifier
    /// That node's name.
    public let nodeName: String
    /// The grant that it was issued from.
    public let grantID: Identifier
    /// That grant's name.
    public let grantName: String
    /// The kind of the resource.
    public let kind: ResourceKind
    /// The resource's id.
    public let resourceID: Identifier
    /// The resource's name.
    public let resourceName: String
    /// The resource's epoch when it was issued; nil in records of a version that did not note it.
    public let resourceEpoch: UInt64?
    /// What it allows.
    public let rights: Rights
    /// Where; nil for all of it.
    public let range: ByteRange?
    /// How fast.
    public let limits: IOLimits
    /// How often it may be passed on to another key.
    public let delegationDepth: UInt8
    /// SHA-256 of the key that may use it.
    public let holder: Digest32
    /// The key that signed it, in hex.
    public let keyID: String
    /// Unix seconds.
    public let issuedAt: UInt64
    /// Unix seconds; it does not count before.
    public let notBefore: UInt64
    /// Unix seconds; it does not count after.
    public let expiresAt: UInt64
    /// Unix seconds; nil unless it was revoked.
    public var revokedAt: UInt64?
    /// Why it was revoked.
    public var reason: String?

    /// What is issued for `grant`, narrowed to the given values.
    public init(
        id: Identifier, grant: GrantRecord, resourceEpoch: UInt64, rights: Rights, range: ByteRange?,
        limits: IOLimits,
        delegationDepth: UInt8, holder: Digest32, keyID: String, issuedAt: UInt64, expiresAt: UInt64
    ) {
        self.id = id
        nodeID = grant.nodeID
        nodeName = grant.nodeName
        grantID = grant.id
        grantName = grant.name
        kind = grant.kind
        resourceID = grant.resourceID
        resourceName = grant.resourceName
        self.resourceEpoch = resourceEpoch
        self.rights = rights
        self.range = range
        self.limits = limits
        self.delegationDepth = delegationDepth
        self.holder = holder
        self.keyID = keyID
        self.issuedAt = issuedAt
        notBefore = issuedAt
        self.expiresAt = expiresAt
    }
}

/// An operation that touches a device, recorded before it begins; the next start completes or undoes it.
public struct IntentRecord: Record, Hashable {
    /// What is being done.
    public enum Action: String, Codable, Sendable {
        /// Undone at start: nobody was told that the volume exists.
        case createVolume
        /// Goes on at start.
        case resizeVolume
        /// Completed at start.
        case deleteVolume
    }

    /// `intents/`
    public static let prefix = "intents/"
    /// The volume's id: one operation at a time.
    public var recordKey: String { volume.id.hex }

    /// What is being done.
    public let action: Action
    /// The volume as it was, or will be if it is being created.
    public let volume: VolumeRecord
    /// Bytes that it will have; for a resize.
    public let newSize: UInt64?
    /// The id by which a resize is shown and cancelled; nil in records of a version that did not show them.
    public let operation: Identifier?
    /// Unix seconds; for a resize, with the same exception.
    public let since: UInt64?

    /// An intent other than a resize.
    public init(_ action: Action, volume: VolumeRecord) {
        self.action = action
        self.volume = volume
        newSize = nil
        operation = nil
        since = nil
    }

    /// The intent to resize a volume.
    public init(resizing volume: VolumeRecord, to size: UInt64, operation: Identifier, since: UInt64) {
        action = .resizeVolume
        self.volume = volume
        newSize = size
        self.operation = operation
        self.since = since
    }
}

/// A pool whose driver is being started for the first time. Recorded before that begins, and undone by the next start:
/// nobody was told that the pool exists.
public struct PoolIntentRecord: Record, Hashable {
    /// `pool-intents/`
    public static let prefix = "pool-intents/"
    /// The pool's name: one is made at a time.
    public var recordKey: String { pool.name }

    /// The pool as it will be.
    public let pool: PoolRecord
    /// Whether its folder was not there before.
    public let isFolderNew: Bool

    /// The intent to make a pool.
    public init(pool: PoolRecord, isFolderNew: Bool) {
        self.pool = pool
        self.isFolderNew = isFolderNew
    }
}

/// The answer to a POST that carried an `Idempotency-Key`, so that a repeat is answered and not executed.
public struct IdempotencyRecord: Record, Hashable {
    /// `idempotency/`
    public static let prefix = "idempotency/"
    /// The hash of caller, path and key.
    public var recordKey: String { hash.hex }
    /// Who asked, such as `node:compute-1`.
    public var group: String? { caller }

    /// SHA-256 over caller, path and key.
    public let hash: Digest32
    /// SHA-256 over the request's body.
    public let request: Digest32
    /// Unix seconds.
    public let createdAt: UInt64
    /// The answer's status.
    public let status: Int
    /// The answer's headers.
    public let headers: [String: String]
    /// The answer's body, without what must not be stored.
    public let body: String
    /// What the stored body lacks and is computed again, such as `enrolToken:EXPIRY`; nil when it is complete.
    public let sealed: String?
    /// Who asked; nil in records of a version that did not note it.
    public let caller: String?
    /// What was done of the request when this was written, in words of whoever does it; nil when it is answered. A repeat
    /// goes on from there.
    public let begun: String?

    /// An answer.
    public init(
        hash: Digest32, request: Digest32, createdAt: UInt64, status: Int, headers: [String: String],
        body: String, sealed: String?, caller: String?
    ) {
        begun = nil
        self.hash = hash
        self.request = request
        self.createdAt = createdAt
        self.status = status
        self.headers = headers
        self.body = body
        self.sealed = sealed
        self.caller = caller
    }

    /// A request that has begun and has no answer yet.
    public init(
        hash: Digest32, request: Digest32, createdAt: UInt64, begun: String, caller: String?
    ) {
        self.hash = hash
        self.request = request
        self.createdAt = createdAt
        status = 0
        headers = [:]
        body = ""
        sealed = nil
        self.caller = caller
        self.begun = begun
    }
}
