import Core

/// Decides whether a capability is good, from the issuer's public keys alone; any thread may use it.
///
/// The cost is one Ed25519 check a block and one for the proof. Revocation is the caller's next question.
public struct CapabilityVerifier: Sendable {
    private let issuerKeys: [[UInt8]: [UInt8]]
    private let audience: Identifier
    private let signatures: any SignatureVerifier

    /// A verifier for one cluster.
    ///
    /// - Parameters:
    ///   - issuerKeys: The trusted public keys (32 bytes) by key id; during a rotation the old and the new.
    ///   - audience: The id of the cluster that this server belongs to.
    ///   - signatures: Checks Ed25519.
    public init(
        issuerKeys: [[UInt8]: [UInt8]], audience: Identifier, signatures: any SignatureVerifier
    ) {
        self.issuerKeys = issuerKeys
        self.audience = audience
        self.signatures = signatures
    }

    /// What `capability` grants to `holder` at `now`.
    ///
    /// Checked in this order, so that a reason is given only for a token whose earlier checks hold: audience,
    /// issuer's key, signatures from the first block to the last, proof, narrowing, holder, validity.
    ///
    /// - Parameters:
    ///   - now: The time, in seconds since 1970.
    ///   - clockSkewSeconds: How far the issuer's clock may be ahead, in seconds; for the start of the
    ///     validity only.
    ///   - holder: The thumbprint of the key that the TLS channel authenticated.
    public func verify(
        _ capability: Capability, now: UInt64, clockSkewSeconds: UInt64, holder: Digest32
    ) throws(CapabilityError) -> EffectiveCapability {
        guard capability.claims.audience == audience else { throw .wrongAudience }
        guard let issuerKey = issuerKeys[capability.keyID] else { throw .unknownKey }
        try verifySignatures(of: capability, issuerKey: issuerKey)

        let effective = try EffectiveCapability(narrowing: capability)
        guard effective.holder == holder else { throw .wrongHolder }
        let latest = saturatingSum(now, clockSkewSeconds)
        guard effective.notBefore <= latest else { throw .notYetValid(at: effective.notBefore) }
        guard now < effective.expiry else { throw .expired(at: effective.expiry) }
        return effective
    }

    private func saturatingSum(_ left: UInt64, _ right: UInt64) -> UInt64 {
        let (sum, overflow) = left.addingReportingOverflow(right)
        return overflow ? .max : sum
    }

    private func verifySignatures(
        of capability: Capability, issuerKey: [UInt8]
    ) throws(CapabilityError) {
        let bytes = capability.bytes
        let authority = capability.blocks[0]
        var signature = Array(bytes[authority.signature])
        let message = SignedMessage.authority(
            header: bytes[authority.protected], payload: bytes[authority.payload])
        guard signatures.isValid(signature: signature, message: message, publicKey: issuerKey) else {
            throw .badSignature(block: 0)
        }
        var key = capability.claims.nextKey
        for (index, attenuation) in capability.attenuations.enumerated() {
            let block = capability.blocks[index + 1]
            let message = SignedMessage.attenuation(previous: signature, payload: bytes[block.payload])
            signature = Array(bytes[block.signature])
            guard signatures.isValid(signature: signature, message: message, publicKey: key) else {
                throw .badSignature(block: index + 1)
            }
            key = attenuation.nextKey
        }
        guard proves(Array(bytes[capability.proof]), of: capability, key: key, last: signature) else {
            throw .badProof
        }
    }

    private func proves(
        _ proof: [UInt8], of capability: Capability, key: [UInt8], last signature: [UInt8]
    ) -> Bool {
        if capability.isSealed {
            return signatures.isValid(
                signature: proof, message: SignedMessage.seal(previous: signature), publicKey: key)
        }
        guard let publicKey = signatures.publicKey(seed: proof) else { return false }
        return constantTimeEqual(publicKey, key)
    }
}
