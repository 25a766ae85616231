import COpenSSL
import Core

/// Named maxima of what is parsed here.
enum CertificateLimits {
    /// PEM text of one key, certificate, request or chain.
    static let pemBytesMax = 64 << 10
    /// Certificates in one PEM text.
    static let chainLengthMax = 8
    /// What a peer may send as its certificate chain during a handshake.
    static let handshakeChainBytesMax = 32 << 10
    /// Names in a subject alternative name extension that are looked at.
    static let alternativeNamesMax = 64
}

/// A parsed X.509 certificate (RFC 5280), as plain values. It says nothing about trust.
///
/// Any thread.
public struct Certificate: Sendable, Equatable {
    /// The DER encoding.
    public let der: [UInt8]
    /// The subject's first common name, or "" when it has none that is valid text.
    public let subjectCommonName: String
    /// The subject's first organizational unit: the role; "" when it has none that is valid text.
    public let organizationalUnit: String
    /// The serial number in upper-case hex digits.
    public let serialHex: String
    /// Start of validity, Unix seconds.
    public let notBefore: UInt64
    /// End of validity, Unix seconds; 0 when the certificate holds no valid time.
    public let notAfter: UInt64
    /// SHA-256 of the SubjectPublicKeyInfo: names the key, whoever certified it.
    public let thumbprint: Digest32
    /// SHA-256 of the DER encoding: names this very certificate.
    public let fingerprint: Digest32
    /// URIs of the subject alternative names, such as `sluice:node:HEX`.
    public let uris: [String]
    /// DNS names of the subject alternative names.
    public let dnsNames: [String]
    /// IP addresses of the subject alternative names, 4 or 16 bytes each.
    public let addresses: [[UInt8]]
    /// Whether it may issue other certificates (basic constraints).
    public let isAuthority: Bool

    /// Whether these are the same bytes.
    public static func == (left: Certificate, right: Certificate) -> Bool { left.der == right.der }

    /// The first certificate of a PEM text; `malformed` for anything else.
    public init(pem: [UInt8]) throws(TLSError) {
        guard let first = try Certificate.chain(pem: pem).first else { throw .malformed("no certificate") }
        self = first
    }

    /// All certificates of a PEM text, in order, at most 8.
    public static func chain(pem: [UInt8]) throws(TLSError) -> [Certificate] {
        unsafe try withX509(pem: pem) { x509 throws(TLSError) in unsafe try Certificate(x509: x509) }
    }

    /// PEM text, ending in a newline.
    public var pem: [UInt8] { PEM.encode(der, label: "CERTIFICATE") }

    /// Whether `now` (Unix seconds) lies within the validity.
    public func isValid(at now: UInt64) -> Bool { notBefore <= now && now <= notAfter }

    /// The node that a `sluice:node:HEX` URI names; nil when there is none, or more than one.
    public var nodeID: Identifier? { id(after: Certificate.nodeURIPrefix) }

    /// The start of the URI that carries a node's identifier.
    public static let nodeURIPrefix = "sluice:node:"

    /// The administrator that a `sluice:admin:HEX` URI names; nil when there is none, or more than one.
    public var adminID: Identifier? { id(after: Certificate.adminURIPrefix) }

    /// The start of the URI that carries an administrator's identifier.
    public static let adminURIPrefix = "sluice:admin:"

    private func id(after prefix: String) -> Identifier? {
        let ids = uris.filter { $0.hasPrefix(prefix) }.map {
            Identifier(hex: String($0.dropFirst(prefix.count)))
        }
        return ids.count == 1 ? ids[0] : nil
    }

    /// The names and addresses that a server's certificate is for, in text form, as far as they have the form of such;
    /// at most 16.
    public var serverNames: [String] {
        let names = dnsNames.filter { (try? AlternativeName(dns: $0)) != nil }
        return Array((names + addresses.compactMap(AlternativeName.addressText)).prefix(16))
    }

    /// Reads the values of an `X509`, which stays the caller's.
    init(x509: OpaquePointer) throws(TLSError) {
        der = unsafe try DER.encode(x509, i2d_X509)
        let subject = unsafe X509_get_subject_name(x509)
        subjectCommonName = unsafe DistinguishedName.text(of: subject, NID_commonName)
        organizationalUnit = unsafe DistinguishedName.text(of: subject, NID_organizationalUnitName)
        serialHex = unsafe Certificate.serial(x509)
        notBefore = unsafe OpenSSLMemory.seconds(X509_get0_notBefore(x509)) ?? 0
        notAfter = unsafe OpenSSLMemory.seconds(X509_get0_notAfter(x509)) ?? 0
        thumbprint = unsafe SHA256.hash(try DER.encode(X509_get_X509_PUBKEY(x509), i2d_X509_PUBKEY))
        fingerprint = SHA256.hash(der)
        isAuthority = unsafe X509_check_ca(x509) == 1
        var uris: [String] = []
        var dnsNames: [String] = []
        var addresses: [[UInt8]] = []
        unsafe Certificate.eachAlternativeName(x509) { name in
            if let uri = unsafe sluice_name_value(name, GEN_URI) {
                if let text = unsafe OpenSSLMemory.text(uri) { uris.append(text) }
            } else if let dns = unsafe sluice_name_value(name, GEN_DNS) {
                if let text = unsafe OpenSSLMemory.text(dns) { dnsNames.append(text) }
            } else if let address = unsafe sluice_name_value(name, GEN_IPADD) {
                unsafe addresses.append(OpenSSLMemory.bytes(address))
            }
        }
        self.uris = uris
        self.dnsNames = dnsNames
        self.addresses = addresses
        ERR_clear_error()
    }

