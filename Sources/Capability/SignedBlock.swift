import Core

/// One COSE_Sign1 structure (RFC 9052 §4.2) inside a capability, as ranges of the capability's bytes.
struct SignedBlock: Hashable, Sendable {
    /// The content of the protected header's byte string.
    let protected: Range<Int>
    /// The content of the payload's byte string.
    let payload: Range<Int>
    /// The 64 bytes of the signature.
    let signature: Range<Int>

    /// The algorithm EdDSA (RFC 9053 §2.2); in a capability it is always Ed25519.
    private static let algorithm: Int64 = -8
    private static let algorithmLabel: Int64 = 1
    private static let keyIDLabel: Int64 = 4

    /// Reads a block; the payload stays uninterpreted.
    init(from reader: inout CBORReader) throws(CapabilityError) {
        guard try reader.openArray() == 4 else { throw .malformed("a block is not a COSE_Sign1 structure") }
        protected = try reader.byteString()
        var unprotected = try reader.openMap()
        guard try reader.nextKey(&unprotected) == nil else {
            throw .malformed("a block has a header that is not signed")
        }
        payload = try reader.byteString()
        signature = try reader.byteString(count: Ed25519Size.signature)
        reader.closeArray()
    }

    /// The protected header of an authority block.
    static func header(keyID: [UInt8]) -> [UInt8] {
        var map = CBORMapWriter()
        map.put(algorithmLabel) { $0.integer(algorithm) }
        map.put(keyIDLabel) { $0.byteString(keyID) }
        var writer = CBORWriter()
        writer.map(map)
        return writer.bytes
    }

    /// The protected header of every block after the authority block, and of a seal: `{1: -8}`.
    static let plainHeader: [UInt8] = [0xa1, 0x01, 0x27]

    /// The key id in an authority block's protected header.
    func keyID(in source: [UInt8]) throws(CapabilityError) -> [UInt8] {
        var reader = CBORReader(source, range: protected)
        var map = try reader.openMap()
        guard try reader.nextKey(&map) == SignedBlock.algorithmLabel,
            try reader.integer() == SignedBlock.algorithm,
            try reader.nextKey(&map) == SignedBlock.keyIDLabel
        else { throw .malformed("the issuer's block is not headed by EdDSA and a key id") }
        let keyID = source[try reader.byteString()]
        guard (1...Limits.capabilityKeyIDBytesMax).contains(keyID.count) else {
            throw .malformed("the key id is not 1 to \(Limits.capabilityKeyIDBytesMax) bytes long")
        }
        guard try reader.nextKey(&map) == nil else {
            throw .malformed("the issuer's block has a header that this version does not know")
        }
        try reader.finish()
        return Array(keyID)
    }

    /// Appends a block.
    static func write(
        into writer: inout CBORWriter, header: [UInt8], payload: [UInt8], signature: [UInt8]
    ) {
        writer.array(count: 4)
        writer.byteString(header)
        writer.map(CBORMapWriter())
        writer.byteString(payload)
        writer.byteString(signature)
    }
}

/// The bytes that are signed: a Sig_structure (RFC 9052 §4.4).
enum SignedMessage {
    /// Marks a signature as one on an attenuation; the signature of the block before follows it.
    private static let attenuationContext = Array("sluice-attenuation-1".utf8)
    /// Marks a signature as a seal; the signature of the last block follows it.
    private static let sealContext = Array("sluice-seal-1".utf8)

    /// What the issuer signs; without external data, so that any CWT library can check it.
    static func authority(header: some Collection<UInt8>, payload: some Collection<UInt8>) -> [UInt8] {
        structure(header: header, context: [], previous: EmptyCollection(), payload: payload)
    }

    /// What an attenuation signs: its payload, and through `previous` every block before it.
    static func attenuation(
        previous: some Collection<UInt8>, payload: some Collection<UInt8>
    ) -> [UInt8] {
        structure(
            header: SignedBlock.plainHeader, context: attenuationContext, previous: previous,
            payload: payload)
    }

    /// What a seal signs: the last block's signature, and through it every block.
    static func seal(previous: some Collection<UInt8>) -> [UInt8] {
        structure(
            header: SignedBlock.plainHeader, context: sealContext, previous: previous,
            payload: EmptyCollection())
    }

    private static func structure(
        header: some Collection<UInt8>, context: [UInt8], previous: some Collection<UInt8>,
        payload: some Collection<UInt8>
    ) -> [UInt8] {
        var writer = CBORWriter(
            capacity: 32 + header.count + context.count + previous.count + payload.count)
        writer.array(count: 4)
        writer.text("Signature1")
        writer.byteString(header)
        writer.head(.bytes, UInt64(context.count + previous.count))
        writer.encoded(context)
        writer.encoded(previous)
        writer.byteString(payload)
        return writer.bytes
    }
}
