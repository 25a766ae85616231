import COpenSSL
import Core

/// A P-256 or Ed25519 private key. It has no description, and OpenSSL wipes it when the last copy goes.
///
/// Any thread.
public struct PrivateKey: Sendable {
    let key: KeyObject

    private init(adopting pointer: OpaquePointer?) {
        guard let pointer = unsafe pointer else {
            preconditionFailure("no key could be made: \(ErrorQueue.drain())")
        }
        key = unsafe KeyObject(adopting: pointer)
    }

    /// A key that OpenSSL's object already holds.
    init(sharing key: KeyObject) {
        self.key = key
    }

    /// A fresh key on the curve P-256, for certificates.
    public static func generateP256() -> PrivateKey {
        unsafe PrivateKey(adopting: sluice_generate_p256())
    }

    /// A fresh Ed25519 key.
    public static func generateEd25519() -> PrivateKey {
        unsafe PrivateKey(adopting: sluice_generate_ed25519())
    }

    /// The key in an unencrypted PEM text (PKCS #8, or SEC 1 for P-256); anything else is refused, also an
    /// encrypted key and keys of other kinds.
    public init(pem: [UInt8]) throws(TLSError) {
        self = unsafe try pem.withUnsafeBufferPointer { bytes throws(TLSError) in
            unsafe try PrivateKey(pemBytes: bytes)
        }
    }

    /// The same from bytes that are kept secret.
    public init(pem: SecretBytes) throws(TLSError) {
        self = unsafe try pem.withBytes { bytes throws(TLSError) in unsafe try PrivateKey(pemBytes: bytes) }
    }

    private init(pemBytes: UnsafeBufferPointer<UInt8>) throws(TLSError) {
        guard pemBytes.count <= CertificateLimits.pemBytesMax else { throw .malformed("the key is too long") }
        let pointer = unsafe try OpenSSLMemory.withReader(pemBytes) { bio throws(TLSError) in
            // The password callback refuses, so that an encrypted key never asks on the terminal.
            unsafe PEM_read_bio_PrivateKey(bio, nil, { _, _, _, _ in -1 }, nil)
        }
        guard let pointer = unsafe pointer else {
            throw .malformed("no unencrypted PEM private key: \(ErrorQueue.drain())")
        }
        key = unsafe KeyObject(adopting: pointer)
        guard key.isSupported else { throw .malformed("the key is neither P-256 nor Ed25519") }
    }

    /// PKCS #8 PEM text, unencrypted. It is secret: write it to a file of mode 0600 only.
    public var pem: [UInt8] {
        unsafe withPEM { unsafe Array($0) }
    }

    /// PKCS #8 PEM text in memory that is wiped.
    public var secretPEM: SecretBytes {
        unsafe withPEM { unsafe SecretBytes(Array($0)) }
    }

    /// SHA-256 of the public key's SubjectPublicKeyInfo: what a capability's holder claim names.
    public var publicKeyThumbprint: Digest32 { key.thumbprint }

    /// Signs `message`: a 64-byte signature with Ed25519, a DER ECDSA signature over SHA-256 with P-256.
    public func signature(of message: [UInt8]) throws(TLSError) -> [UInt8] {
        guard let context = unsafe EVP_MD_CTX_new() else { throw .library(ErrorQueue.drain()) }
        defer { unsafe EVP_MD_CTX_free(context) }
        var count = 0
        guard unsafe EVP_DigestSignInit(context, nil, key.signatureDigest, nil, key.pointer) == 1,
            unsafe EVP_DigestSign(context, nil, &count, message, message.count) == 1
        else { throw .library(ErrorQueue.drain()) }
        var signature = [UInt8](repeating: 0, count: count)
        guard unsafe EVP_DigestSign(context, &signature, &count, message, message.count) == 1 else {
            throw .library(ErrorQueue.drain())
        }
        return Array(signature.prefix(count))
    }

    private func withPEM<Result>(_ use: (UnsafeBufferPointer<UInt8>) -> Result) -> Result {
        do {
            return unsafe try OpenSSLMemory.written(
                { unsafe PEM_write_bio_PKCS8PrivateKey($0, key.pointer, nil, nil, 0, nil, nil) == 1 },
                unsafe use)
        } catch {
            preconditionFailure("a private key could not be written: \(error)")
        }
    }
}
