import Core
import TLS
import Testing

@testable import Capability

@Suite struct CapabilityTests {
    private let keys = OpenSSLSignatures()

    @Test func aMintedCapabilityKeepsItsClaimsThroughTextAndBytes() throws {
        let claims = Sample.claims(
            range: extent(4096, 65_536), limits: IOLimits(iops: 10, bytesPerSecond: 1 << 40),
            delegationDepth: 3)
        let minted = try Sample.capability(claims)
        for copy in [try Capability(text: minted.text), try Capability(bytes: minted.bytes)] {
            var expected = claims
            expected.nextKey = minted.claims.nextKey
            #expect(copy.claims == expected)
            #expect(copy.keyID == Sample.keyID)
            #expect(copy == minted)
            #expect(copy.attenuations.isEmpty && !copy.isSealed)
        }
        #expect(minted.text.hasPrefix("slcap1_"))
    }

    @Test func twoCapabilitiesOfTheSameClaimsHaveDifferentNextKeys() throws {
        #expect(try Sample.capability().claims.nextKey != Sample.capability().claims.nextKey)
    }

    @Test func attenuationsAddUp() throws {
        let capability = try Sample.capability()
            .attenuated(by: Attenuation(rights: [.read, .flush]), keys: keys)
            .attenuated(by: Attenuation(range: extent(0, 4096)), keys: keys)
            .attenuated(by: Attenuation(rights: .read, limits: IOLimits(iops: 5)), keys: keys)
            .sealed(keys: keys)
        let effective = try Sample.verify(capability)
        #expect(effective.rights == .read)
        #expect(effective.range == extent(0, 4096))
        #expect(effective.limits == IOLimits(iops: 5))
        #expect(effective.expiry == Sample.end)
    }

    @Test func anAttenuatedCapabilityHoldsNoEarlierSeed() throws {
        let minted = try Sample.capability()
        let seed = Array(minted.bytes[minted.proof])
        let attenuated = try minted.attenuated(by: Attenuation(rights: .read), keys: keys)
        let sealed = try minted.sealed(keys: keys)
        for other in [attenuated, sealed] {
            let windows = other.bytes.indices.dropLast(seed.count - 1)
            #expect(!windows.contains { other.bytes[$0..<($0 + seed.count)] == seed[...] })
        }
    }

