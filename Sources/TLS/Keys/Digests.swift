import COpenSSL
import Core

/// SHA-256 (FIPS 180-4).
public enum SHA256 {
    /// The digest of `bytes`.
    public static func hash(_ bytes: [UInt8]) -> Digest32 {
        unsafe bytes.withUnsafeBytes { unsafe hash($0) }
    }

    /// The digest of a region.
    static func hash(_ bytes: UnsafeRawBufferPointer) -> Digest32 {
        var digest = [UInt8](repeating: 0, count: Digest32.byteCount)
        let done = unsafe EVP_Digest(bytes.baseAddress, bytes.count, &digest, nil, EVP_sha256(), nil)
        guard done == 1, let result = Digest32(bytes: digest) else {
            preconditionFailure("SHA-256 is not available: \(ErrorQueue.drain())")
        }
        return result
    }
}

/// HMAC with SHA-256 (RFC 2104).
public enum HMACSHA256 {
    /// The authentication code of `message` under `key`; the key may have any length, also zero.
    public static func authenticate(_ message: [UInt8], key: [UInt8]) -> Digest32 {
        var code = [UInt8](repeating: 0, count: Digest32.byteCount)
        // An empty array may have no address, and OpenSSL takes a null key for "the key set before".
        let keyBytes = key.isEmpty ? [0] : key
        let done = unsafe HMAC(EVP_sha256(), keyBytes, Int32(key.count), message, message.count, &code, nil)
        guard unsafe done != nil, let result = Digest32(bytes: code) else {
            preconditionFailure("HMAC-SHA-256 is not available: \(ErrorQueue.drain())")
        }
        return result
    }

    /// Whether `code` authenticates `message`, in constant time.
    public static func isValid(_ code: [UInt8], for message: [UInt8], key: [UInt8]) -> Bool {
        let expected = authenticate(message, key: key).bytes
        guard code.count == expected.count else { return false }
        return unsafe CRYPTO_memcmp(code, expected, expected.count) == 0
    }
}

/// Random bytes of OpenSSL's generator, which the kernel seeds. Any thread.
public struct OpenSSLRandom: RandomSource {
    /// The source has no state of its own.
    public init() {}

    /// Exactly `count` unpredictable bytes. Ends the process when the system has no randomness at all.
    public func bytes(_ count: Int) -> [UInt8] {
        var result = [UInt8](repeating: 0, count: count)
        guard unsafe count == 0 || RAND_bytes(&result, Int32(count)) == 1 else {
            preconditionFailure("no random bytes: \(ErrorQueue.drain())")
        }
        return result
    }
}
