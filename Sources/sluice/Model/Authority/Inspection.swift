import Capability
import Core

/// What `sluice capability inspect` prints as JSON or YAML: what the token claims, not whether it is genuine.
struct Inspection: Encodable {
    /// One narrowing; a nil member leaves what the blocks before say.
    struct Block: Encodable {
        var rights: [String]?
        var range: RangeModel?
        var limits: LimitsModel?
        var notBefore: String?
        var expiresAt: String?
        var holder: String?
        var delegationDepth: Int?

        init(_ block: Attenuation) {
            rights = block.rights?.names
            range = block.range.map(RangeModel.init)
            limits = block.limits.map(LimitsModel.init)
            notBefore = block.notBefore.map(TimeText.text)
            expiresAt = block.expiry.map(TimeText.text)
            holder = block.holder?.hex
            delegationDepth = block.delegationDepth.map(Int.init)
        }
    }

    var id: String
    var kind: String
    var resourceID: String
    var nodeID: String
    var issuer: String
    var audience: String
    var keyID: String
    var rights: [String]
    var range: RangeModel?
    var limits: LimitsModel
    var issuedAt: String
    var notBefore: String
    var expiresAt: String
    var holder: String
    var delegationDepth: Int
    var resourceEpoch: UInt64
    var nodeEpoch: UInt64
    var attenuations: [Block]
    var isSealed: Bool

    init(_ capability: Capability) {
        let claims = capability.claims
        id = claims.capability.hex
        kind = claims.kind.name
        resourceID = claims.resource.hex
        nodeID = claims.subject.hex
        issuer = claims.issuer.hex
        audience = claims.audience.hex
        keyID = Hex.encode(capability.keyID)
        rights = claims.rights.names
        range = claims.range.map(RangeModel.init)
        limits = LimitsModel(claims.limits)
        issuedAt = TimeText.text(claims.issuedAt)
        notBefore = TimeText.text(claims.notBefore)
        expiresAt = TimeText.text(claims.expiry)
        holder = claims.holder.hex
        delegationDepth = Int(claims.delegationDepth)
        resourceEpoch = claims.resourceEpoch
        nodeEpoch = claims.nodeEpoch
        attenuations = capability.attenuations.map(Block.init)
        isSealed = capability.isSealed
    }
}

/// What `sluice capability attenuate` prints as JSON or YAML.
struct Attenuated: Encodable {
    var token: String
    var isSealed: Bool
}

extension RangeModel {
    init(_ range: ByteRange) {
        self.init(offset: range.offset, length: range.length)
    }
}

extension LimitsModel {
    init(_ limits: IOLimits) {
        self.init(iops: limits.iops, bytesPerSecond: limits.bytesPerSecond)
    }
}
