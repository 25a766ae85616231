import COpenSSL
import Core

/// An `EVP_PKEY` with its reference count. OpenSSL wipes a private key when the last reference goes.
@safe
final class KeyObject: Sendable {
    // SAFETY: an EVP_PKEY is not changed after it was made, its reference count is atomic, and reading it
    // on several threads at once is what OpenSSL documents as safe (openssl-threads(7)).
    nonisolated(unsafe) let pointer: OpaquePointer

    /// Takes over one reference.
    init(adopting pointer: OpaquePointer) {
        unsafe self.pointer = unsafe pointer
    }

    deinit {
        unsafe EVP_PKEY_free(pointer)
    }

    /// Whether this is a key of a kind that Sluice accepts: P-256 or Ed25519.
    var isSupported: Bool {
        if unsafe EVP_PKEY_get_base_id(pointer) == EVP_PKEY_ED25519 { return true }
        guard unsafe EVP_PKEY_get_base_id(pointer) == EVP_PKEY_EC else { return false }
        var name = [CChar](repeating: 0, count: 32)
        var length = 0
        let found = unsafe EVP_PKEY_get_group_name(pointer, &name, name.count, &length) == 1
        if !found { ERR_clear_error() }
        return found && Array(name.prefix(length)) == Array("prime256v1".utf8CString.dropLast())
    }

    /// The digest that signatures with this key use; nil where the algorithm brings its own.
    var signatureDigest: OpaquePointer? {
        unsafe EVP_PKEY_get_base_id(pointer) == EVP_PKEY_ED25519 ? nil : EVP_sha256()
    }

    /// SHA-256 of the SubjectPublicKeyInfo.
    var thumbprint: Digest32 {
        var bytes: UnsafeMutablePointer<UInt8>?
        let count = unsafe i2d_PUBKEY(pointer, &bytes)
        guard count > 0, let bytes = unsafe bytes else {
            preconditionFailure("a key without a public part: \(ErrorQueue.drain())")
        }
        defer { unsafe sluice_free(bytes) }
        return unsafe SHA256.hash(UnsafeRawBufferPointer(start: bytes, count: Int(count)))
    }
}

/// Text and bytes between Swift and OpenSSL.
enum OpenSSLMemory {
    /// Calls `body` with a read-only BIO over `bytes`.
    static func withReader<Result>(
        _ bytes: UnsafeBufferPointer<UInt8>, _ body: (OpaquePointer) throws(TLSError) -> Result
    ) throws(TLSError) -> Result {
        guard let base = bytes.baseAddress, bytes.count > 0,
            let bio = unsafe BIO_new_mem_buf(base, Int32(bytes.count))
        else { throw .malformed("nothing where PEM text was expected") }
        defer { unsafe BIO_free(bio) }
        return unsafe try body(bio)
    }

    /// What `body` writes into a memory BIO. The BIO's memory is wiped, because it may hold a key.
    static func written<Result>(
        _ body: (OpaquePointer) -> Bool, _ use: (UnsafeBufferPointer<UInt8>) -> Result
    ) throws(TLSError) -> Result {
        guard let bio = unsafe BIO_new(BIO_s_secmem()) else { throw .library(ErrorQueue.drain()) }
        defer { unsafe BIO_free(bio) }
        guard unsafe body(bio) else { throw .library(ErrorQueue.drain()) }
        var bytes: UnsafeMutablePointer<CChar>?
        let count = unsafe sluice_bio_memory(bio, &bytes)
        let raw = unsafe UnsafeRawBufferPointer(start: bytes, count: max(count, 0))
        return unsafe use(raw.bindMemory(to: UInt8.self))
    }

    /// An ASN.1 string as text; nil when it is no valid text, or holds a NUL.
    static func text(_ string: UnsafePointer<ASN1_STRING>?) -> String? {
        guard let string = unsafe string else { return nil }
        var bytes: UnsafeMutablePointer<UInt8>?
        let count = unsafe ASN1_STRING_to_UTF8(&bytes, string)
        guard count >= 0, let bytes = unsafe bytes else {
            ERR_clear_error()
            return nil
        }
        defer { unsafe sluice_free(bytes) }
        let region = unsafe UnsafeBufferPointer(start: bytes, count: Int(count))
        guard unsafe !region.contains(0) else { return nil }
        return unsafe String(validating: region, as: UTF8.self)
    }

    /// The bytes of an ASN.1 string.
    static func bytes(_ string: UnsafePointer<ASN1_STRING>?) -> [UInt8] {
        guard let string = unsafe string, let base = unsafe ASN1_STRING_get0_data(string) else { return [] }
        return unsafe Array(UnsafeBufferPointer(start: base, count: Int(ASN1_STRING_length(string))))
    }

    /// A time of a certificate in seconds since 1970; nil when it is before that or no valid time.
    static func seconds(_ time: UnsafePointer<ASN1_TIME>?) -> UInt64? {
        guard let time = unsafe time, let epoch = unsafe ASN1_TIME_set(nil, 0) else { return nil }
        defer { unsafe ASN1_TIME_free(epoch) }
        var days: Int32 = 0
        var seconds: Int32 = 0
        guard unsafe ASN1_TIME_diff(&days, &seconds, epoch, time) == 1 else {
            ERR_clear_error()
            return nil
        }
        let total = Int64(days) * 86400 + Int64(seconds)
        return total >= 0 ? UInt64(total) : nil
    }
}
