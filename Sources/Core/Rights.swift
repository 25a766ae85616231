/// What a holder may do with a resource; the bit positions are part of the capability format.
public struct Rights: OptionSet, Sendable, Hashable {
    /// The bits, least significant first in the order of `names`.
    public let rawValue: UInt32

    /// Rights from bits; unknown bits are kept, so that a comparison with known rights refuses them.
    @inlinable
    public init(rawValue: UInt32) {
        self.rawValue = rawValue
    }

    /// Read bytes.
    public static let read = Rights(rawValue: 1 << 0)
    /// Write bytes and zeroes.
    public static let write = Rights(rawValue: 1 << 1)
    /// Give space back.
    public static let discard = Rights(rawValue: 1 << 2)
    /// Make acknowledged writes durable.
    public static let flush = Rights(rawValue: 1 << 3)
    /// Change the size.
    public static let resize = Rights(rawValue: 1 << 4)
    /// Take snapshots.
    public static let snapshot = Rights(rawValue: 1 << 5)
    /// List entries of a fileset.
    public static let list = Rights(rawValue: 1 << 6)
    /// Create entries in a fileset.
    public static let create = Rights(rawValue: 1 << 7)
    /// Open outgoing connections of an endpoint.
    public static let connect = Rights(rawValue: 1 << 8)
    /// Accept connections on an endpoint.
    public static let listen = Rights(rawValue: 1 << 9)

    /// The names of the bits, in order of position.
    public static let names = [
        "read", "write", "discard", "flush", "resize", "snapshot", "list", "create", "connect", "listen",
    ]

    /// Every right that has a name.
    public static let all = Rights(rawValue: (1 << UInt32(names.count)) - 1)

    /// Rights from their names.
    ///
    /// - Returns: nil when a name is unknown.
    public init?(names: some Sequence<String>) {
        var bits: UInt32 = 0
        for name in names {
            guard let position = Rights.names.firstIndex(of: name) else { return nil }
            bits |= 1 << UInt32(position)
        }
        self.init(rawValue: bits)
    }

    /// The names of the rights that are set, in order of position; unknown bits are left out.
    public var names: [String] {
        Rights.names.enumerated().filter { rawValue & (1 << UInt32($0.offset)) != 0 }.map(\.element)
    }
}

/// What kind of thing a capability names; the raw values are part of the capability format.
public enum ResourceKind: UInt8, Sendable, CaseIterable {
    /// Random-access bytes.
    case volume = 1
    /// A POSIX file tree.
    case fileset = 2
    /// Network sockets.
    case endpoint = 3

    /// The name as used in paths and on the command line, such as `volume` in `volume/NAME`.
    public var name: String {
        switch self {
        case .volume: "volume"
        case .fileset: "fileset"
        case .endpoint: "endpoint"
        }
    }

    /// The kind with this name.
    public init?(name: String) {
        guard let kind = ResourceKind.allCases.first(where: { $0.name == name }) else { return nil }
        self = kind
    }
}

/// How many sessions may write to a volume at once.
public enum AccessMode: String, Sendable, CaseIterable, Codable {
    /// One session at a time may write (the default).
    case singleWriter = "single-writer"
    /// Nobody may write.
    case multiReader = "multi-reader"
    /// Any number of sessions may write; they coordinate among themselves.
    case shared
}

/// Ceilings on what a holder may use; nil means no ceiling.
public struct IOLimits: Sendable, Hashable {
    /// Operations per second.
    public var iops: UInt64?
    /// Payload bytes per second, both directions together.
    public var bytesPerSecond: UInt64?

    /// Ceilings; nil for none.
    public init(iops: UInt64? = nil, bytesPerSecond: UInt64? = nil) {
        self.iops = iops
        self.bytesPerSecond = bytesPerSecond
    }

    /// No ceiling at all.
    public static let none = IOLimits()
}

/// Ceilings and how far they may be exceeded for a moment; nil means no ceiling.
public struct RateLimits: Sendable, Hashable {
    /// Operations per second.
    public var iops: UInt64?
    /// Payload bytes per second, both directions together.
    public var bytesPerSecond: UInt64?
    /// What a pause saves up at most, in milliseconds of the ceilings; nil for the server's default.
    public var burstMilliseconds: UInt64?

    /// Ceilings; nil for none.
    public init(iops: UInt64? = nil, bytesPerSecond: UInt64? = nil, burstMilliseconds: UInt64? = nil) {
        self.iops = iops
        self.bytesPerSecond = bytesPerSecond
        self.burstMilliseconds = burstMilliseconds
    }

    /// The ceilings of a capability.
    public init(_ limits: IOLimits) {
        self.init(iops: limits.iops, bytesPerSecond: limits.bytesPerSecond)
    }

    /// No ceiling at all.
    public static let none = RateLimits()

    /// Whether there is nothing to enforce.
    public var isUnlimited: Bool { iops == nil && bytesPerSecond == nil }
}

/// A part of a capability that has ceilings: they hold for all handles that descend from it together.
public struct RateScope: Sendable, Hashable {
    /// The key that the block names for the next; empty for the authority block.
    public let block: [UInt8]
    /// The block's ceilings.
    public let limits: IOLimits

    /// A block with ceilings.
    public init(block: [UInt8], limits: IOLimits) {
        self.block = block
        self.limits = limits
    }
}
