import COpenSSL
import Core

/// A certificate signing request (PKCS #10, RFC 2986) whose signature was checked: its sender holds the key.
///
/// Only the key and the common name of a request are ever used; what else it asks for is ignored.
public struct CertificateRequest: Sendable {
    /// The DER encoding.
    public let der: [UInt8]
    /// The subject's common name, or "".
    public let commonName: String
    let publicKey: KeyObject

    /// PEM text of a request for `key`, signed by it.
    public static func make(key: PrivateKey, commonName: String) throws(TLSError) -> [UInt8] {
        guard let request = unsafe X509_REQ_new() else { throw .library(ErrorQueue.drain()) }
        defer { unsafe X509_REQ_free(request) }
        let name = unsafe X509_REQ_get_subject_name(request)
        unsafe try DistinguishedName.add(commonName, as: NID_commonName, to: name)
        guard unsafe X509_REQ_set_version(request, 0) == 1,
            unsafe X509_REQ_set_pubkey(request, key.key.pointer) == 1,
            unsafe X509_REQ_sign(request, key.key.pointer, key.key.signatureDigest) > 0
        else { throw .library(ErrorQueue.drain()) }
        return unsafe PEM.encode(try DER.encode(request, i2d_X509_REQ), label: "CERTIFICATE REQUEST")
    }

    /// Parses and checks a request: valid PEM, a P-256 or Ed25519 key, and a signature by that key.
    public init(pem: [UInt8]) throws(TLSError) {
        guard pem.count <= CertificateLimits.pemBytesMax else { throw .malformed("the request is too long") }
        let request = unsafe try pem.withUnsafeBufferPointer { bytes throws(TLSError) in
            unsafe try OpenSSLMemory.withReader(bytes) { bio throws(TLSError) in
                unsafe PEM_read_bio_X509_REQ(bio, nil, { _, _, _, _ in -1 }, nil)
            }
        }
        guard let request = unsafe request else {
            throw .malformed("no PEM certificate request: \(ErrorQueue.drain())")
        }
        defer { unsafe X509_REQ_free(request) }
        guard let pointer = unsafe X509_REQ_get_pubkey(request) else {
            throw .malformed("the request's key: \(ErrorQueue.drain())")
        }
        publicKey = unsafe KeyObject(adopting: pointer)
        guard publicKey.isSupported else {
            throw .malformed("the request's key is neither P-256 nor Ed25519")
        }
        guard unsafe X509_REQ_verify(request, pointer) == 1 else {
            ERR_clear_error()
            throw .malformed("the request is not signed by its own key")
        }
        der = unsafe try DER.encode(request, i2d_X509_REQ)
        commonName = unsafe DistinguishedName.text(of: X509_REQ_get_subject_name(request), NID_commonName)
        ERR_clear_error()
    }

    /// SHA-256 of the request's SubjectPublicKeyInfo.
    public var publicKeyThumbprint: Digest32 { publicKey.thumbprint }
}

/// Attributes of a subject or issuer name.
enum DistinguishedName {
    /// Appends one attribute; refuses text that is empty, too long for the attribute, or holds a NUL.
    static func add(_ text: String, as nid: Int32, to name: OpaquePointer?) throws(TLSError) {
        let bytes = Array(text.utf8)
        guard !bytes.isEmpty, bytes.count <= 64, !bytes.contains(0) else {
            throw .configuration("a certificate's name must be 1 to 64 bytes long")
        }
        guard
            unsafe X509_NAME_add_entry_by_NID(name, nid, MBSTRING_UTF8, bytes, Int32(bytes.count), -1, 0) == 1
        else { throw .configuration("\"\(text)\" is no name for a certificate: \(ErrorQueue.drain())") }
    }

    /// The first attribute of that kind; "" when there is none that is valid text.
    static func text(of name: OpaquePointer?, _ nid: Int32) -> String {
        let index = unsafe X509_NAME_get_index_by_NID(name, nid, -1)
        guard index >= 0, let entry = unsafe X509_NAME_get_entry(name, index) else { return "" }
        return unsafe OpenSSLMemory.text(X509_NAME_ENTRY_get_data(entry)) ?? ""
    }
}
