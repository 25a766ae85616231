import COpenSSL
import Core
import Glibc

/// A certificate authority of one key: creates itself, and issues certificates for servers and clients.
///
/// Issued certificates carry a random 128-bit serial, and start five minutes early so that clocks may differ.
/// Any thread.
public struct CertificateAuthority: Sendable {
    /// The authority's own, self-signed certificate.
    public let certificate: Certificate
    /// The key that signs.
    public let key: PrivateKey

    private static let backdateSeconds: UInt64 = 300

    /// A new authority with a P-256 key. `now` is Unix seconds; nil takes the system's clock.
    public static func create(
        commonName: String, validDays: Int, now: UInt64? = nil
    ) throws(TLSError) -> CertificateAuthority {
        try signed(by: .generateP256(), commonName: commonName, validDays: validDays, now: now)
    }

    /// The same authority with a certificate that counts from now on: same name, same key, so that whoever trusts
    /// either trusts what both have issued, for as long as the certificate that they have counts.
    public func renewed(validDays: Int, now: UInt64? = nil) throws(TLSError) -> CertificateAuthority {
        try Self.signed(
            by: key, commonName: certificate.subjectCommonName, validDays: validDays, now: now)
    }

    private static func signed(
        by key: PrivateKey, commonName: String, validDays: Int, now: UInt64?
    ) throws(TLSError) -> CertificateAuthority {
        let draft = CertificateDraft(
            publicKey: key.key, commonName: commonName, role: nil,
            validity: try validity(days: validDays, now: now),
            extensions: [
                (NID_basic_constraints, "critical,CA:TRUE,pathlen:0"),
                (NID_key_usage, "critical,keyCertSign,cRLSign"),
                (NID_subject_key_identifier, "hash"),
            ])
        return CertificateAuthority(certificate: try draft.sign(issuer: nil, key: key), key: key)
    }

    /// An authority from its two PEM texts; refused when the certificate is no authority's, or of another key.
    public init(certificatePEM: [UInt8], keyPEM: [UInt8]) throws(TLSError) {
        try self.init(certificatePEM: certificatePEM, key: PrivateKey(pem: keyPEM))
    }

    /// An authority from its certificate's PEM text and its key.
    public init(certificatePEM: [UInt8], key: PrivateKey) throws(TLSError) {
        let certificate = try Certificate(pem: certificatePEM)
        guard certificate.isAuthority else { throw .configuration("the certificate is no authority's") }
        guard certificate.thumbprint == key.publicKeyThumbprint else {
            throw .configuration("the authority's certificate and key do not belong together")
        }
        self.init(certificate: certificate, key: key)
    }

    private init(certificate: Certificate, key: PrivateKey) {
        self.certificate = certificate
        self.key = key
    }

    /// The most names and addresses of a server's certificate.
    public static let serverNamesMax = 48

    /// Makes sure that these can be the names and addresses of a server's certificate.
    ///
    /// - Throws: `configuration`, with the one that cannot.
    public static func check(names: [String], addresses: [String]) throws(TLSError) {
        for name in names { _ = try AlternativeName(dns: name) }
        for address in addresses { _ = try AlternativeName(address: address) }
        guard names.count + addresses.count <= serverNamesMax else {
            throw .configuration("a server's certificate has \(serverNamesMax) names and addresses at most")
        }
    }

    /// The 4 or 16 bytes of an address in text form; nil for anything else.
    public static func addressBytes(_ text: String) -> [UInt8]? { AlternativeName.addressBytes(text) }

    /// A server's certificate for DNS names and IP addresses (text form); at least one of either. The common
    /// name is the first of them, as far as it fits.
    public func issueServer(
        key: PrivateKey, names: [String], addresses: [String], days: Int, now: UInt64? = nil
    ) throws(TLSError) -> Certificate {
        var alternatives = try names.map { name throws(TLSError) in try AlternativeName(dns: name) }
        alternatives += try addresses.map { address throws(TLSError) in try AlternativeName(address: address)
        }
        guard let first = names.first ?? addresses.first else {
            throw .configuration("a server's certificate needs a name or an address")
        }
        return try issue(
            publicKey: key.key, commonName: String(first.prefix(64)), role: nil, alternatives: alternatives,
            usage: "serverAuth", validity: Self.validity(days: days, now: now))
    }

    /// A client's certificate for the key of a checked request. `role` goes into the organizational unit.
    public func issueClient(
        publicKeyFrom request: CertificateRequest, commonName: String, role: String, uris: [String],
        validSeconds: UInt64, now: UInt64? = nil
    ) throws(TLSError) -> Certificate {
        try issueClient(
            publicKey: request.publicKey, commonName: commonName, role: role, uris: uris,
            validSeconds: validSeconds, now: now)
    }

    /// A client's certificate for a key of ours.
    public func issueClient(
        key: PrivateKey, commonName: String, role: String, uris: [String], validSeconds: UInt64,
        now: UInt64? = nil
    ) throws(TLSError) -> Certificate {
        try issueClient(
            publicKey: key.key, commonName: commonName, role: role, uris: uris, validSeconds: validSeconds,
            now: now)
    }

