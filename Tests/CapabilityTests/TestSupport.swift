import Core
import Foundation
import TLS
import Testing

@testable import Capability

/// A factory whose keys come from a fixed list of seeds, so that tokens come out the same every time.
// SAFETY: the lock guards the only mutable member.
final class SeededKeys: SigningKeyFactory, @unchecked Sendable {
    private let lock = NSLock()
    private var seeds: [[UInt8]]
    private let signatures = OpenSSLSignatures()

    init(_ seeds: [[UInt8]]) { self.seeds = seeds.reversed() }

    func makeKey() -> (seed: [UInt8], signer: any SignatureSigner) {
        lock.withLock {
            guard let seed = seeds.popLast(), let signer = try? signatures.signer(seed: seed) else {
                preconditionFailure("the test asked for more keys than it gave seeds")
            }
            return (seed, signer)
        }
    }

    func signer(seed: [UInt8]) throws(CapabilityError) -> any SignatureSigner {
        try signatures.signer(seed: seed)
    }
}

/// One cluster with its issuer's key, and a claim set that is right in every point.
enum Sample {
    static let cluster = Identifier(high: 0xc1, low: 1)
    static let node = Identifier(high: 0x0d, low: 2)
    static let holder = digest(0x11)
    static let otherHolder = digest(0x22)
    static let keyID: [UInt8] = [7, 7]
    static let issuerSeed = [UInt8](repeating: 0x5e, count: 32)
    static let start: UInt64 = 1_800_000_000
    static let end: UInt64 = 1_800_086_400
    static let now: UInt64 = start + 3_600
    static let signatures = OpenSSLSignatures()

    static func digest(_ byte: UInt8) -> Digest32 {
        let half = Identifier(high: UInt64(byte), low: UInt64(byte))
        return Digest32(first: half, second: half)
    }

    static func issuer() throws -> any SignatureSigner { try signatures.signer(seed: issuerSeed) }

    static func verifier() throws -> CapabilityVerifier {
        CapabilityVerifier(
            issuerKeys: [keyID: try issuer().publicKey], audience: cluster, signatures: signatures)
    }

    static func claims(
        rights: Rights = [.read, .write, .flush], range: ByteRange? = nil, limits: IOLimits = .none,
        delegationDepth: UInt8 = 0
    ) -> Claims {
        Claims(
            issuer: cluster, audience: cluster, capability: Identifier(high: 0xca, low: 3), subject: node,
            issuedAt: start, notBefore: start, expiry: end, holder: holder, kind: .volume,
            resource: Identifier(high: 0xe5, low: 4), rights: rights, range: range, limits: limits,
            resourceEpoch: 1, nodeEpoch: 1, delegationDepth: delegationDepth)
    }

    static func capability(_ claims: Claims = claims()) throws -> Capability {
        try Capability.mint(claims, keyID: keyID, signer: issuer(), keys: signatures)
    }

    static func verify(
        _ capability: Capability, now: UInt64 = now, skew: UInt64 = 30, holder: Digest32 = holder
    ) throws -> EffectiveCapability {
        try verifier().verify(capability, now: now, clockSkewSeconds: skew, holder: holder)
    }
}

/// A byte range that the test knows to be one.
func extent(_ offset: UInt64, _ length: UInt64) -> ByteRange {
    guard let range = ByteRange(offset: offset, length: length) else {
        preconditionFailure("the test's range overflows")
    }
    return range
}

/// `value`, or a failure of the test at the caller's line; where `#require` cannot stand in itself.
func required<Value>(
    _ value: Value?, sourceLocation: SourceLocation = #_sourceLocation
) throws -> Value {
    try #require(value, sourceLocation: sourceLocation)
}
