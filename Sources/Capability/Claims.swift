import Core

/// What the issuer says in a capability's authority block (RFC 8392 claims and Sluice's own).
public struct Claims: Hashable, Sendable {
    /// The cluster that issued the capability.
    public var issuer: Identifier
    /// The cluster that is meant to accept it.
    public var audience: Identifier
    /// The capability's own id, by which it is revoked.
    public var capability: Identifier
    /// The node that it was issued to.
    public var subject: Identifier
    /// When it was issued, in seconds since 1970; for information only.
    public var issuedAt: UInt64
    /// From when it is valid, in seconds since 1970.
    public var notBefore: UInt64
    /// From when it is no longer valid, in seconds since 1970; later than `notBefore`.
    public var expiry: UInt64
    /// SHA-256 of the SubjectPublicKeyInfo of the TLS key that may use it.
    public var holder: Digest32
    /// What sort of resource it names.
    public var kind: ResourceKind
    /// The resource.
    public var resource: Identifier
    /// What the holder may do; never empty.
    public var rights: Rights
    /// The bytes of a volume that it covers; nil for all, and always nil for other kinds.
    public var range: ByteRange?
    /// Ceilings on its use.
    public var limits: IOLimits
    /// The resource's epoch when it was issued; raising the resource's epoch revokes it.
    public var resourceEpoch: UInt64
    /// The node's epoch when it was issued; raising the node's epoch revokes it.
    public var nodeEpoch: UInt64
    /// How many times it may be handed to another holder, at most `Limits.attenuationBlocksMax`.
    public var delegationDepth: UInt8
    /// The 32-byte public key that signs the next block; minting replaces it with a fresh one.
    public var nextKey: [UInt8]

    /// The claims of a capability to mint.
    public init(
        issuer: Identifier, audience: Identifier, capability: Identifier, subject: Identifier,
        issuedAt: UInt64, notBefore: UInt64, expiry: UInt64, holder: Digest32,
        kind: ResourceKind, resource: Identifier, rights: Rights, range: ByteRange? = nil,
        limits: IOLimits = .none, resourceEpoch: UInt64, nodeEpoch: UInt64,
        delegationDepth: UInt8 = 0, nextKey: [UInt8] = []
    ) {
        self.issuer = issuer
        self.audience = audience
        self.capability = capability
        self.subject = subject
        self.issuedAt = issuedAt
        self.notBefore = notBefore
        self.expiry = expiry
        self.holder = holder
        self.kind = kind
        self.resource = resource
        self.rights = rights
        self.range = range
        self.limits = limits
        self.resourceEpoch = resourceEpoch
        self.nodeEpoch = nodeEpoch
        self.delegationDepth = delegationDepth
        self.nextKey = nextKey
    }

    /// Refuses what no authority block may say; minting and reading share this.
    func validate() throws(CapabilityError) {
        guard notBefore < expiry else { throw .malformed("it expires before it becomes valid") }
        if range != nil, kind != .volume { throw .malformed("only a volume can have a byte range") }
        try ClaimRules.check(
            rights: rights, range: range, limits: limits, delegationDepth: delegationDepth)
    }
}

/// One narrowing of a capability; nil leaves as it is what the blocks before say.
public struct Attenuation: Hashable, Sendable {
    /// The rights that remain; a subset of those before, never empty.
    public var rights: Rights?
    /// The bytes that remain, counted from the start of the volume; inside the range before.
    public var range: ByteRange?
    /// A new end of validity, in seconds since 1970; not later than before.
    public var expiry: UInt64?
    /// A new start of validity, in seconds since 1970; not earlier than before.
    public var notBefore: UInt64?
    /// New ceilings; each not above the one before, a nil member leaves the one before.
    public var limits: IOLimits?
    /// Another holder; takes one from the delegation depth.
    public var holder: Digest32?
    /// How many more times it may be handed on, after this block; not above what is left.
    public var delegationDepth: UInt8?
    /// The 32-byte public key that signs the block after; empty until the block is signed.
    public internal(set) var nextKey: [UInt8] = []

    /// A narrowing that says only what is given.
    public init(
        rights: Rights? = nil, range: ByteRange? = nil, expiry: UInt64? = nil, notBefore: UInt64? = nil,
        limits: IOLimits? = nil, holder: Digest32? = nil, delegationDepth: UInt8? = nil
    ) {
        self.rights = rights
        self.range = range
        self.expiry = expiry
        self.notBefore = notBefore
        self.limits = limits
        self.holder = holder
        self.delegationDepth = delegationDepth
    }

    /// Refuses what no attenuation block may say; minting and reading share this.
    func validate() throws(CapabilityError) {
        guard
            rights != nil || range != nil || expiry != nil || notBefore != nil || limits != nil
                || holder != nil || delegationDepth != nil
        else { throw .malformed("an attenuation narrows nothing") }
        if let limits, limits == .none { throw .malformed("an attenuation sets limits without a limit") }
        try ClaimRules.check(
            rights: rights, range: range, limits: limits, delegationDepth: delegationDepth)
    }
}

/// The rules that authority and attenuation blocks share.
enum ClaimRules {
    static func check(
        rights: Rights?, range: ByteRange?, limits: IOLimits?, delegationDepth: UInt8?
    ) throws(CapabilityError) {
        if let rights, rights.isEmpty || !rights.isSubset(of: .all) {
            throw .malformed("its rights are empty or unknown")
        }
        if let range, range.length == 0 { throw .malformed("its byte range is empty") }
        if limits?.iops == 0 || limits?.bytesPerSecond == 0 { throw .malformed("a limit is zero") }
        if let delegationDepth, Int(delegationDepth) > Limits.attenuationBlocksMax {
            throw .malformed("its delegation depth is above \(Limits.attenuationBlocksMax)")
        }
    }
}
