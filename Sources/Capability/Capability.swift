import Core

/// A capability token that was read, and is well formed, but **not verified**: only `CapabilityVerifier`
/// decides whether it grants anything. The format is `API/capability.md`.
///
/// An open capability ends in a private seed, so its text and bytes are secrets like a private key's file;
/// `description` shows neither. A sealed one is no secret: without the holder's TLS key it is of no use.
public struct Capability: Sendable {
    /// The binary form.
    public let bytes: [UInt8]
    /// The id of the issuer's signing key, from the signed header; 1 to 32 bytes.
    public let keyID: [UInt8]
    /// What the issuer says; the attenuations may narrow it.
    public let claims: Claims
    /// The narrowings, in order; at most `Limits.attenuationBlocksMax`.
    public let attenuations: [Attenuation]
    /// Whether the last key's seed was replaced by its signature, so that no block can be added.
    public let isSealed: Bool

    /// The authority block and the attenuation blocks.
    let blocks: [SignedBlock]
    /// All blocks, encoded, without the head of their array.
    private let blockBytes: Range<Int>
    /// The content of the proof: the last key's seed, or its signature.
    let proof: Range<Int>

    /// What a capability's text begins with.
    public static let textPrefix = "slcap1_"
    /// The version of the format.
    private static let version: UInt64 = 1
    private static let proofSeed: UInt64 = 0
    private static let proofSignature: UInt64 = 1

    /// Reads the text form, exactly: no white space, no padding.
    public init(text: String) throws(CapabilityError) {
        guard text.utf8.count <= Limits.capabilityTextCharactersMax else { throw .tooLarge }
        guard text.hasPrefix(Capability.textPrefix) else {
            throw .malformed("the text does not begin with \(Capability.textPrefix)")
        }
        guard let bytes = Base64URL.decode(text.dropFirst(Capability.textPrefix.count)) else {
            throw .malformed("the text is not base64url without padding")
        }
        try self.init(bytes: bytes)
    }

    /// Reads the binary form.
    public init(bytes: [UInt8]) throws(CapabilityError) {
        guard bytes.count <= Limits.capabilityBytesMax else { throw .tooLarge }
        var reader = CBORReader(bytes, range: 0..<bytes.count)
        guard try reader.openArray() == 3 else { throw .malformed("it is not [version, blocks, proof]") }
        guard try reader.unsigned() == Capability.version else {
            throw .malformed("its format version is not \(Capability.version)")
        }

        let blockCount = try reader.openArray()
        guard blockCount >= 1 else { throw .malformed("it has no block") }
        guard blockCount - 1 <= Limits.attenuationBlocksMax else { throw .tooLarge }
        let blocksStart = reader.position
        let authority = try SignedBlock(from: &reader)
        keyID = try authority.keyID(in: bytes)
        claims = try Claims(from: bytes, range: authority.payload)
        var blocks = [authority]
        var attenuations: [Attenuation] = []
        for _ in 1..<blockCount {
            let block = try SignedBlock(from: &reader)
            guard bytes[block.protected] == SignedBlock.plainHeader[...] else {
                throw .malformed("an attenuation's header is not EdDSA alone")
            }
            attenuations.append(try Attenuation(from: bytes, range: block.payload))
            blocks.append(block)
        }
        reader.closeArray()
        blockBytes = blocksStart..<reader.position

        guard try reader.openArray() == 2 else { throw .malformed("its proof is not [kind, bytes]") }
        switch try reader.unsigned() {
        case Capability.proofSeed:
            isSealed = false
            proof = try reader.byteString(count: Ed25519Size.seed)
        case Capability.proofSignature:
            isSealed = true
            proof = try reader.byteString(count: Ed25519Size.signature)
        default: throw .malformed("its proof is of an unknown kind")
        }
        reader.closeArray()
        reader.closeArray()
        try reader.finish()
        self.bytes = bytes
        self.blocks = blocks
        self.attenuations = attenuations
    }

    /// The text form, `slcap1_` and base64url without padding; a secret while the capability is open.
    public var text: String { Capability.textPrefix + Base64URL.encode(bytes) }

    /// The capability's id.
    public var id: Identifier { claims.capability }

    /// The public key that the last block names.
    var lastKey: [UInt8] { attenuations.last?.nextKey ?? claims.nextKey }
}