    /// Calls `body` with this certificate as OpenSSL's object.
    func withX509<Result>(_ body: (OpaquePointer) throws(TLSError) -> Result) throws(TLSError) -> Result {
        unsafe try der.withUnsafeBufferPointer { bytes throws(TLSError) in
            var next = bytes.baseAddress
            guard let x509 = unsafe d2i_X509(nil, &next, bytes.count) else {
                throw .malformed(ErrorQueue.drain())
            }
            defer { unsafe X509_free(x509) }
            return unsafe try body(x509)
        }
    }

    /// Calls `body` with each certificate of a PEM text; at least one, at most 8, nothing but certificates.
    static func withX509<Result>(
        pem: [UInt8], _ body: (OpaquePointer) throws(TLSError) -> Result
    ) throws(TLSError) -> [Result] {
        guard pem.count <= CertificateLimits.pemBytesMax else { throw .malformed("the PEM text is too long") }
        return unsafe try pem.withUnsafeBufferPointer { bytes throws(TLSError) in
            unsafe try OpenSSLMemory.withReader(bytes) { bio throws(TLSError) in
                var results: [Result] = []
                while let x509 = unsafe PEM_read_bio_X509(bio, nil, { _, _, _, _ in -1 }, nil) {
                    defer { unsafe X509_free(x509) }
                    guard results.count < CertificateLimits.chainLengthMax else {
                        throw .malformed("more than \(CertificateLimits.chainLengthMax) certificates")
                    }
                    unsafe results.append(try body(x509))
                }
                let reason = ErrorQueue.firstReason()
                let text = ErrorQueue.drain()
                guard !results.isEmpty, reason == PEM_R_NO_START_LINE else {
                    throw .malformed("no PEM certificate: \(text)")
                }
                return results
            }
        }
    }

    private static func serial(_ x509: OpaquePointer) -> String {
        guard let number = unsafe ASN1_INTEGER_to_BN(X509_get0_serialNumber(x509), nil) else { return "" }
        defer { unsafe BN_free(number) }
        guard let text = unsafe BN_bn2hex(number) else { return "" }
        defer { unsafe sluice_free(text) }
        return unsafe String(cString: text)
    }

    private static func eachAlternativeName(
        _ x509: OpaquePointer, _ body: (UnsafePointer<GENERAL_NAME>) -> Void
    ) {
        guard let names = unsafe sluice_subject_alternative_names(x509) else { return }
        defer { unsafe sluice_names_free(names) }
        for index in unsafe 0..<min(sluice_names_count(names), Int32(CertificateLimits.alternativeNamesMax)) {
            if let name = unsafe sluice_names_at(names, index) { unsafe body(name) }
        }
    }
}

/// DER encoding of OpenSSL's objects.
enum DER {
    /// What `encode` (one of the `i2d_` functions) gives for `object`.
    static func encode(
        _ object: OpaquePointer?,
        _ encode: (OpaquePointer?, UnsafeMutablePointer<UnsafeMutablePointer<UInt8>?>?) -> Int32
    ) throws(TLSError) -> [UInt8] {
        var bytes: UnsafeMutablePointer<UInt8>?
        let count = unsafe encode(object, &bytes)
        guard count > 0, let bytes = unsafe bytes else { throw .malformed(ErrorQueue.drain()) }
        defer { unsafe sluice_free(bytes) }
        return unsafe Array(UnsafeBufferPointer(start: bytes, count: Int(count)))
    }
}

/// PEM text (RFC 7468).
enum PEM {
    private static let alphabet = Array(
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/".utf8)

    /// `der` between the two lines that name `label`.
    static func encode(_ der: [UInt8], label: String) -> [UInt8] {
        var text = Array("-----BEGIN \(label)-----\n".utf8)
        for start in stride(from: 0, to: der.count, by: 48) {
            appendBase64(der[start..<min(start + 48, der.count)], to: &text)
            text.append(UInt8(ascii: "\n"))
        }
        text += Array("-----END \(label)-----\n".utf8)
        return text
    }

    private static func appendBase64(_ bytes: ArraySlice<UInt8>, to text: inout [UInt8]) {
        for start in stride(from: bytes.startIndex, to: bytes.endIndex, by: 3) {
            let group = bytes[start..<min(start + 3, bytes.endIndex)]
            var word: UInt32 = 0
            for byte in group { word = word << 8 | UInt32(byte) }
            word <<= UInt32(3 - group.count) * 8
            for position in 0..<4 {
                let digit = alphabet[Int(word >> UInt32(18 - 6 * position) & 63)]
                text.append(position <= group.count ? digit : UInt8(ascii: "="))
            }
        }
    }
}
