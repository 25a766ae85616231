import Capability
import Catalog
import Core
import TLS

/// The keys and certificates of a cluster, as its data folder holds them.
///
/// Any thread.
public struct Authority: Sendable {
    /// The key that signs capabilities.
    public struct SigningKey: Sendable {
        /// The key id that capabilities carry.
        public let id: [UInt8]
        /// Signs.
        public let signer: any SignatureSigner
    }

    /// The cluster's id.
    public let clusterID: Identifier
    /// The name that the server was given.
    public let name: String
    /// Issues certificates.
    public internal(set) var certificates: CertificateAuthority
    /// The server's certificate.
    public internal(set) var serverCertificate: Certificate
    /// The server's key.
    public let serverKey: PrivateKey
    /// Signs capabilities.
    public let signingKey: SigningKey
    /// From which the secrets of enrolment tokens are derived.
    let tokenKey: SecretBytes
    /// Where all of it is kept.
    let folder: DataFolder
    /// What is wrong with a file, by what it is for: its content is in use, and in memory only.
    public internal(set) var troubles: [CertificateKind: AuthorityError] = [:]

    /// The server's certificate, followed by the authority's, so that clients can pin that by fingerprint.
    public var serverChainPEM: [UInt8] { serverCertificate.pem + certificates.certificate.pem }

    /// How long certificates count, and how early they are renewed, in days.
    enum Days {
        static let authority = 3650
        static let server = 365
        static let admin = 365
        static let renewBefore: UInt64 = 60
        /// The authority's reaches nodes when they renew theirs, and administrators likewise: that takes a year.
        static let renewAuthorityBefore: UInt64 = 730
    }

    /// A key's id: the first eight bytes of its SHA-256.
    static func keyID(of publicKey: [UInt8]) -> [UInt8] {
        Array(SHA256.hash(publicKey).bytes.prefix(8))
    }

    /// Reads the keys of a data folder, and renews the certificates that end soon. One that cannot be written is used all
    /// the same, and is in `troubles`.
    ///
    /// - Parameters:
    ///   - folder: a folder that is locked.
    ///   - store: its records.
    public static func load(
        _ folder: DataFolder, store: RecordStore, now: UInt64
    ) throws(AuthorityError) -> Authority {
        guard let server = store.get(ServerRecord.self, "self")?.record,
            let key = store.all(KeyRecord.self, where: { $0.verifiesUntil == nil }).last?.record
        else { throw .invalid(what: folder.catalogFile, reason: "it lacks the server's record") }
        let certificates = try translating(folder.authorityFolder) { () throws(TLSError) in
            try CertificateAuthority(
                certificatePEM: try file(folder.authorityCertificate), keyPEM: try file(folder.authorityKey))
        }
        let serverKey = try privateKey(folder.serverKey)
        let (certificate, isNew) = try serverCertificate(
            in: folder, server: server, certificates: certificates, key: serverKey, now: now)
        var authority = Authority(
            clusterID: server.clusterID, name: server.name, certificates: certificates,
            serverCertificate: certificate, serverKey: serverKey, signingKey: try signingKey(key, in: folder),
            tokenKey: SecretBytes(try hexFile(folder.tokenKey)), folder: folder)
        if isNew { authority.saveServer() }
        _ = try authority.renew(server: server, now: now)
        return authority
    }

    // MARK: Parts

    private static func signingKey(
        _ record: KeyRecord, in folder: DataFolder
    ) throws(AuthorityError) -> SigningKey {
        let path = folder.signingKey(record.keyID)
        let seed = try hexFile(path)
        do throws(CapabilityError) {
            let signer = try OpenSSLSignatures().signer(seed: seed)
            guard Hex.encode(signer.publicKey) == record.publicKey, let id = Hex.decode(record.keyID) else {
                throw .malformed("it is not the key that the catalog names")
            }
            return SigningKey(id: id, signer: signer)
        } catch { throw .invalid(what: path, reason: "\(error)") }
    }

    /// The server's certificate as its file has it, or a new one.
    private static func serverCertificate(
        in folder: DataFolder, server: ServerRecord, certificates: CertificateAuthority, key: PrivateKey,
        now: UInt64
    ) throws(AuthorityError) -> (Certificate, isNew: Bool) {
        let path = folder.serverCertificate
        if PrivateFiles.exists(path) {
            let pem = try PrivateFiles.read(path)
            let present = try translating(path) { () throws(TLSError) in try Certificate(pem: pem) }
            if present.thumbprint == key.publicKeyThumbprint { return (present, false) }
        }
        return (try issueServer(server, certificates: certificates, key: key, now: now), true)
    }

    static func privateKey(_ path: String) throws(AuthorityError) -> PrivateKey {
        let pem = try PrivateFiles.read(path)
        return try translating(path) { () throws(TLSError) in try PrivateKey(pem: SecretBytes(pem)) }
    }

    private static func hexFile(_ path: String) throws(AuthorityError) -> [UInt8] {
        let text = String(decoding: try PrivateFiles.read(path), as: UTF8.self).filter { $0 != "\n" }
        guard let bytes = Hex.decode(text), bytes.count == 32 else {
            throw .invalid(what: path, reason: "it does not hold 64 hex digits")
        }
        return bytes
    }

    private static func file(_ path: String) throws(TLSError) -> [UInt8] {
        do throws(AuthorityError) { return try PrivateFiles.read(path) } catch {
            throw .configuration(error.description)
        }
    }

    static func translating<Value>(
        _ what: String, _ body: () throws(TLSError) -> Value
    ) throws(AuthorityError) -> Value {
        do throws(TLSError) { return try body() } catch { throw .invalid(what: what, reason: "\(error)") }
    }
}
