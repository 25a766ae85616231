import COpenSSL
import Capability
import Core

/// Ed25519 by OpenSSL, as the capabilities need it. Any thread.
public struct OpenSSLSignatures: SignatureVerifier, SigningKeyFactory {
    private static let keyBytes = 32
    private static let signatureBytes = 64

    /// It has no state.
    public init() {}

    /// Whether `signature` on `message` is by the private key of `publicKey`. Wrong lengths and points that
    /// are none give false.
    public func isValid(signature: [UInt8], message: [UInt8], publicKey: [UInt8]) -> Bool {
        guard signature.count == Self.signatureBytes, publicKey.count == Self.keyBytes else { return false }
        defer { ERR_clear_error() }
        guard let key = unsafe EVP_PKEY_new_raw_public_key(EVP_PKEY_ED25519, nil, publicKey, publicKey.count)
        else {
            return false
        }
        defer { unsafe EVP_PKEY_free(key) }
        guard let context = unsafe EVP_MD_CTX_new() else { return false }
        defer { unsafe EVP_MD_CTX_free(context) }
        return unsafe EVP_DigestVerifyInit(context, nil, nil, nil, key) == 1
            && EVP_DigestVerify(context, signature, signature.count, message, message.count) == 1
    }

    /// The public key of a 32-byte seed; nil for any other length.
    public func publicKey(seed: [UInt8]) -> [UInt8]? {
        (try? Ed25519Signer(seed: seed))?.publicKey
    }

    /// A fresh key with its seed. The caller keeps the seed secret.
    public func makeKey() -> (seed: [UInt8], signer: any SignatureSigner) {
        let seed = OpenSSLRandom().bytes(Self.keyBytes)
        guard let signer = try? Ed25519Signer(seed: seed) else {
            preconditionFailure("32 random bytes are no Ed25519 seed")
        }
        return (seed, signer)
    }

    /// The signer of a 32-byte seed.
    public func signer(seed: [UInt8]) throws(CapabilityError) -> any SignatureSigner {
        try Ed25519Signer(seed: seed)
    }
}

/// An Ed25519 private key that signs capabilities; OpenSSL wipes it. Any thread.
public struct Ed25519Signer: SignatureSigner {
    /// The public key, 32 bytes.
    public let publicKey: [UInt8]
    private let key: KeyObject

    /// The key of a 32-byte seed (RFC 8032 §5.1.5).
    public init(seed: [UInt8]) throws(CapabilityError) {
        guard seed.count == 32,
            let pointer = unsafe EVP_PKEY_new_raw_private_key(EVP_PKEY_ED25519, nil, seed, seed.count)
        else {
            ERR_clear_error()
            throw .malformed("an Ed25519 seed has 32 bytes")
        }
        key = unsafe KeyObject(adopting: pointer)
        var bytes = [UInt8](repeating: 0, count: 32)
        var count = bytes.count
        guard unsafe EVP_PKEY_get_raw_public_key(pointer, &bytes, &count) == 1, count == bytes.count else {
            throw .signingFailed(ErrorQueue.drain())
        }
        publicKey = bytes
    }

    /// The 64-byte signature on `message`.
    public func sign(_ message: [UInt8]) throws(CapabilityError) -> [UInt8] {
        do {
            return try PrivateKey(sharing: key).signature(of: message)
        } catch {
            throw .signingFailed(error.description)
        }
    }
}
