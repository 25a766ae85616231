import Core
import Simulation
import TLS
import Testing

@testable import Capability

/// Seeded fuzzing: a failure names the seed and round that repeat it.
@Suite struct CapabilityFuzzTests {
    private let keys = OpenSSLSignatures()

    /// Tokens that share no key, so that no splice of two of them can be a third valid one.
    private func corpus(_ generator: inout SplitMix) throws -> [Capability] {
        let issuer = try Sample.issuer()
        var tokens: [Capability] = []
        for index in 0..<24 {
            let source = SeededKeys((0..<8).map { _ in generator.bytes(32) })
            var claims = Sample.claims(
                range: index % 2 == 0 ? nil : extent(4096, 1 << 30),
                limits: index % 3 == 0 ? .none : IOLimits(iops: 1_000),
                delegationDepth: UInt8(index % 4))
            claims.capability = Identifier(high: 1, low: UInt64(index))
            var token = try Capability.mint(claims, keyID: Sample.keyID, signer: issuer, keys: source)
            for step in 0..<(index % 5) {
                token = try token.attenuated(
                    by: Attenuation(rights: [.read], expiry: Sample.end - UInt64(step)), keys: source)
            }
            tokens.append(index % 2 == 0 ? token : try token.sealed(keys: source))
        }
        return tokens
    }

    private func mutated(
        _ original: [UInt8], other: [UInt8], using generator: inout SplitMix
    ) -> [UInt8] {
        var bytes = original
        for _ in 0..<Int.random(in: 1...3, using: &generator) where !bytes.isEmpty {
            let position = Int.random(in: 0..<bytes.count, using: &generator)
            let length = Int.random(in: 1...min(80, bytes.count - position), using: &generator)
            let slice = position..<(position + length)
            switch Int.random(in: 0..<9, using: &generator) {
            case 0, 1: bytes[position] ^= 1 << UInt8.random(in: 0..<8, using: &generator)
            case 2: bytes[position] = UInt8.random(in: 0...255, using: &generator)
            case 3: bytes.removeSubrange(slice)
            case 4: bytes.insert(contentsOf: bytes[slice], at: position)
            case 5: bytes.insert(contentsOf: generator.bytes(min(length, 9)), at: position)
            case 6: bytes.removeSubrange(position...)
            case 7:
                let start = Int.random(in: 0..<other.count, using: &generator)
                let end = min(other.count, start + length)
                bytes.replaceSubrange(
                    position..<min(bytes.count, position + end - start), with: other[start..<end])
            default:
                let edges: [UInt8] = [0x00, 0x17, 0x18, 0x1b, 0x5f, 0x7f, 0x80, 0x9f, 0xa0, 0xbf, 0xf6, 0xff]
                bytes[position] = edges.randomElement(using: &generator) ?? 0
            }
        }
        return bytes
    }

    /// What is read must have one spelling only: its claims written anew are the same bytes.
    private func checkSpelling(_ capability: Capability, _ place: Comment) throws {
        for (index, block) in capability.blocks.enumerated() {
            let written =
                index == 0 ? capability.claims.encoded() : capability.attenuations[index - 1].encoded()
            #expect(written[...] == capability.bytes[block.payload], place)
        }
        #expect(try Capability(text: capability.text) == capability, place)
        #expect(!capability.explained(now: Sample.now).isEmpty, place)
    }

    @Test func mutatedTokensAreNeverAcceptedAndNeverCrash() throws {
        let seed: UInt64 = 20_260
        var generator = SplitMix(seed: seed)
        let tokens = try corpus(&generator)
        let genuine = Set(tokens.map(\.bytes))
        for token in tokens { _ = try Sample.verify(token) }
        var parsed = 0
        for round in 0..<40_000 * Fuzzer.factor {
            guard let token = tokens.randomElement(using: &generator),
                let other = tokens.randomElement(using: &generator)
            else { continue }
            let bytes = mutated(token.bytes, other: other.bytes, using: &generator)
            if genuine.contains(bytes) { continue }
            guard let capability = try? Capability(bytes: bytes) else { continue }
            parsed += 1
            let place: Comment = "seed \(seed), round \(round)"
            try checkSpelling(capability, place)
            #expect(throws: CapabilityError.self, place) { try Sample.verify(capability) }
        }
        #expect(parsed > 2_000, "the mutations are too wild to reach the signature checks")
    }

