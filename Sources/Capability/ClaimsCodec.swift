import Core

/// The map keys of a capability's payloads: registered CWT claims, and Sluice's own in the range that
/// RFC 8392 §9.1 leaves for private use (below -65536).
enum ClaimKey {
    static let issuer: Int64 = 1
    static let subject: Int64 = 2
    static let audience: Int64 = 3
    static let expiry: Int64 = 4
    static let notBefore: Int64 = 5
    static let issuedAt: Int64 = 6
    static let capability: Int64 = 7
    static let confirmation: Int64 = 8
    static let kind: Int64 = -65537
    static let resource: Int64 = -65538
    static let rights: Int64 = -65539
    static let range: Int64 = -65540
    static let limits: Int64 = -65541
    static let resourceEpoch: Int64 = -65542
    static let nodeEpoch: Int64 = -65543
    static let delegationDepth: Int64 = -65544
    static let nextKey: Int64 = -65545

    /// The member of `cnf` that names a key by id (RFC 8747 §3.4); here the id is the key's thumbprint.
    static let confirmationKeyID: Int64 = 3
    /// The members of the limits claim.
    static let limitIOPS: Int64 = 1
    static let limitBytesPerSecond: Int64 = 2
}

extension Claims {
    /// The payload of an authority block.
    func encoded() -> [UInt8] {
        var map = CBORMapWriter()
        map.put(ClaimKey.issuer) { $0.text(issuer.hex) }
        map.put(ClaimKey.subject) { $0.text(subject.hex) }
        map.put(ClaimKey.audience) { $0.text(audience.hex) }
        map.put(ClaimKey.expiry) { $0.unsigned(expiry) }
        map.put(ClaimKey.notBefore) { $0.unsigned(notBefore) }
        map.put(ClaimKey.issuedAt) { $0.unsigned(issuedAt) }
        map.put(ClaimKey.capability) { $0.byteString(capability.bytes) }
        map.put(ClaimKey.confirmation) { $0.confirmation(holder) }
        map.put(ClaimKey.kind) { $0.unsigned(UInt64(kind.rawValue)) }
        map.put(ClaimKey.resource) { $0.byteString(resource.bytes) }
        map.put(ClaimKey.rights) { $0.unsigned(UInt64(rights.rawValue)) }
        if let range { map.put(ClaimKey.range) { $0.range(range) } }
        if limits != .none { map.put(ClaimKey.limits) { $0.limits(limits) } }
        map.put(ClaimKey.resourceEpoch) { $0.unsigned(resourceEpoch) }
        map.put(ClaimKey.nodeEpoch) { $0.unsigned(nodeEpoch) }
        map.put(ClaimKey.delegationDepth) { $0.unsigned(UInt64(delegationDepth)) }
        map.put(ClaimKey.nextKey) { $0.byteString(nextKey) }
        var writer = CBORWriter(capacity: 320)
        writer.map(map)
        return writer.bytes
    }

    /// Reads the payload of an authority block.
    init(from source: [UInt8], range payload: Range<Int>) throws(CapabilityError) {
        var reader = CBORReader(source, range: payload)
        var found = FoundClaims()
        try found.read(&reader)
        guard let issuer = found.issuer, let audience = found.audience, let subject = found.subject,
            let capability = found.capability, let issuedAt = found.issuedAt,
            let notBefore = found.notBefore, let expiry = found.expiry, let holder = found.holder,
            let kind = found.kind, let resource = found.resource, let rights = found.rights,
            let resourceEpoch = found.resourceEpoch, let nodeEpoch = found.nodeEpoch,
            let delegationDepth = found.delegationDepth, let nextKey = found.nextKey
        else { throw .malformed("a claim is missing from the issuer's block") }
        self.init(
            issuer: issuer, audience: audience, capability: capability, subject: subject,
            issuedAt: issuedAt, notBefore: notBefore, expiry: expiry, holder: holder, kind: kind,
            resource: resource, rights: rights, range: found.range, limits: found.limits ?? .none,
            resourceEpoch: resourceEpoch, nodeEpoch: nodeEpoch, delegationDepth: delegationDepth,
            nextKey: nextKey)
        try validate()
    }
}

