import Capability
import Catalog
import Core
import TLS

extension Authority {
    /// What a new data folder is told.
    public struct Options: Sendable {
        /// The server's name: it goes into its certificate and its answers.
        public var name: String
        /// Further DNS names for the certificate.
        public var names: [String]
        /// IP addresses for the certificate, in text form.
        public var addresses: [String]

        /// Options; `localhost` and the loopback addresses are always added.
        public init(name: String, names: [String] = [], addresses: [String] = []) {
            self.name = name
            self.names = names
            self.addresses = addresses
        }
    }

    /// Makes a data folder: cluster id, authority, server certificate, signing key, catalog, the pool `default`, and the
    /// administrator's bundle. Everything is checked before anything is made, and what was made is taken away again when
    /// something fails. What a crash leaves is made anew by the next call; anything else in the folder is refused.
    public static func initialise(
        _ folder: DataFolder, options: Options, now: UInt64, random: some RandomSource
    ) async throws(AuthorityError) {
        let names = unique(
            ([options.name].filter { !isAddress($0) } + options.names + ["localhost"]).map { $0.lowercased() }
        )
        let addresses = unique([options.name].filter(isAddress) + options.addresses + ["127.0.0.1", "::1"])
        try check(names: names, addresses: addresses)
        let wasThere = PrivateFiles.exists(folder.path)
        try prepare(folder)
        do throws(AuthorityError) {
            let server = ServerRecord(
                clusterID: .random(using: random), name: options.name, names: names, addresses: addresses,
                createdAt: now)
            try await fill(folder, server: server, now: now, random: random)
        } catch {
            takeBack(folder, wasThere: wasThere)
            throw error
        }
    }

    /// Refuses what cannot be a name or an address of the server, in words that say which.
    static func check(names: [String], addresses: [String]) throws(AuthorityError) {
        for name in names {
            // Certificates may have underscores; names of machines may not (RFC 1123 §2.1).
            if name.contains("_") { throw .badName(name) }
            do throws(TLSError) { try CertificateAuthority.check(names: [name], addresses: []) } catch {
                throw .badName(name)
            }
        }
        for address in addresses where CertificateAuthority.addressBytes(address) == nil {
            throw .badAddress(address)
        }
        guard names.count + addresses.count <= CertificateAuthority.serverNamesMax else {
            throw .tooManyNames(max: CertificateAuthority.serverNamesMax)
        }
    }

    private static func fill(
        _ folder: DataFolder, server: ServerRecord, now: UInt64, random: some RandomSource
    ) async throws(AuthorityError) {
        let certificates = try makeAuthority(in: folder, clusterID: server.clusterID, now: now)
        try makeServerKey(in: folder)
        let admin = try makeAdmin(
            in: folder, certificates: certificates, id: .random(using: random), now: now)
        let key = try makeSigningKey(in: folder, now: now)
        try PrivateFiles.write(Array((Hex.encode(random.bytes(32)) + "\n").utf8), to: folder.tokenKey)
        for path in [folder.poolsFolder, "\(folder.poolsFolder)/default", folder.runFolder] {
            try PrivateFiles.makeFolder(path)
        }
        let pool = PoolRecord(
            id: .random(using: random), name: "default", driver: "file", settings: [:], createdAt: now)
        do throws(CatalogError) {
            let catalog = try SQLiteCatalog(path: folder.catalogFile)
            let store = try await RecordStore(catalog: catalog)
            var changes = RecordChanges()
            try changes.insert(server)
            try changes.insert(key)
            try changes.insert(pool)
            try changes.insert(admin)
            try await store.commit(changes)
            // Loading proves that the files are good before the folder counts as made.
            do throws(AuthorityError) {
                let authority = try load(folder, store: store, now: now)
                if let trouble = authority.troubles.values.first { throw trouble }
            } catch {
                try catalog.close()
                throw CatalogError.failed(error.description)
            }
            try catalog.close()
        } catch { throw .file(path: folder.path, reason: error.description) }
        try PrivateFiles.write(Array(DataFolder.marker.utf8), to: folder.markerFile)
        try PrivateFiles.removeAll(folder.unfinishedFile)
    }