    @Test func attenuatingRefusesToWiden() throws {
        let capability = try Sample.capability(
            Sample.claims(range: extent(100, 100), limits: IOLimits(iops: 10, bytesPerSecond: 10)))
        let widenings: [(Attenuation, String)] = [
            (Attenuation(rights: [.read, .resize]), "rights"),
            (Attenuation(range: extent(99, 10)), "byte range"),
            (Attenuation(range: extent(150, 51)), "byte range"),
            (Attenuation(expiry: Sample.end + 1), "expiry"),
            (Attenuation(notBefore: Sample.start - 1), "start"),
            (Attenuation(limits: IOLimits(iops: 11)), "operations per second"),
            (Attenuation(limits: IOLimits(bytesPerSecond: 11)), "bytes per second"),
            (Attenuation(delegationDepth: 1), "delegation depth"),
        ]
        for (attenuation, what) in widenings {
            #expect(throws: CapabilityError.widened(block: 1, what: what)) {
                try capability.attenuated(by: attenuation, keys: keys)
            }
        }
    }

    @Test func attenuatingRefusesWhatNoBlockMaySay() throws {
        let capability = try Sample.capability(Sample.claims(delegationDepth: 16))
        let nonsense = [
            Attenuation(), Attenuation(rights: []), Attenuation(rights: Rights(rawValue: 1 << 31)),
            Attenuation(range: extent(5, 0)), Attenuation(limits: IOLimits.none),
            Attenuation(limits: IOLimits(iops: 0)), Attenuation(expiry: Sample.start),
            Attenuation(notBefore: Sample.end), Attenuation(delegationDepth: 17),
        ]
        for attenuation in nonsense {
            let error = #expect(throws: CapabilityError.self) {
                try capability.attenuated(by: attenuation, keys: keys)
            }
            #expect(error?.name == "malformed", "\(attenuation)")
        }
    }

    @Test func handingOnUsesUpTheDelegationDepth() throws {
        let capability = try Sample.capability(Sample.claims(delegationDepth: 1))
        let handed = try capability.attenuated(by: Attenuation(holder: Sample.otherHolder), keys: keys)
        #expect(try Sample.verify(handed, holder: Sample.otherHolder).delegationDepth == 0)
        #expect(throws: CapabilityError.wrongHolder) { try Sample.verify(handed) }
        #expect(throws: CapabilityError.delegationExhausted) {
            try handed.attenuated(by: Attenuation(holder: Sample.holder), keys: keys)
        }
        let givenUp = try capability.attenuated(by: Attenuation(delegationDepth: 0), keys: keys)
        #expect(throws: CapabilityError.delegationExhausted) {
            try givenUp.attenuated(by: Attenuation(holder: Sample.otherHolder), keys: keys)
        }
    }

    @Test func aSealedCapabilityCanNeitherBeAttenuatedNorSealedAgain() throws {
        let sealed = try Sample.capability().sealed(keys: keys)
        #expect(sealed.isSealed)
        #expect(throws: CapabilityError.sealed) {
            try sealed.attenuated(by: Attenuation(rights: .read), keys: keys)
        }
        #expect(throws: CapabilityError.sealed) { try sealed.sealed(keys: keys) }
    }

    @Test func sixteenAttenuationsFitAndTheSeventeenthDoesNot() throws {
        var capability = try Sample.capability(
            Sample.claims(range: extent(0, .max), limits: IOLimits(iops: .max, bytesPerSecond: .max)))
        for index in 1...UInt64(Limits.attenuationBlocksMax) {
            capability = try capability.attenuated(
                by: Attenuation(
                    rights: [.read, .write], range: extent(index, .max - 2 * index),
                    expiry: Sample.end - index,
                    notBefore: Sample.start + index,
                    limits: IOLimits(iops: .max - index, bytesPerSecond: .max - index), delegationDepth: 0),
                keys: keys)
        }
        #expect(capability.bytes.count < Limits.capabilityBytesMax)
        #expect(try Sample.verify(capability).range == extent(16, .max - 32))
        #expect(throws: CapabilityError.tooLarge) {
            try capability.attenuated(by: Attenuation(rights: .read), keys: keys)
        }
    }

    @Test func mintingRefusesWhatNoCapabilityMaySay() throws {
        var cases: [Claims] = []
        func add(_ change: (inout Claims) -> Void) {
            var claims = Sample.claims()
            change(&claims)
            cases.append(claims)
        }
        add { $0.rights = [] }
        add { $0.rights = Rights(rawValue: 1 << 10) }
        add { $0.expiry = $0.notBefore }
        add { $0.delegationDepth = 17 }
        add { $0.range = extent(0, 0) }
        add { $0.limits = IOLimits(bytesPerSecond: 0) }
        add {
            $0.kind = .endpoint
            $0.range = extent(0, 1)
        }
        for claims in cases {
            let error = #expect(throws: CapabilityError.self) { try Sample.capability(claims) }
            #expect(error?.name == "malformed", "\(claims)")
        }
        for keyID in [[], [UInt8](repeating: 1, count: 33)] {
            #expect(throws: CapabilityError.self) {
                try Capability.mint(Sample.claims(), keyID: keyID, signer: Sample.issuer(), keys: keys)
            }
        }
    }

    @Test func aCapabilityWithAForeignSeedCannotBeAttenuatedOrSealed() throws {
        var bytes = try Sample.capability().bytes
        bytes[bytes.count - 1] ^= 1
        let broken = try Capability(bytes: bytes)
        #expect(throws: CapabilityError.badProof) { try broken.sealed(keys: keys) }
        #expect(throws: CapabilityError.badProof) {
            try broken.attenuated(by: Attenuation(rights: .read), keys: keys)
        }
    }

    @Test func describingOrDumpingShowsNoSecret() throws {
        let capability = try Sample.capability()
        var dumped = ""
        dump([capability], to: &dumped)
        let shown = "\(capability) \(String(reflecting: capability)) \(dumped)"
        let seed = Array(capability.bytes[capability.proof])
        #expect(!shown.contains(Hex.encode(seed)) && !shown.contains(Base64URL.encode(capability.bytes)))
        #expect(!shown.contains("\(seed[0]), \(seed[1])") && !shown.contains("bytes"))
        #expect(shown.contains(capability.id.hex))
    }
}