    @Test func mutatedTextsAreNeverAcceptedAndNeverCrash() throws {
        let seed: UInt64 = 7
        var generator = SplitMix(seed: seed)
        let files = try ["valid.json", "invalid.json"].map { try VectorFile(named: $0).vectors }
        let genuine = Set(files[0].map(\.token))
        let texts = files.joined().map { Array($0.token.utf8) }.filter { !$0.isEmpty }
        for round in 0..<10_000 * Fuzzer.factor {
            guard let text = texts.randomElement(using: &generator) else { continue }
            let bytes = mutated(text, other: text, using: &generator)
            let changed = String(decoding: bytes, as: UTF8.self)
            if genuine.contains(changed) { continue }
            guard let capability = try? Capability(text: changed) else { continue }
            let verifier = CapabilityVerifier(
                issuerKeys: [capability.keyID: try Sample.issuer().publicKey],
                audience: capability.claims.audience, signatures: keys)
            #expect(throws: CapabilityError.self, "seed \(seed), round \(round)") {
                try verifier.verify(
                    capability, now: capability.claims.notBefore, clockSkewSeconds: .max,
                    holder: capability.attenuations.last?.holder ?? capability.claims.holder)
            }
        }
    }

    /// Payloads are mutated and then signed rightly, so that what lies behind the signatures is reached.
    @Test func mutatedPayloadsWithRightSignaturesNeverGrantMoreThanTheIssuerGave() throws {
        let seed: UInt64 = 99
        var generator = SplitMix(seed: seed)
        let tokens = try corpus(&generator).filter { !$0.isSealed }
        let factory = SeededKeys([])
        var accepted = 0
        var refused = 0
        for round in 0..<10_000 * Fuzzer.factor {
            guard let token = tokens.randomElement(using: &generator) else { continue }
            let seeds = Array(token.bytes[token.proof])
            let base = generator.next() % 2 == 0 ? token.claims.encoded() : Attenuation.sampleBytes(token)
            var payload = mutated(base, other: token.bytes, using: &generator)
            if generator.next() % 8 == 0 { payload = base }
            let signer = try factory.signer(seed: seeds)
            let last = token.blocks[token.blocks.count - 1].signature
            let signature = try signer.sign(
                SignedMessage.attenuation(previous: token.bytes[last], payload: payload))
            guard let child = try? token.appending(payload: payload, signature: signature) else {
                refused += 1
                continue
            }
            let place: Comment = "seed \(seed), round \(round)"
            try checkSpelling(child, place)
            let before = try EffectiveCapability(narrowing: token)
            guard let after = try? EffectiveCapability(narrowing: child) else {
                refused += 1
                continue
            }
            accepted += 1
            #expect(after.rights.isSubset(of: before.rights), place)
            #expect(after.expiry <= before.expiry && after.notBefore >= before.notBefore, place)
            #expect(after.delegationDepth <= before.delegationDepth, place)
            #expect(after.holder == before.holder || after.delegationDepth < before.delegationDepth, place)
            #expect((after.limits.iops ?? .max) <= (before.limits.iops ?? .max), place)
            if let range = before.range {
                #expect(after.range.map { range.contains($0) } == true, place)
            }
        }
        #expect(accepted > 200 && refused > 200)
    }
}

extension Attenuation {
    /// A payload that narrows every claim of `token`, with the token's own next key.
    fileprivate static func sampleBytes(_ token: Capability) -> [UInt8] {
        var attenuation = Attenuation(
            rights: .read, range: extent(8192, 4096), expiry: Sample.start + 7_200,
            notBefore: Sample.start + 1, limits: IOLimits(iops: 10, bytesPerSecond: 10),
            holder: token.claims.delegationDepth > 0 ? Sample.otherHolder : nil, delegationDepth: 0)
        attenuation.nextKey = token.claims.nextKey
        return attenuation.encoded()
    }
}

extension Capability {
    /// This token with a block that nobody checked, and its own proof.
    fileprivate func appending(payload: [UInt8], signature: [UInt8]) throws -> Capability {
        var writer = CBORWriter()
        writer.array(count: 3)
        writer.unsigned(1)
        writer.array(count: blocks.count + 1)
        for block in blocks {
            SignedBlock.write(
                into: &writer, header: Array(bytes[block.protected]), payload: Array(bytes[block.payload]),
                signature: Array(bytes[block.signature]))
        }
        SignedBlock.write(
            into: &writer, header: SignedBlock.plainHeader, payload: payload, signature: signature)
        writer.array(count: 2)
        writer.unsigned(0)
        writer.byteString(bytes[proof])
        return try Capability(bytes: writer.bytes)
    }
}