extension Capability {
    /// Signs a new capability, with no attenuation and open.
    ///
    /// - Parameters:
    ///   - claims: What it says; `nextKey` is replaced by a fresh key's.
    ///   - keyID: The id under which verifiers know `signer`'s public key; 1 to 32 bytes.
    ///   - signer: The issuer's key.
    ///   - keys: Makes the key for the next block.
    /// - Throws: `malformed` when `claims` or `keyID` cannot be in a capability, or what `signer` throws.
    public static func mint(
        _ claims: Claims, keyID: [UInt8], signer: any SignatureSigner, keys: any SigningKeyFactory
    ) throws(CapabilityError) -> Capability {
        let next = keys.makeKey()
        var claims = claims
        claims.nextKey = next.signer.publicKey
        try claims.validate()
        let header = SignedBlock.header(keyID: keyID)
        let payload = claims.encoded()
        let signature = try signer.sign(SignedMessage.authority(header: header, payload: payload))
        var block = CBORWriter(capacity: 512)
        SignedBlock.write(into: &block, header: header, payload: payload, signature: signature)
        return try assemble([block.bytes[...]], proof: proofSeed, next.seed)
    }

    /// This capability with one more narrowing; works offline and needs no key but the one it carries.
    ///
    /// - Throws: `sealed`; `widened` or `delegationExhausted` when `attenuation` is no narrowing;
    ///   `tooLarge` when there is no room for a block; `badProof` when the seed it carries is not its own.
    public func attenuated(
        by attenuation: Attenuation, keys: any SigningKeyFactory
    ) throws(CapabilityError) -> Capability {
        guard attenuations.count < Limits.attenuationBlocksMax else { throw .tooLarge }
        let signer = try lastSigner(keys)
        let next = keys.makeKey()
        var attenuation = attenuation
        attenuation.nextKey = next.signer.publicKey
        try attenuation.validate()
        var effective = try EffectiveCapability(narrowing: self)
        try effective.narrow(by: attenuation, block: blocks.count)

        let payload = attenuation.encoded()
        let message = SignedMessage.attenuation(previous: lastSignature, payload: payload)
        let signature = try signer.sign(message)
        var block = CBORWriter(capacity: 320)
        SignedBlock.write(
            into: &block, header: SignedBlock.plainHeader, payload: payload, signature: signature)
        return try Capability.assemble(
            [bytes[blockBytes], block.bytes[...]], count: blocks.count + 1,
            proof: Capability.proofSeed, next.seed)
    }

    /// This capability with the last key's signature in place of its seed: nobody can add a block to it, or
    /// take one away. This is the form to send.
    ///
    /// - Throws: `sealed` when it is sealed already; `badProof` when the seed it carries is not its own.
    public func sealed(keys: any SigningKeyFactory) throws(CapabilityError) -> Capability {
        let signature = try lastSigner(keys).sign(SignedMessage.seal(previous: lastSignature))
        return try Capability.assemble(
            [bytes[blockBytes]], count: blocks.count, proof: Capability.proofSignature, signature)
    }

    private var lastSignature: ArraySlice<UInt8> { bytes[blocks[blocks.count - 1].signature] }

    private func lastSigner(
        _ keys: any SigningKeyFactory
    ) throws(CapabilityError) -> any SignatureSigner {
        guard !isSealed else { throw .sealed }
        let signer = try keys.signer(seed: Array(bytes[proof]))
        guard signer.publicKey == lastKey else { throw .badProof }
        return signer
    }

    /// Puts a token together from encoded blocks, and reads it back as any other would be read.
    private static func assemble(
        _ blocks: [ArraySlice<UInt8>], count: Int = 1, proof kind: UInt64, _ proof: [UInt8]
    ) throws(CapabilityError) -> Capability {
        var writer = CBORWriter(capacity: blocks.reduce(96) { $0 + $1.count })
        writer.array(count: 3)
        writer.unsigned(version)
        writer.array(count: count)
        for block in blocks { writer.encoded(block) }
        writer.array(count: 2)
        writer.unsigned(kind)
        writer.byteString(proof)
        return try Capability(bytes: writer.bytes)
    }
}

extension Capability: Hashable {
    /// Two capabilities are the same when their bytes are.
    public static func == (left: Capability, right: Capability) -> Bool { left.bytes == right.bytes }

    /// Hashes the bytes.
    public func hash(into hasher: inout Hasher) { hasher.combine(bytes) }
}

extension Capability: CustomStringConvertible, CustomReflectable {
    /// The id, without anything that would let a reader of a log use the capability.
    public var description: String { "capability \(id)" }

    /// Nothing: the members hold a secret.
    public var customMirror: Mirror { Mirror(self, children: []) }
}
