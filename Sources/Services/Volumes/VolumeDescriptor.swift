import Core
import DriverKit

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

/// How far a volume is that is being made, or is to have more bytes.
public enum VolumePreparation: Sendable, Hashable {
    /// It is made, and has this shape.
    case made(VolumeGeometry)
    /// So many of its bytes are still to be prepared. With none left, a volume that grows can be given its new size.
    case preparing(left: UInt64)

    /// The bytes that are still to be prepared.
    public var left: UInt64 {
        switch self {
        case .made: 0
        case .preparing(let left): left
        }
    }
}
