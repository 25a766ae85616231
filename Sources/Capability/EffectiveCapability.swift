import Core

/// What a capability grants after every narrowing.
public struct EffectiveCapability: Hashable, Sendable {
    /// The capability's id, by which it is revoked.
    public let id: Identifier
    /// The node that it was issued to.
    public let subject: Identifier
    /// The thumbprint of the TLS key that may use it.
    public private(set) var holder: Digest32
    /// What sort of resource it names.
    public let kind: ResourceKind
    /// The resource.
    public let resource: Identifier
    /// What the holder may do.
    public private(set) var rights: Rights
    /// The bytes that it covers; nil for all.
    public private(set) var range: ByteRange?
    /// Ceilings on its use.
    public private(set) var limits: IOLimits
    /// The blocks that have ceilings, the first one first: each one's hold for everything that descends from it.
    public private(set) var rateScopes: [RateScope]
    /// From when it is valid, in seconds since 1970.
    public private(set) var notBefore: UInt64
    /// From when it is no longer valid, in seconds since 1970.
    public private(set) var expiry: UInt64
    /// The resource's epoch when it was issued.
    public let resourceEpoch: UInt64
    /// The node's epoch when it was issued.
    public let nodeEpoch: UInt64
    /// How many more times it may be handed to another holder.
    public private(set) var delegationDepth: UInt8

    /// What `capability` grants if its signatures are right; they are not checked here.
    ///
    /// - Throws: `widened`, `delegationExhausted` or `malformed` when a block is no narrowing.
    public init(narrowing capability: Capability) throws(CapabilityError) {
        let claims = capability.claims
        id = claims.capability
        subject = claims.subject
        holder = claims.holder
        kind = claims.kind
        resource = claims.resource
        rights = claims.rights
        range = claims.range
        limits = claims.limits
        rateScopes = limits == .none ? [] : [RateScope(block: [], limits: limits)]
        notBefore = claims.notBefore
        expiry = claims.expiry
        resourceEpoch = claims.resourceEpoch
        nodeEpoch = claims.nodeEpoch
        delegationDepth = claims.delegationDepth
        for (index, attenuation) in capability.attenuations.enumerated() {
            try narrow(by: attenuation, block: index + 1)
        }
    }

    /// Applies one attenuation, which is block number `block` (the first attenuation is 1).
    mutating func narrow(by attenuation: Attenuation, block: Int) throws(CapabilityError) {
        if let rights = attenuation.rights {
            guard rights.isSubset(of: self.rights) else { throw .widened(block: block, what: "rights") }
            self.rights = rights
        }
        if let range = attenuation.range {
            guard kind == .volume else { throw .malformed("only a volume can have a byte range") }
            guard self.range?.contains(range) ?? true else {
                throw .widened(block: block, what: "byte range")
            }
            self.range = range
        }
        try narrowValidity(by: attenuation, block: block)
        if let limits = attenuation.limits {
            self.limits.iops = try narrowed(
                self.limits.iops, by: limits.iops, block: block, what: "operations per second")
            self.limits.bytesPerSecond = try narrowed(
                self.limits.bytesPerSecond, by: limits.bytesPerSecond, block: block,
                what: "bytes per second")
            rateScopes.append(RateScope(block: attenuation.nextKey, limits: limits))
        }
        if let holder = attenuation.holder {
            guard delegationDepth > 0 else { throw .delegationExhausted }
            delegationDepth -= 1
            self.holder = holder
        }
        if let depth = attenuation.delegationDepth {
            guard depth <= delegationDepth else { throw .widened(block: block, what: "delegation depth") }
            delegationDepth = depth
        }
    }

    private mutating func narrowValidity(
        by attenuation: Attenuation, block: Int
    ) throws(CapabilityError) {
        if let expiry = attenuation.expiry {
            guard expiry <= self.expiry else { throw .widened(block: block, what: "expiry") }
            self.expiry = expiry
        }
        if let notBefore = attenuation.notBefore {
            guard notBefore >= self.notBefore else { throw .widened(block: block, what: "start") }
            self.notBefore = notBefore
        }
        guard notBefore < expiry else { throw .malformed("it expires before it becomes valid") }
    }

    private func narrowed(
        _ before: UInt64?, by limit: UInt64?, block: Int, what: String
    ) throws(CapabilityError) -> UInt64? {
        guard let limit else { return before }
        guard limit <= before ?? .max else { throw .widened(block: block, what: what) }
        return limit
    }
}