extension Attenuation {
    /// The payload of an attenuation block.
    func encoded() -> [UInt8] {
        var map = CBORMapWriter()
        if let expiry { map.put(ClaimKey.expiry) { $0.unsigned(expiry) } }
        if let notBefore { map.put(ClaimKey.notBefore) { $0.unsigned(notBefore) } }
        if let holder { map.put(ClaimKey.confirmation) { $0.confirmation(holder) } }
        if let rights { map.put(ClaimKey.rights) { $0.unsigned(UInt64(rights.rawValue)) } }
        if let range { map.put(ClaimKey.range) { $0.range(range) } }
        if let limits { map.put(ClaimKey.limits) { $0.limits(limits) } }
        if let delegationDepth {
            map.put(ClaimKey.delegationDepth) { $0.unsigned(UInt64(delegationDepth)) }
        }
        map.put(ClaimKey.nextKey) { $0.byteString(nextKey) }
        var writer = CBORWriter(capacity: 160)
        writer.map(map)
        return writer.bytes
    }

    /// Reads the payload of an attenuation block.
    init(from source: [UInt8], range payload: Range<Int>) throws(CapabilityError) {
        var reader = CBORReader(source, range: payload)
        var found = FoundClaims()
        try found.read(&reader)
        guard let nextKey = found.nextKey else { throw .malformed("an attenuation names no next key") }
        guard
            found.issuer == nil, found.audience == nil, found.subject == nil, found.capability == nil,
            found.issuedAt == nil, found.kind == nil, found.resource == nil,
            found.resourceEpoch == nil, found.nodeEpoch == nil
        else { throw .malformed("an attenuation states a claim that only the issuer may state") }
        self.init(
            rights: found.rights, range: found.range, expiry: found.expiry, notBefore: found.notBefore,
            limits: found.limits, holder: found.holder, delegationDepth: found.delegationDepth)
        self.nextKey = nextKey
        try validate()
    }
}

/// The claims that a payload states, before it is known which it must state.
private struct FoundClaims {
    var issuer: Identifier?
    var subject: Identifier?
    var audience: Identifier?
    var expiry: UInt64?
    var notBefore: UInt64?
    var issuedAt: UInt64?
    var capability: Identifier?
    var holder: Digest32?
    var kind: ResourceKind?
    var resource: Identifier?
    var rights: Rights?
    var range: ByteRange?
    var limits: IOLimits?
    var resourceEpoch: UInt64?
    var nodeEpoch: UInt64?
    var delegationDepth: UInt8?
    var nextKey: [UInt8]?

    /// A claim that is not known is refused: it could be a restriction.
    mutating func read(_ reader: inout CBORReader) throws(CapabilityError) {
        var map = try reader.openMap()
        while let key = try reader.nextKey(&map) {
            switch key {
            case ClaimKey.issuer: issuer = try reader.identifierText()
            case ClaimKey.subject: subject = try reader.identifierText()
            case ClaimKey.audience: audience = try reader.identifierText()
            case ClaimKey.expiry: expiry = try reader.unsigned()
            case ClaimKey.notBefore: notBefore = try reader.unsigned()
            case ClaimKey.issuedAt: issuedAt = try reader.unsigned()
            case ClaimKey.capability: capability = try reader.identifier()
            case ClaimKey.confirmation: holder = try reader.confirmation()
            case ClaimKey.kind: kind = try reader.kind()
            case ClaimKey.resource: resource = try reader.identifier()
            case ClaimKey.rights: rights = try reader.rights()
            case ClaimKey.range: range = try reader.range()
            case ClaimKey.limits: limits = try reader.limits()
            case ClaimKey.resourceEpoch: resourceEpoch = try reader.unsigned()
            case ClaimKey.nodeEpoch: nodeEpoch = try reader.unsigned()
            case ClaimKey.delegationDepth: delegationDepth = try reader.small("a delegation depth")
            case ClaimKey.nextKey:
                nextKey = Array(reader.source[try reader.byteString(count: Ed25519Size.publicKey)])
            default: throw .malformed("it states a claim (\(key)) that this version does not know")
            }
        }
        try reader.finish()
    }
}