    /// Removes what `fill` has made; what cannot be removed is made anew by the next `init`.
    private static func takeBack(_ folder: DataFolder, wasThere: Bool) {
        for part in DataFolder.parts where part != ".unfinished" {
            try? PrivateFiles.removeAll("\(folder.path)/\(part)")
        }
        try? PrivateFiles.removeAll(folder.unfinishedFile)
        if !wasThere { PrivateFiles.removeEmptyFolder(folder.path) }
    }

    // MARK: Steps

    /// Makes the folder, or takes away what an interrupted `init` left; refuses anything else.
    private static func prepare(_ folder: DataFolder) throws(AuthorityError) {
        let names = try PrivateFiles.names(in: folder.path) ?? []
        if names.contains("sluice-data") {
            try PrivateFiles.removeAll(folder.unfinishedFile)
            throw .alreadyInitialised(folder: folder.path)
        }
        // A new ext4 has this folder at its top.
        let others = names.filter { $0 != "lost+found" }
        let isUnfinished = others.contains(".unfinished") || others == [".unfinished.new"]
        let strangers = isUnfinished ? others.filter { !DataFolder.parts.contains($0) } : others
        if let example = strangers.first { throw .notEmpty(folder: folder.path, example: example) }
        do throws(AuthorityError) { try PrivateFiles.makeFolder(folder.path) } catch {
            guard case .file(let path, let reason) = error, PrivateFiles.isMissing(parentOf: path) else {
                throw error
            }
            throw .file(path: path, reason: "\(reason): make the folder above it first")
        }
        if !others.contains(".unfinished") {
            try PrivateFiles.write(Array("sluiced init has not finished\n".utf8), to: folder.unfinishedFile)
        }
        for part in DataFolder.parts where part != ".unfinished" {
            try PrivateFiles.removeAll("\(folder.path)/\(part)")
        }
    }

    private static func makeAuthority(
        in folder: DataFolder, clusterID: Identifier, now: UInt64
    ) throws(AuthorityError) -> CertificateAuthority {
        try PrivateFiles.makeFolder(folder.authorityFolder)
        let certificates = try translating("the authority") { () throws(TLSError) in
            try CertificateAuthority.create(
                commonName: "Sluice \(clusterID.hex.prefix(8))", validDays: Days.authority, now: now)
        }
        try PrivateFiles.write(certificates.certificate.pem, to: folder.authorityCertificate)
        try PrivateFiles.write(certificates.key.pem, to: folder.authorityKey)
        return certificates
    }

    private static func makeServerKey(in folder: DataFolder) throws(AuthorityError) {
        try PrivateFiles.makeFolder(folder.serverFolder)
        try PrivateFiles.write(PrivateKey.generateP256().pem, to: folder.serverKey)
    }

    private static func makeAdmin(
        in folder: DataFolder, certificates: CertificateAuthority, id: Identifier, now: UInt64
    ) throws(AuthorityError) -> AdminRecord {
        try PrivateFiles.makeFolder(folder.adminFolder)
        let key = PrivateKey.generateP256()
        let certificate = try adminCertificate(certificates, key: key, name: "admin", id: id, now: now)
        try writeBundle(to: folder.adminFolder, certificates: certificates, certificate, key)
        return AdminRecord(
            id: id, name: "admin", keyThumbprint: key.publicKeyThumbprint,
            certificateExpiresAt: certificate.notAfter, createdAt: now)
    }

    private static func makeSigningKey(in folder: DataFolder, now: UInt64) throws(AuthorityError) -> KeyRecord
    {
        try PrivateFiles.makeFolder(folder.signingFolder)
        let (seed, signer) = OpenSSLSignatures().makeKey()
        let id = Hex.encode(keyID(of: signer.publicKey))
        try PrivateFiles.write(Array((Hex.encode(seed) + "\n").utf8), to: folder.signingKey(id))
        return KeyRecord(keyID: id, publicKey: Hex.encode(signer.publicKey), createdAt: now)
    }

    private static func unique(_ texts: [String]) -> [String] {
        var seen: Set<String> = []
        return texts.filter { seen.insert($0).inserted }
    }

    /// Whether a text is meant as an IP address, right or wrong: no name has a colon, or digits and dots alone.
    public static func isAddress(_ text: String) -> Bool {
        text.contains(":") || !text.isEmpty && text.allSatisfy { $0.isASCII && $0.isNumber || $0 == "." }
    }
}
