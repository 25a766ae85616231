import Core

/// A typed value under one key of the catalog, `prefix` followed by `recordKey`. Stored as JSON.
public protocol Record: Codable, Sendable, Equatable {
    /// What the keys of this kind start with, such as `volumes/`.
    static var prefix: String { get }
    /// The rest of the key, unique in its kind.
    var recordKey: String { get }
    /// Whom it counts for, where records of a kind are looked up and bounded by that; nil elsewhere.
    var group: String? { get }
}

extension Record {
    /// Nobody.
    public var group: String? { nil }
}

/// What resources that a user names have in common.
public protocol NamedRecord: Record {
    /// The name.
    var name: String { get }
    /// The id; a new resource of an old name has another.
    var id: Identifier { get }
    /// What the user attached.
    var labels: [String: String] { get set }
    /// Unix seconds.
    var updatedAt: UInt64 { get set }
    /// Counts the changes to this record, from 1; with the id it makes the entity tag.
    var version: UInt64 { get set }
}

extension NamedRecord {
    /// The name.
    public var recordKey: String { name }
}

/// The server itself: one record, key `server/self`.
public struct ServerRecord: Record, Hashable {
    /// `server/`
    public static let prefix = "server/"
    /// `self`
    public var recordKey: String { "self" }

    /// The cluster's id: issuer and audience of its capabilities.
    public let clusterID: Identifier
    /// The name that the server was given.
    public var name: String
    /// Names and addresses that the server's certificate must carry.
    public var names: [String]
    /// Likewise, in text form.
    public var addresses: [String]
    /// Unix seconds.
    public let createdAt: UInt64

    /// The record of a new cluster.
    public init(
        clusterID: Identifier, name: String, names: [String], addresses: [String], createdAt: UInt64
    ) {
        self.clusterID = clusterID
        self.name = name
        self.names = names
        self.addresses = addresses
        self.createdAt = createdAt
    }
}

/// A key that signs capabilities, or did; its private half is a file.
public struct KeyRecord: Record, Hashable {
    /// `keys/`
    public static let prefix = "keys/"
    /// The key id.
    public var recordKey: String { keyID }

    /// The key id that capabilities carry, in hex.
    public let keyID: String
    /// Ed25519, 64 hex digits.
    public let publicKey: String
    /// Unix seconds.
    public let createdAt: UInt64
    /// Unix seconds after which nothing that it signed counts; nil while it signs.
    public var verifiesUntil: UInt64?

    /// A key that signs from now on.
    public init(keyID: String, publicKey: String, createdAt: UInt64) {
        self.keyID = keyID
        self.publicKey = publicKey
        self.createdAt = createdAt
    }
}

/// A configured driver instance.
public struct PoolRecord: NamedRecord, Hashable {
    /// Where its driver runs.
    public enum Isolation: String, Codable, Sendable, CaseIterable {
        /// In a sandboxed process of its own.
        case isolated
        /// In the server.
        case inline
    }

    /// What becomes of writes for which there is no space.
    public enum WhenFull: String, Codable, Sendable, CaseIterable {
        /// They wait until there is some.
        case wait
        /// They fail.
        case fail
    }

    /// `pools/`
    public static let prefix = "pools/"

    /// The id: a new one of an old name has another.
    public let id: Identifier
    /// The name, a DNS label.
    public let name: String
    /// The driver's name.
    public let driver: String
    /// The driver's settings.
    public var settings: [String: String]
    /// What was written of `isolation`; records from before there was a choice have nothing.
    private var chosenIsolation: Isolation?
    /// What was written of `whenFull`; records from before there was a choice have nothing.
    private var chosenWhenFull: WhenFull?
    /// The user's labels.
    public var labels: [String: String]
    /// Unix seconds.
    public let createdAt: UInt64
    /// When it last changed, Unix seconds.
    public var updatedAt: UInt64
    /// Counts the changes; the ETag of the API.
    public var version: UInt64 = 1

    /// What becomes of writes for which there is no space.
    public var whenFull: WhenFull {
        get { chosenWhenFull ?? .wait }
        set { chosenWhenFull = newValue }
    }

    /// Where its driver runs from the next start of the server on.
    public var isolation: Isolation {
        get { chosenIsolation ?? .isolated }
        set { chosenIsolation = newValue }
    }

    private enum CodingKeys: String, CodingKey {
        case id, name, driver, settings, labels, createdAt, updatedAt, version
        case chosenIsolation = "isolation"
        case chosenWhenFull = "whenFull"
    }