extension CBORWriter {
    fileprivate mutating func confirmation(_ holder: Digest32) {
        var map = CBORMapWriter()
        map.put(ClaimKey.confirmationKeyID) { $0.byteString(holder.bytes) }
        self.map(map)
    }

    fileprivate mutating func range(_ range: ByteRange) {
        array(count: 2)
        unsigned(range.offset)
        unsigned(range.length)
    }

    fileprivate mutating func limits(_ limits: IOLimits) {
        var map = CBORMapWriter()
        if let iops = limits.iops { map.put(ClaimKey.limitIOPS) { $0.unsigned(iops) } }
        if let rate = limits.bytesPerSecond { map.put(ClaimKey.limitBytesPerSecond) { $0.unsigned(rate) } }
        self.map(map)
    }
}

extension CBORReader {
    fileprivate mutating func small(_ what: StaticString) throws(CapabilityError) -> UInt8 {
        guard let value = UInt8(exactly: try unsigned()) else { throw .malformed("\(what) is too large") }
        return value
    }

    fileprivate mutating func identifier() throws(CapabilityError) -> Identifier {
        guard let value = Identifier(bytes: source[try byteString()]) else {
            throw .malformed("an identifier is not \(Identifier.byteCount) bytes long")
        }
        return value
    }

    /// An identifier as 32 lower-case hex digits; upper case would be a second spelling of the same token.
    fileprivate mutating func identifierText() throws(CapabilityError) -> Identifier {
        let digits = source[try text()]
        guard digits.count == 2 * Identifier.byteCount else {
            throw .malformed("an identifier is not \(2 * Identifier.byteCount) digits long")
        }
        var words: (UInt64, UInt64) = (0, 0)
        for digit in digits {
            let value: UInt8
            switch digit {
            case UInt8(ascii: "0")...UInt8(ascii: "9"): value = digit - UInt8(ascii: "0")
            case UInt8(ascii: "a")...UInt8(ascii: "f"): value = digit - UInt8(ascii: "a") + 10
            default: throw .malformed("an identifier is not in lower-case hex digits")
            }
            words = (words.0 << 4 | words.1 >> 60, words.1 << 4 | UInt64(value))
        }
        return Identifier(high: words.0, low: words.1)
    }

    fileprivate mutating func confirmation() throws(CapabilityError) -> Digest32 {
        var map = try openMap()
        guard try nextKey(&map) == ClaimKey.confirmationKeyID,
            let holder = Digest32(bytes: source[try byteString()]), try nextKey(&map) == nil
        else { throw .malformed("its holder is not named by one SHA-256 thumbprint") }
        return holder
    }

    fileprivate mutating func kind() throws(CapabilityError) -> ResourceKind {
        guard let kind = ResourceKind(rawValue: try small("a resource kind")) else {
            throw .malformed("its resource kind is unknown")
        }
        return kind
    }

    fileprivate mutating func rights() throws(CapabilityError) -> Rights {
        guard let bits = UInt32(exactly: try unsigned()) else {
            throw .malformed("its rights are empty or unknown")
        }
        return Rights(rawValue: bits)
    }

    fileprivate mutating func range() throws(CapabilityError) -> ByteRange {
        guard try openArray() == 2 else { throw .malformed("a byte range is not [offset, length]") }
        guard let range = ByteRange(offset: try unsigned(), length: try unsigned()) else {
            throw .malformed("its byte range overflows")
        }
        closeArray()
        return range
    }

    fileprivate mutating func limits() throws(CapabilityError) -> IOLimits {
        var limits = IOLimits.none
        var map = try openMap()
        while let key = try nextKey(&map) {
            switch key {
            case ClaimKey.limitIOPS: limits.iops = try unsigned()
            case ClaimKey.limitBytesPerSecond: limits.bytesPerSecond = try unsigned()
            default: throw .malformed("it states a limit (\(key)) that this version does not know")
            }
        }
        guard limits != .none else { throw .malformed("it sets limits without a limit") }
        return limits
    }
}
