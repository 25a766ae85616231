/// Checks Ed25519 signatures (RFC 8032 §5.1.7) on whatever thread calls it.
public protocol SignatureVerifier: Sendable {
    /// Whether `signature` (64 bytes) on `message` was made with the private key of `publicKey` (32 bytes).
    ///
    /// Any other length is a signature that is not valid, never a crash.
    func isValid(signature: [UInt8], message: [UInt8], publicKey: [UInt8]) -> Bool

    /// The 32-byte public key that belongs to a 32-byte private seed; nil for any other length.
    func publicKey(seed: [UInt8]) -> [UInt8]?
}

/// Holds an Ed25519 private key.
public protocol SignatureSigner: Sendable {
    /// The public key, 32 bytes.
    var publicKey: [UInt8] { get }

    /// The 64-byte Ed25519 signature on `message`.
    func sign(_ message: [UInt8]) throws(CapabilityError) -> [UInt8]
}

/// Makes Ed25519 keys.
public protocol SigningKeyFactory: Sendable {
    /// A fresh key: its 32-byte private seed (RFC 8032 §5.1.5) and a signer that holds it.
    func makeKey() -> (seed: [UInt8], signer: any SignatureSigner)

    /// The signer for a 32-byte private seed.
    func signer(seed: [UInt8]) throws(CapabilityError) -> any SignatureSigner
}

/// Sizes that Ed25519 fixes (RFC 8032 §5.1), in bytes.
enum Ed25519Size {
    static let seed = 32
    static let publicKey = 32
    static let signature = 64
}
