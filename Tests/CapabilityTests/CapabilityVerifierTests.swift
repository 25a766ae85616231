import Core
import TLS
import Testing

@testable import Capability

@Suite struct CapabilityVerifierTests {
    private let keys = OpenSSLSignatures()

    @Test func becomesValidAndExpiresOnTheSecond() throws {
        let capability = try Sample.capability()
        #expect(throws: CapabilityError.notYetValid(at: Sample.start)) {
            try Sample.verify(capability, now: Sample.start - 1, skew: 0)
        }
        _ = try Sample.verify(capability, now: Sample.start, skew: 0)
        _ = try Sample.verify(capability, now: Sample.end - 1, skew: 0)
        #expect(throws: CapabilityError.expired(at: Sample.end)) {
            try Sample.verify(capability, now: Sample.end, skew: 0)
        }
    }

    @Test func clockSkewIsForTheStartOnlyAndNeverWraps() throws {
        let capability = try Sample.capability()
        _ = try Sample.verify(capability, now: Sample.start - 30)
        _ = try Sample.verify(capability, now: Sample.end - 1)
        #expect(throws: CapabilityError.notYetValid(at: Sample.start)) {
            try Sample.verify(capability, now: Sample.start - 31)
        }
        #expect(throws: CapabilityError.expired(at: Sample.end)) {
            try Sample.verify(capability, now: Sample.end)
        }
        #expect(throws: CapabilityError.expired(at: Sample.end)) {
            try Sample.verify(capability, now: .max, skew: .max)
        }
        _ = try Sample.verify(capability, now: 0, skew: .max)
    }

    @Test func anAttenuationMovesStartAndEnd() throws {
        let capability = try Sample.capability().attenuated(
            by: Attenuation(expiry: Sample.start + 100, notBefore: Sample.start + 50), keys: keys)
        _ = try Sample.verify(capability, now: Sample.start + 60, skew: 0)
        #expect(throws: CapabilityError.notYetValid(at: Sample.start + 50)) {
            try Sample.verify(capability, now: Sample.start + 49, skew: 0)
        }
        #expect(throws: CapabilityError.expired(at: Sample.start + 100)) {
            try Sample.verify(capability, now: Sample.start + 100, skew: 0)
        }
    }

    @Test func refusesAnotherAudienceHolderAndKey() throws {
        let capability = try Sample.capability()
        let elsewhere = CapabilityVerifier(
            issuerKeys: [Sample.keyID: try Sample.issuer().publicKey], audience: Sample.node,
            signatures: keys)
        #expect(throws: CapabilityError.wrongAudience) {
            try elsewhere.verify(
                capability, now: Sample.now, clockSkewSeconds: 0, holder: Sample.holder)
        }
        #expect(throws: CapabilityError.wrongHolder) {
            try Sample.verify(capability, holder: Sample.otherHolder)
        }
        let rotated = CapabilityVerifier(
            issuerKeys: [[1]: try Sample.issuer().publicKey], audience: Sample.cluster, signatures: keys)
        #expect(throws: CapabilityError.unknownKey) {
            try rotated.verify(
                capability, now: Sample.now, clockSkewSeconds: 0, holder: Sample.holder)
        }
        let replaced = CapabilityVerifier(
            issuerKeys: [Sample.keyID: capability.claims.nextKey], audience: Sample.cluster,
            signatures: keys)
        #expect(throws: CapabilityError.badSignature(block: 0)) {
            try replaced.verify(
                capability, now: Sample.now, clockSkewSeconds: 0, holder: Sample.holder)
        }
    }

    @Test func oldAndNewKeyBothVerifyDuringARotation() throws {
        let fresh = keys.makeKey().signer
        let verifier = CapabilityVerifier(
            issuerKeys: [Sample.keyID: try Sample.issuer().publicKey, [8]: fresh.publicKey],
            audience: Sample.cluster, signatures: keys)
        let old = try Sample.capability()
        let new = try Capability.mint(Sample.claims(), keyID: [8], signer: fresh, keys: keys)
        for capability in [old, new] {
            _ = try verifier.verify(
                capability, now: Sample.now, clockSkewSeconds: 0, holder: Sample.holder)
        }
    }

    @Test func aTokenThatSomebodyElseSignedIsRefusedBeforeItsClaimsAreBelieved() throws {
        var claims = Sample.claims()
        claims.expiry = Sample.start + 1
        let forged = try Capability.mint(
            claims, keyID: Sample.keyID, signer: keys.makeKey().signer, keys: keys)
        #expect(throws: CapabilityError.badSignature(block: 0)) {
            try Sample.verify(forged, holder: Sample.otherHolder)
        }
    }
}
