import Core

/// The payload of OPEN: which rights the client wants to use, and the capability that gives them.
///
/// | bytes | field |
/// |---|---|
/// | 0 | kind of resource: 1 volume, 2 fileset, 3 endpoint |
/// | 1 | flags: bit 0, take over from sessions of the same key that have no connection |
/// | 2..<4 | reserved, 0 |
/// | 4..<8 | rights wanted; 0 for all that the capability and the resource's access mode allow |
/// | 8… | capability in binary form: 16-bit length and bytes |
public struct OpenRequest: Sendable, Hashable {
    /// The payload's greatest length, in bytes.
    public static let byteCountMax = 10 + Limits.capabilityBytesMax

    /// The kind that the client expects; the capability must name the same.
    public var kind: ResourceKind
    /// The rights wanted; empty for all there are.
    public var rights: Rights
    /// Whether sessions that the same TLS key began, that have no connection and that stand in the way of
    /// writing, are ended first.
    public var takesOver: Bool
    /// The capability's binary form, not looked into here.
    public var capability: [UInt8]

    /// A request from its fields.
    public init(kind: ResourceKind, rights: Rights, takesOver: Bool = false, capability: [UInt8]) {
        self.takesOver = takesOver
        self.kind = kind
        self.rights = rights
        self.capability = capability
    }

    /// Parses a payload.
    ///
    /// - Throws: `badFrame` for a length that is off or reserved bits, `badRequest` for an unknown kind or
    ///   right.
    public init(bytes: [UInt8]) throws(StatusError) {
        var reader = ByteReader(bytes)
        guard let kind = reader.read(UInt8.self), let flags = reader.read(UInt8.self),
            let reserved = reader.read(UInt16.self),
            let rights = reader.read(UInt32.self),
            let capability = reader.readCounted(maximum: Limits.capabilityBytesMax), reader.remaining == 0
        else { throw StatusError(.badFrame, "OPEN is shorter or longer than its fields") }
        guard reserved == 0, flags <= 1 else { throw StatusError(.badFrame, "OPEN has reserved bits set") }
        guard let known = ResourceKind(rawValue: kind) else {
            throw StatusError(.badRequest, "OPEN names an unknown kind of resource: \(kind)")
        }
        guard Rights(rawValue: rights).isSubset(of: .all) else {
            throw StatusError(.badRequest, "OPEN wants a right that does not exist")
        }
        guard !capability.isEmpty else { throw StatusError(.badRequest, "OPEN has no capability") }
        self.kind = known
        takesOver = flags == 1
        self.rights = Rights(rawValue: rights)
        self.capability = capability
    }

    /// The payload's bytes; a capability above `Limits.capabilityBytesMax` is a bug of the caller.
    public var bytes: [UInt8] {
        precondition(capability.count <= Limits.capabilityBytesMax, "a capability has at most 8,192 bytes")
        var writer = ByteWriter(capacity: 10 + capability.count)
        writer.write(kind.rawValue)
        writer.write(UInt8(takesOver ? 1 : 0))
        writer.write(UInt16(0))
        writer.write(rights.rawValue)
        writer.writeCounted(capability)
        return writer.bytes
    }
}

/// The payload of RENEW: the capability that takes the place of the handle's, 16-bit length and bytes.
public struct RenewRequest: Sendable, Hashable {
    /// The payload's greatest length, in bytes.
    public static let byteCountMax = 2 + Limits.capabilityBytesMax

    /// The capability's binary form, not looked into here.
    public var capability: [UInt8]

    /// A request for this capability.
    public init(capability: [UInt8]) {
        self.capability = capability
    }

    /// Parses a payload.
    ///
    /// - Throws: `badFrame` for a length that is off, `badRequest` for an empty capability.
    public init(bytes: [UInt8]) throws(StatusError) {
        var reader = ByteReader(bytes)
        guard let capability = reader.readCounted(maximum: Limits.capabilityBytesMax), reader.remaining == 0
        else {
            throw StatusError(.badFrame, "RENEW is shorter or longer than its capability")
        }
        guard !capability.isEmpty else { throw StatusError(.badRequest, "RENEW has no capability") }
        self.capability = capability
    }

    /// The payload's bytes; a capability above `Limits.capabilityBytesMax` is a bug of the caller.
    public var bytes: [UInt8] {
        precondition(capability.count <= Limits.capabilityBytesMax, "a capability has at most 8,192 bytes")
        var writer = ByteWriter(capacity: 2 + capability.count)
        writer.writeCounted(capability)
        return writer.bytes
    }
}
