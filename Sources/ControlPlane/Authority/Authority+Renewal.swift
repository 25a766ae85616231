import Catalog
import Core
import TLS

/// What a certificate is for.
public enum CertificateKind: String, Sendable, CaseIterable {
    /// The cluster's own, which signs the others.
    case authority
    /// The server's, on both ports.
    case server
    /// An administrator's.
    case admin
    /// A node's.
    case node
}

/// Certificates are renewed by their keys, well before they end, at a start and while the server runs.
extension Authority {
    /// Renews what ends soon, or does not count yet because the clock was wrong when it was made.
    ///
    /// - Parameters:
    ///   - server: the names that the server's certificate must have; one that lacks some is made anew.
    ///   - bundle: the key of the administrator whose bundle is in the data folder; another one is left alone.
    /// - Returns: what was renewed. What could not be written is in use all the same, and in `troubles`.
    mutating func renew(
        server: ServerRecord, bundle: Digest32? = nil, now: UInt64
    ) throws(AuthorityError) -> [(kind: CertificateKind, expiresAt: UInt64)] {
        var renewed: [(kind: CertificateKind, expiresAt: UInt64)] = []
        let isAuthorityDue = Self.isDue(certificates.certificate, days: Days.renewAuthorityBefore, now: now)
        if isAuthorityDue {
            let present = certificates
            certificates = try Self.translating("the authority's certificate") { () throws(TLSError) in
                try present.renewed(validDays: Days.authority, now: now)
            }
            renewed.append((.authority, certificates.certificate.notAfter))
        }
        if isAuthorityDue || troubles[.authority] != nil { saveAuthority() }
        let isServerDue =
            Self.isDue(serverCertificate, days: Days.renewBefore, now: now) || !hasNames(of: server)
        if isServerDue {
            serverCertificate = try Self.issueServer(
                server, certificates: certificates, key: serverKey, now: now)
            renewed.append((.server, serverCertificate.notAfter))
        }
        if isServerDue || isAuthorityDue || troubles[.server] != nil { saveServer() }
        do throws(AuthorityError) {
            if let expiry = try renewBundle(of: bundle, now: now) { renewed.append((.admin, expiry)) }
            troubles[.admin] = nil
        } catch { troubles[.admin] = error }
        return renewed
    }

    /// Whether a certificate has fewer than `days` left, or is of another time altogether.
    static func isDue(_ certificate: Certificate, days: UInt64, now: UInt64) -> Bool {
        certificate.notAfter <= now + days * 86400 || certificate.notBefore > now
    }

    private func hasNames(of server: ServerRecord) -> Bool {
        let wanted = Set(server.names.map { $0.lowercased() })
        return wanted.isSubset(of: serverCertificate.dnsNames.map { $0.lowercased() })
            && serverCertificate.dnsNames.count == server.names.count
            && serverCertificate.addresses.count == server.addresses.count
            && Set(server.addresses.map(CertificateAuthority.addressBytes)).isSubset(
                of: serverCertificate.addresses.map(Optional.some))
    }

    static func issueServer(
        _ server: ServerRecord, certificates: CertificateAuthority, key: PrivateKey, now: UInt64
    ) throws(AuthorityError) -> Certificate {
        try translating("the server's certificate") { () throws(TLSError) in
            try certificates.issueServer(
                key: key, names: server.names, addresses: server.addresses, days: Days.server, now: now)
        }
    }

    mutating func saveServer() { save(.server, serverChainPEM, to: folder.serverCertificate) }

    private mutating func saveAuthority() {
        save(.authority, certificates.certificate.pem, to: folder.authorityCertificate)
    }

    private mutating func save(_ kind: CertificateKind, _ pem: [UInt8], to path: String) {
        do throws(AuthorityError) {
            try PrivateFiles.write(pem, to: path)
            troubles[kind] = nil
        } catch { troubles[kind] = error }
    }

    // MARK: Administrators

    static func adminCertificate(
        _ certificates: CertificateAuthority, request: CertificateRequest, name: String, id: Identifier,
        now: UInt64
    ) throws(TLSError) -> Certificate {
        try certificates.issueClient(
            publicKeyFrom: request, commonName: name, role: PeerRole.admin.rawValue,
            uris: [Certificate.adminURIPrefix + id.hex], validSeconds: UInt64(Days.admin) * 86400, now: now)
    }

    static func adminCertificate(
        _ certificates: CertificateAuthority, key: PrivateKey, name: String, id: Identifier, now: UInt64
    ) throws(AuthorityError) -> Certificate {
        try translating("the administrator's certificate") { () throws(TLSError) in
            try certificates.issueClient(
                key: key, commonName: name, role: PeerRole.admin.rawValue,
                uris: [Certificate.adminURIPrefix + id.hex], validSeconds: UInt64(Days.admin) * 86400,
                now: now)
        }
    }

