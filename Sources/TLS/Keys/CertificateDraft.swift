import COpenSSL
import Core

/// A certificate before it is signed.
struct CertificateDraft {
    let publicKey: KeyObject
    let commonName: String
    let role: String?
    /// First and last second of validity, Unix time.
    let validity: ClosedRange<UInt64>
    /// Extensions in OpenSSL's configuration syntax; the values are constants of ours, never input.
    let extensions: [(nid: Int32, value: String)]
    var alternatives: [AlternativeName] = []

    /// Signs with `key`, whose certificate is `issuer`; nil for a certificate that signs itself.
    func sign(issuer: Certificate?, key: PrivateKey) throws(TLSError) -> Certificate {
        guard let x509 = unsafe X509_new() else { throw .library(ErrorQueue.drain()) }
        defer { unsafe X509_free(x509) }
        unsafe try fill(x509)
        if let issuer {
            unsafe try issuer.withX509 { authority throws(TLSError) in
                unsafe try finish(x509, authority: authority, key: key)
            }
        } else {
            unsafe try finish(x509, authority: x509, key: key)
        }
        return unsafe try Certificate(x509: x509)
    }

    private func fill(_ x509: OpaquePointer) throws(TLSError) {
        let subject = unsafe X509_get_subject_name(x509)
        if let role { unsafe try DistinguishedName.add(role, as: NID_organizationalUnitName, to: subject) }
        unsafe try DistinguishedName.add(commonName, as: NID_commonName, to: subject)
        var serial = OpenSSLRandom().bytes(16)
        serial[0] = serial[0] & 0x7F | 0x40
        guard let number = unsafe BN_bin2bn(serial, Int32(serial.count), nil) else {
            throw .library(ErrorQueue.drain())
        }
        defer { unsafe BN_free(number) }
        guard unsafe X509_set_version(x509, 2) == 1,
            unsafe BN_to_ASN1_INTEGER(number, X509_get_serialNumber(x509)) != nil,
            unsafe ASN1_TIME_set(X509_getm_notBefore(x509), time_t(validity.lowerBound)) != nil,
            unsafe ASN1_TIME_set(X509_getm_notAfter(x509), time_t(validity.upperBound)) != nil,
            unsafe X509_set_pubkey(x509, publicKey.pointer) == 1
        else { throw .library(ErrorQueue.drain()) }
    }

    private func finish(_ x509: OpaquePointer, authority: OpaquePointer, key: PrivateKey) throws(TLSError) {
        guard unsafe X509_set_issuer_name(x509, X509_get_subject_name(authority)) == 1 else {
            throw .library(ErrorQueue.drain())
        }
        var context = unsafe X509V3_CTX()
        unsafe sluice_x509v3_context(&context, authority, x509)
        for (nid, value) in extensions {
            guard let made = unsafe X509V3_EXT_conf_nid(nil, &context, nid, value) else {
                throw .library(ErrorQueue.drain())
            }
            defer { unsafe X509_EXTENSION_free(made) }
            guard unsafe X509_add_ext(x509, made, -1) == 1 else { throw .library(ErrorQueue.drain()) }
        }
        if !alternatives.isEmpty { unsafe try addAlternatives(to: x509) }
        guard unsafe X509_sign(x509, key.key.pointer, key.key.signatureDigest) > 0 else {
            throw .library(ErrorQueue.drain())
        }
        ERR_clear_error()
    }

    private func addAlternatives(to x509: OpaquePointer) throws(TLSError) {
        guard let names = unsafe sluice_names_new() else { throw .library(ErrorQueue.drain()) }
        defer { unsafe sluice_names_free(names) }
        for name in alternatives {
            guard unsafe sluice_names_add(names, name.type, name.bytes, Int32(name.bytes.count)) == 1 else {
                throw .library(ErrorQueue.drain())
            }
        }
        guard unsafe sluice_add_subject_alternative_names(x509, names) == 1 else {
            throw .library(ErrorQueue.drain())
        }
    }
}
