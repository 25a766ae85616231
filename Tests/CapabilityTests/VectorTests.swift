import Capability
import Core
import Foundation
import TLS
import Testing

/// The files in API/vectors/capability, as API/capability.md §10 describes them.
struct VectorFile: Decodable {
    struct Vector: Decodable {
        let name: String
        let token: String
        let check: Check
        let grants: Grants?
        let madeFrom: Recipe?
        let refused: String?
        let block: Int?
    }

    struct Check: Decodable {
        let audience: String
        let issuerKeys: [String: String]
        let now: Number
        let skew: Number
        let holder: String
    }

    struct Grants: Decodable {
        let id, subject, holder, kind, resource: String
        let rights: [String]
        let range: [Number]?
        let iops, bytesPerSecond: Number?
        let notBefore, expiry, resourceEpoch, nodeEpoch: Number
        let delegationDepth: UInt8
    }

    struct Recipe: Decodable {
        let keyID, issuerSeed: String
        let claims: Block
        let attenuations: [Block]
        let seeds: [String]
        let sealed: Bool

        enum CodingKeys: String, CodingKey {
            case keyID = "keyId"
            case issuerSeed, claims, attenuations, seeds, sealed
        }
    }

    struct Block: Decodable {
        let id, issuer, audience, subject, holder, kind, resource: String?
        let rights: [String]?
        let range: [Number]?
        let limits: Limits?
        let issuedAt, notBefore, expiry, resourceEpoch, nodeEpoch: Number?
        let delegationDepth: UInt8?
    }

    struct Limits: Decodable { let iops, bytesPerSecond: Number? }

    /// An unsigned integer, written as a number or, above 2^53, as text.
    struct Number: Decodable, Equatable {
        let value: UInt64

        init(from decoder: any Decoder) throws {
            let container = try decoder.singleValueContainer()
            if let number = try? container.decode(UInt64.self) {
                value = number
            } else {
                value = try required(UInt64(try container.decode(String.self)))
            }
        }
    }

    let vectors: [Vector]

    init(named name: String) throws {
        let source = URL(fileURLWithPath: #filePath).resolvingSymlinksInPath()
        let root = source.deletingLastPathComponent().deletingLastPathComponent().deletingLastPathComponent()
        let file = root.appendingPathComponent("API/vectors/capability/\(name)")
        let decoder = JSONDecoder()
        decoder.keyDecodingStrategy = .convertFromSnakeCase
        struct Document: Decodable { let vectors: [Vector] }
        vectors = try decoder.decode(Document.self, from: Data(contentsOf: file)).vectors
    }
}

extension VectorFile.Vector {
    func verify() throws -> EffectiveCapability {
        let keys = try check.issuerKeys.map { name, key in
            (try required(Hex.decode(name)), try required(Hex.decode(key)))
        }
        let verifier = CapabilityVerifier(
            issuerKeys: Dictionary(uniqueKeysWithValues: keys),
            audience: try required(Identifier(hex: check.audience)), signatures: OpenSSLSignatures())
        return try verifier.verify(
            Capability(text: token), now: check.now.value, clockSkewSeconds: check.skew.value,
            holder: try required(Digest32(hex: check.holder)))
    }
}

extension VectorFile.Block {
    var byteRange: ByteRange? {
        range.flatMap { ByteRange(offset: $0[0].value, length: $0[1].value) }
    }

    var ioLimits: IOLimits? {
        limits.map { IOLimits(iops: $0.iops?.value, bytesPerSecond: $0.bytesPerSecond?.value) }
    }

    func claims() throws -> Claims {
        func identifier(_ hex: String?) throws -> Identifier {
            try required(Identifier(hex: try required(hex)))
        }
        return Claims(
            issuer: try identifier(issuer), audience: try identifier(audience),
            capability: try identifier(id), subject: try identifier(subject),
            issuedAt: try required(issuedAt).value, notBefore: try required(notBefore).value,
            expiry: try required(expiry).value, holder: try required(Digest32(hex: try required(holder))),
            kind: try required(ResourceKind(name: try required(kind))), resource: try identifier(resource),
            rights: try required(Rights(names: try required(rights))), range: byteRange,
            limits: ioLimits ?? .none, resourceEpoch: try required(resourceEpoch).value,
            nodeEpoch: try required(nodeEpoch).value, delegationDepth: try required(delegationDepth))
    }

    func attenuation() throws -> Attenuation {
        Attenuation(
            rights: try rights.map { try required(Rights(names: $0)) }, range: byteRange,
            expiry: expiry?.value, notBefore: notBefore?.value, limits: ioLimits,
            holder: try holder.map { try required(Digest32(hex: $0)) }, delegationDepth: delegationDepth)
    }
}

@Suite struct VectorTests {
    @Test func acceptsEveryValidVectorAndGrantsWhatItSays() throws {
        let vectors = try VectorFile(named: "valid.json").vectors
        #expect(vectors.count >= 34)
        for vector in vectors {
            let granted = try vector.verify()
            let wanted = try required(vector.grants)
            let name = Comment(rawValue: vector.name)
            #expect(granted.id.hex == wanted.id, name)
            #expect(granted.subject.hex == wanted.subject, name)
            #expect(granted.holder.hex == wanted.holder, name)
            #expect(granted.kind.name == wanted.kind, name)
            #expect(granted.resource.hex == wanted.resource, name)
            #expect(granted.rights.names == wanted.rights, name)
            #expect(granted.range.map { [$0.offset, $0.length] } == wanted.range?.map(\.value), name)
            #expect(granted.limits.iops == wanted.iops?.value, name)
            #expect(granted.limits.bytesPerSecond == wanted.bytesPerSecond?.value, name)
            #expect(granted.notBefore == wanted.notBefore.value, name)
            #expect(granted.expiry == wanted.expiry.value, name)
            #expect(granted.resourceEpoch == wanted.resourceEpoch.value, name)
            #expect(granted.nodeEpoch == wanted.nodeEpoch.value, name)
            #expect(granted.delegationDepth == wanted.delegationDepth, name)
        }
    }

    @Test func mintsEveryValidVectorByteForByte() throws {
        for vector in try VectorFile(named: "valid.json").vectors {
            let recipe = try required(vector.madeFrom)
            let keys = SeededKeys(try recipe.seeds.map { try required(Hex.decode($0)) })
            var capability = try Capability.mint(
                try recipe.claims.claims(), keyID: try required(Hex.decode(recipe.keyID)),
                signer: keys.signer(seed: try required(Hex.decode(recipe.issuerSeed))), keys: keys)
            for block in recipe.attenuations {
                capability = try capability.attenuated(by: block.attenuation(), keys: keys)
            }
            if recipe.sealed { capability = try capability.sealed(keys: keys) }
            #expect(capability.text == vector.token, Comment(rawValue: vector.name))
            #expect(try Capability(text: vector.token) == capability)
        }
    }

    @Test func refusesEveryInvalidVectorForItsReason() throws {
        let vectors = try VectorFile(named: "invalid.json").vectors
        #expect(vectors.count >= 186)
        for vector in vectors {
            let error = #expect(throws: CapabilityError.self, Comment(rawValue: vector.name)) {
                _ = try vector.verify()
            }
            #expect(error?.name == vector.refused, "\(vector.name): \(error.map(String.init) ?? "")")
            switch error {
            case .badSignature(let block), .widened(let block, _):
                #expect(block == vector.block, Comment(rawValue: vector.name))
            default: #expect(vector.block == nil, Comment(rawValue: vector.name))
            }
        }
    }
}