    /// A new pool.
    public init(
        id: Identifier, name: String, driver: String, settings: [String: String],
        isolation: Isolation = .isolated, whenFull: WhenFull = .wait, labels: [String: String] = [:],
        createdAt: UInt64
    ) {
        chosenWhenFull = whenFull
        self.id = id
        self.name = name
        self.driver = driver
        self.settings = settings
        chosenIsolation = isolation
        self.labels = labels
        self.createdAt = createdAt
        updatedAt = createdAt
    }
}

/// A volume.
public struct VolumeRecord: NamedRecord, Hashable {
    /// Where a volume is in its life.
    public enum State: String, Codable, Sendable {
        /// It can be used.
        case ready
        /// Its device is being prepared for it; goes on at every start.
        case preparing
        /// It can no longer be used; its space is being given back.
        case deleting
    }

    /// `volumes/`
    public static let prefix = "volumes/"

    /// The id: a new one of an old name has another.
    public let id: Identifier
    /// The name, a DNS label.
    public let name: String
    /// The pool's name.
    public let pool: String
    /// Bytes.
    public var size: UInt64
    /// How many sessions may write.
    public var accessMode: AccessMode
    /// What was written of `limits`; records from before there were any have nothing.
    private var chosenLimits: RateLimits?
    /// The size of its blocks, in bytes; nil in records of a version that did not note it.
    public var blockSize: UInt32?
    /// The user's labels.
    public var labels: [String: String]
    /// Capabilities of another epoch do not count.
    public var epoch: UInt64
    /// Why it is not the first any more; nil while it is.
    public var epochReason: String?
    /// Where it is in its life.
    public var state: State
    /// Unix seconds.
    public let createdAt: UInt64
    /// When it last changed, Unix seconds.
    public var updatedAt: UInt64
    /// Counts the changes; the ETag of the API.
    public var version: UInt64 = 1

    /// What all its users may use together.
    public var limits: RateLimits {
        get { chosenLimits ?? .none }
        set { chosenLimits = newValue == .none ? nil : newValue }
    }

    private enum CodingKeys: String, CodingKey {
        case id, name, pool, size, accessMode, blockSize, labels, epoch, epochReason, state, createdAt,
            updatedAt,
            version
        case chosenLimits = "limits"
    }

    /// A new volume.
    public init(
        id: Identifier, name: String, pool: String, size: UInt64, accessMode: AccessMode,
        limits: RateLimits = .none, blockSize: UInt32? = nil, labels: [String: String] = [:],
        createdAt: UInt64
    ) {
        self.blockSize = blockSize
        self.id = id
        self.name = name
        self.pool = pool
        self.size = size
        self.accessMode = accessMode
        chosenLimits = limits == .none ? nil : limits
        self.labels = labels
        epoch = 1
        state = .ready
        self.createdAt = createdAt
        updatedAt = createdAt
    }
}

/// A compute node.
public struct NodeRecord: NamedRecord, Hashable {
    /// `nodes/`
    public static let prefix = "nodes/"

    /// The id: a new one of an old name has another.
    public let id: Identifier
    /// The name, a DNS label.
    public let name: String
    /// The user's labels.
    public var labels: [String: String]
    /// Capabilities of another epoch do not count.
    public var epoch: UInt64
    /// SHA-256 of its key's SubjectPublicKeyInfo; nil until it has enrolled.
    public var keyThumbprint: Digest32?
    /// Unix seconds; when its present certificate ends.
    public var certificateExpiresAt: UInt64?
    /// Unix seconds; nil until it has enrolled.
    public var enrolledAt: UInt64?
    /// Unix seconds.
    public let createdAt: UInt64
    /// When it last changed, Unix seconds.
    public var updatedAt: UInt64
    /// Counts the changes; the ETag of the API.
    public var version: UInt64 = 1

    /// A node that has not enrolled.
    public init(id: Identifier, name: String, labels: [String: String] = [:], createdAt: UInt64) {
        self.id = id
        self.name = name
        self.labels = labels
        epoch = 1
        self.createdAt = createdAt
        updatedAt = createdAt
    }
}

/// A one-time token with which a node enrols; the token itself is never stored.
public struct TokenRecord: Record, Hashable {
    /// `tokens/`
    public static let prefix = "tokens/"
    /// The hash.
    public var recordKey: String { hash.hex }

    /// SHA-256 of the token's secret.
    public let hash: Digest32
    /// The node that it is for.
    public let nodeID: Identifier
    /// That node's name.
    public let nodeName: String
    /// Unix seconds.
    public let expiresAt: UInt64
    /// The key that used it; the same key may repeat itself when an answer was lost, no other may.
    public var usedBy: Digest32?

    /// A token that nobody has used.
    public init(hash: Digest32, nodeID: Identifier, nodeName: String, expiresAt: UInt64) {
        self.hash = hash
        self.nodeID = nodeID
        self.nodeName = nodeName
        self.expiresAt = expiresAt
    }
}