    private func issueClient(
        publicKey: KeyObject, commonName: String, role: String, uris: [String], validSeconds: UInt64,
        now: UInt64?
    ) throws(TLSError) -> Certificate {
        try issue(
            publicKey: publicKey, commonName: commonName, role: role,
            alternatives: uris.map { uri throws(TLSError) in try AlternativeName(uri: uri) },
            usage: "clientAuth", validity: Self.validity(seconds: validSeconds, now: now))
    }

    private func issue(
        publicKey: KeyObject, commonName: String, role: String?, alternatives: [AlternativeName],
        usage: String, validity: ClosedRange<UInt64>
    ) throws(TLSError) -> Certificate {
        let draft = CertificateDraft(
            publicKey: publicKey, commonName: commonName, role: role, validity: validity,
            extensions: [
                (NID_basic_constraints, "critical,CA:FALSE"),
                (NID_key_usage, "critical,digitalSignature"),
                (NID_ext_key_usage, usage),
                (NID_subject_key_identifier, "hash"),
                (NID_authority_key_identifier, "keyid:always"),
            ],
            alternatives: alternatives)
        return try draft.sign(issuer: certificate, key: key)
    }

    private static func validity(days: Int, now: UInt64?) throws(TLSError) -> ClosedRange<UInt64> {
        guard days > 0, days <= 36500 else { throw .configuration("valid for 1 to 36500 days, not \(days)") }
        return try validity(seconds: UInt64(days) * 86400, now: now)
    }

    private static func validity(seconds: UInt64, now: UInt64?) throws(TLSError) -> ClosedRange<UInt64> {
        guard seconds > 0, seconds <= 36500 * 86400 else {
            throw .configuration("valid for 1 second to 36500 days, not \(seconds) seconds")
        }
        let start = now ?? UInt64(time(nil))
        guard start < 1 << 37 else { throw .configuration("\(start) is no time of day") }
        return (start - min(start, backdateSeconds))...(start + seconds)
    }
}

/// One entry of a subject alternative name extension, validated.
struct AlternativeName {
    let type: Int32
    let bytes: [UInt8]

    /// A DNS name of letters, digits, hyphens and dots, with an optional "*." before it.
    init(dns name: String) throws(TLSError) {
        let bytes = Array(name.utf8)
        let plain = name.hasPrefix("*.") ? bytes.dropFirst(2) : bytes[...]
        let labels = plain.split(separator: UInt8(ascii: "."), omittingEmptySubsequences: false)
        let isValid = bytes.count <= 253 && labels.allSatisfy(Self.isLabel)
        guard isValid else { throw .configuration("\"\(name)\" is no DNS name") }
        type = GEN_DNS
        self.bytes = bytes
    }

    /// An IPv4 or IPv6 address in text form.
    init(address text: String) throws(TLSError) {
        guard let bytes = Self.addressBytes(text) else {
            throw .configuration("\"\(text)\" is no IP address")
        }
        type = GEN_IPADD
        self.bytes = bytes
    }

    /// A URI of visible ASCII.
    init(uri: String) throws(TLSError) {
        let bytes = Array(uri.utf8)
        guard !bytes.isEmpty, bytes.count <= 256, bytes.allSatisfy({ $0 > 0x20 && $0 < 0x7F }) else {
            throw .configuration("\"\(uri)\" is no URI for a certificate")
        }
        type = GEN_URI
        self.bytes = bytes
    }

    /// The 4 or 16 bytes of an address in text form; nil for anything else.
    static func addressBytes(_ text: String) -> [UInt8]? {
        guard !text.utf8.contains(0) else { return nil }
        var bytes = [UInt8](repeating: 0, count: 16)
        if unsafe inet_pton(AF_INET, text, &bytes) == 1 { return Array(bytes.prefix(4)) }
        if unsafe inet_pton(AF_INET6, text, &bytes) == 1 { return bytes }
        return nil
    }

    /// An address of 4 or 16 bytes in text form; nil for anything else.
    static func addressText(_ bytes: [UInt8]) -> String? {
        guard bytes.count == 4 || bytes.count == 16 else { return nil }
        var text = [CChar](repeating: 0, count: Int(INET6_ADDRSTRLEN))
        let family = bytes.count == 4 ? AF_INET : AF_INET6
        guard unsafe inet_ntop(family, bytes, &text, socklen_t(text.count)) != nil else { return nil }
        return String(decoding: text.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self)
    }

    private static func isLabel(_ label: ArraySlice<UInt8>) -> Bool {
        let hyphen = UInt8(ascii: "-")
        guard (1...63).contains(label.count), label.first != hyphen, label.last != hyphen else {
            return false
        }
        return label.allSatisfy { byte in
            switch byte {
            case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"),
                UInt8(ascii: "0")...UInt8(ascii: "9"), UInt8(ascii: "_"), hyphen:
                true
            default: false
            }
        }
    }
}