    /// The key of the bundle in the data folder; nil when there is none, or it was moved away.
    static func bundle(in folder: DataFolder) -> Certificate? {
        guard let pem = try? PrivateFiles.read("\(folder.adminFolder)/cert.pem") else { return nil }
        return try? Certificate(pem: pem)
    }

    /// Renews the administrator's certificate in place; a bundle of another key, or that was moved away, is left alone.
    private func renewBundle(of owner: Digest32?, now: UInt64) throws(AuthorityError) -> UInt64? {
        let path = "\(folder.adminFolder)/cert.pem"
        let keyPath = "\(folder.adminFolder)/key.pem"
        guard let owner, PrivateFiles.exists(path), PrivateFiles.exists(keyPath) else { return nil }
        let pem = try PrivateFiles.read(path)
        let present = try Self.translating(path) { () throws(TLSError) in try Certificate(pem: pem) }
        guard present.thumbprint == owner else { return nil }
        let authorityPath = "\(folder.adminFolder)/ca.pem"
        if (try? PrivateFiles.read(authorityPath)) != certificates.certificate.pem {
            try PrivateFiles.write(certificates.certificate.pem, to: authorityPath)
        }
        guard Self.isDue(present, days: Days.renewBefore, now: now) else { return nil }
        let key = try Self.privateKey(keyPath)
        guard key.publicKeyThumbprint == owner else { return nil }
        let (issuer, id) = (certificates, present.adminID)
        let fresh = try Self.translating("the administrator's certificate") { () throws(TLSError) in
            try issuer.issueClient(
                key: key, commonName: present.subjectCommonName, role: PeerRole.admin.rawValue,
                uris: id.map { [Certificate.adminURIPrefix + $0.hex] } ?? [],
                validSeconds: UInt64(Days.admin) * 86400, now: now)
        }
        try PrivateFiles.write(fresh.pem, to: path)
        return fresh.notAfter
    }

    /// Makes an administrator while no server uses the folder, in case no other can: a name that is there gets a new key.
    ///
    /// - Parameter output: a new folder, for the bundle.
    public static func addAdmin(
        _ name: ResourceName, to folder: DataFolder, output: String, now: UInt64, random: some RandomSource
    ) async throws(AuthorityError) {
        let lock = try folder.lock()
        defer { withExtendedLifetime(lock) {} }
        guard !PrivateFiles.exists(output) else {
            throw .file(path: output, reason: "is there already: name a new folder")
        }
        try PrivateFiles.makeFolder(output)
        do throws(AuthorityError) {
            let catalog = try await opened(folder)
            defer { try? catalog.catalog.close() }
            let authority = try load(folder, store: catalog.store, now: now)
            let key = PrivateKey.generateP256()
            let old = catalog.store.get(AdminRecord.self, name.text)
            let id = Identifier.random(using: random)
            let certificate = try adminCertificate(
                authority.certificates, key: key, name: name.text, id: id, now: now)
            try writeBundle(to: output, certificates: authority.certificates, certificate, key)
            let record = AdminRecord(
                id: id, name: name.text, keyThumbprint: key.publicKeyThumbprint,
                certificateExpiresAt: certificate.notAfter, createdAt: now)
            do throws(CatalogError) {
                var changes = RecordChanges()
                try changes.put(record, over: old?.revision ?? 0)
                try await catalog.store.commit(changes)
            } catch { throw AuthorityError.file(path: folder.catalogFile, reason: error.description) }
        } catch {
            try? PrivateFiles.removeAll(output)
            throw error
        }
    }

    private static func opened(
        _ folder: DataFolder
    ) async throws(AuthorityError) -> (catalog: SQLiteCatalog, store: RecordStore) {
        do throws(CatalogError) {
            let catalog = try SQLiteCatalog(path: folder.catalogFile)
            return (catalog, try await RecordStore(catalog: catalog))
        } catch { throw .file(path: folder.catalogFile, reason: error.description) }
    }

    static func writeBundle(
        to path: String, certificates: CertificateAuthority, _ certificate: Certificate, _ key: PrivateKey
    ) throws(AuthorityError) {
        try PrivateFiles.write(certificates.certificate.pem, to: "\(path)/ca.pem")
        try PrivateFiles.write(certificate.pem, to: "\(path)/cert.pem")
        try PrivateFiles.write(key.pem, to: "\(path)/key.pem")
    }
}
