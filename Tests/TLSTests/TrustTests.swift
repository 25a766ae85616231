import Core
import Testing

@testable import TLS

/// Who is trusted, in every mode, and every refusal.
@Suite struct TrustTests {
    let pki: TestAuthority
    let other: TestAuthority

    init() throws {
        pki = try TestAuthority()
        other = try TestAuthority(commonName: "Another CA")
    }

    // MARK: The server, as clients see it

    @Test(arguments: ["server.test", "192.0.2.7", "2001:db8::7"])
    func aServerIsTrustedByItsAuthorityUnderEveryNameOfItsCertificate(_ name: String) throws {
        let pair = try pki.pair(serverName: name)
        try pair.handshake()
        #expect(pair.client.peerCertificate?.dnsNames == ["server.test"])
    }

    @Test(arguments: ["server.test", "192.0.2.7", "2001:db8::7"])
    func aServerIsTrustedByTheFingerprintOfItsAuthority(_ name: String) throws {
        let trust = ServerTrust.fingerprint(pki.authority.certificate.fingerprint)
        let pair = try pki.pair(
            server: optional(), client: pki.clientContext(trust, anonymous: true), serverName: name)
        try pair.handshake()
        #expect(pair.client.peerChain.map(\.fingerprint).last == pki.authority.certificate.fingerprint)
    }

    @Test(arguments: ["other.test", "192.0.2.8", "2001:db8::8", "server.test.example", "*.test", "test"])
    func aServerUnderAnotherNameIsRefused(_ name: String) throws {
        for trust in [
            ServerTrust.authority(caPEM: pki.caPEM), .fingerprint(pki.authority.certificate.fingerprint),
        ] {
            let pair = try pki.pair(client: pki.clientContext(trust), serverName: name)
            #expect(
                throws: TLSError.misnamedPeer(
                    wanted: name, names: ["server.test", "192.0.2.7", "2001:db8::7"])
            ) { try pair.handshake() }
        }
    }

    @Test func aServerOfAnotherAuthorityIsRefused() throws {
        let pair = try pki.pair(client: pki.clientContext(.authority(caPEM: other.caPEM)))
        expectUntrusted(pair, containing: "self-signed certificate in certificate chain")
    }

    @Test func aServerWhoseChainLacksTheFingerprintIsRefused() throws {
        let trust = ServerTrust.fingerprint(other.authority.certificate.fingerprint)
        let pair = try pki.pair(client: pki.clientContext(trust))
        expectUntrusted(pair, containing: "fingerprint")
    }

    @Test func aServerThatSendsTheRightAuthorityNextToAForeignCertificateIsRefused() throws {
        // A man in the middle knows the authority's certificate; it is public. What he lacks is its key.
        let chain = other.server.chainPEM + pki.caPEM
        let server = try pki.serverContext(identity: .init(chainPEM: chain, key: other.server.key))
        let trust = ServerTrust.fingerprint(pki.authority.certificate.fingerprint)
        let pair = try pki.pair(server: server, client: pki.clientContext(trust))
        expectUntrusted(pair, containing: "self-signed certificate in certificate chain")
    }

    @Test func anAuthorityOfTheSameNameWithAnotherKeyIsRefused() throws {
        let impostor = try TestAuthority()
        let chain = try Certificate(pem: impostor.server.chainPEM).pem + pki.caPEM
        for chainPEM in [chain, impostor.server.chainPEM, impostor.server.chainPEM + pki.caPEM] {
            let server = try pki.serverContext(identity: .init(chainPEM: chainPEM, key: impostor.server.key))
            for trust in [
                ServerTrust.authority(caPEM: pki.caPEM), .fingerprint(pki.authority.certificate.fingerprint),
            ] {
                expectUntrusted(
                    try pki.pair(server: server, client: pki.clientContext(trust)), containing: "")
            }
        }
    }

    @Test func aLeafWhoseOwnFingerprintIsPinnedIsNoAuthority() throws {
        let leaf = try Certificate(pem: pki.server.chainPEM)
        let pair = try pki.pair(client: pki.clientContext(.fingerprint(leaf.fingerprint)))
        expectUntrusted(pair, containing: "fingerprint")
    }

    @Test func aCertificateOfASubjectThatIsNoAuthorityIsRefused() throws {
        // Signed with the key of a server's certificate, which was issued by the right authority.
        let rogue = try CertificateDraft.leafIssuedByLeaf(pki)
        let server = try pki.serverContext(identity: rogue)
        for trust in [
            ServerTrust.authority(caPEM: pki.caPEM), .fingerprint(pki.authority.certificate.fingerprint),
        ] {
            let pair = try pki.pair(server: server, client: pki.clientContext(trust))
            expectUntrusted(pair, containing: "")
        }
    }

    @Test func anExpiredServerIsRefused() throws {
        let key = PrivateKey.generateP256()
        let past = OpenSSLTime.now - 10 * 86400
        let certificate = try pki.authority.issueServer(
            key: key, names: ["server.test"], addresses: [], days: 1, now: past)
        let identity = TLSContext.Identity(chainPEM: certificate.pem + pki.caPEM, key: key)
        for trust in [
            ServerTrust.authority(caPEM: pki.caPEM), .fingerprint(pki.authority.certificate.fingerprint),
        ] {
            let pair = try pki.pair(
                server: pki.serverContext(identity: identity), client: pki.clientContext(trust))
            expectUntimely(pair, certificate)
        }
    }

    @Test func aServerFromTheFutureIsRefused() throws {
        let key = PrivateKey.generateP256()
        let certificate = try pki.authority.issueServer(
            key: key, names: ["server.test"], addresses: [], days: 1, now: OpenSSLTime.now + 86400)
        let identity = TLSContext.Identity(chainPEM: certificate.pem + pki.caPEM, key: key)
        expectUntimely(try pki.pair(server: pki.serverContext(identity: identity)), certificate)
    }

    @Test func anAuthorityThatIsRenewedByItsKeyIsTheSameToWhoHasEither() throws {
        let renewed = try pki.authority.renewed(validDays: 30)
        #expect(renewed.certificate.fingerprint != pki.authority.certificate.fingerprint)
        let key = PrivateKey.generateP256()
        for issuer in [pki.authority, renewed] {
            let certificate = try issuer.issueServer(key: key, names: ["server.test"], addresses: [], days: 1)
            let identity = TLSContext.Identity(
                chainPEM: certificate.pem + renewed.certificate.pem, key: key)
            for trusted in [pki.authority, renewed] {
                let pair = try pki.pair(
                    server: pki.serverContext(identity: identity),
                    client: pki.clientContext(.authority(caPEM: trusted.certificate.pem)))
                try pair.handshake()
            }
        }
    }

    @Test func aClientsCertificateIsNoServers() throws {
        let server = try pki.serverContext(identity: pki.client)
        expectUntrusted(try pki.pair(server: server), containing: "")
    }

    // MARK: Clients, as servers see them

    @Test func anyKeyIsAcceptedWhereOnlyTheKeyCounts() throws {
        // Another authority's, expired, and as a server's certificate: only possession of the key is proved.
        let key = PrivateKey.generateEd25519()
        let old = try other.authority.issueClient(
            key: key, commonName: "old", role: "node", uris: [], validSeconds: 60,
            now: OpenSSLTime.now - 86400)
        for identity in [pki.client, other.client, other.server, .init(chainPEM: old.pem, key: key)] {
            let pair = try pki.pair(client: pki.clientContext(identity: identity))
            try pair.handshake()
            #expect(pair.server.peerThumbprint == identity.key.publicKeyThumbprint)
            #expect(pair.clientVerdict() == nil)
        }
    }

    @Test func aClientWithoutCertificateIsRefusedWhereAKeyIsRequired() throws {
        let pair = try pki.pair(client: pki.clientContext(anonymous: true))
        let error = #expect(throws: TLSError.self) { try pair.handshake() }
        #expect(error == .untrustedPeer("it presented no certificate"))
        #expect(pair.clientVerdict() == .peerAlert("certificate required"))
    }

    @Test func aClientWithoutCertificateIsAcceptedWhereItIsOptional() throws {
        let pair = try pki.pair(server: optional(), client: pki.clientContext(anonymous: true))
        try pair.handshake()
        #expect(pair.server.peerCertificate == nil)
        #expect(pair.server.peerThumbprint == nil)
    }

    @Test func aVerifiedClientShowsItsRoleAndNode() throws {
        let pair = try pki.pair(server: optional())
        try pair.handshake()
        let certificate = try #require(pair.server.peerCertificate)
        #expect(certificate.organizationalUnit == "node")
        #expect(certificate.subjectCommonName == "node-1")
        #expect(certificate.nodeID == Identifier(hex: String(repeating: "ab", count: 16)))
    }

    @Test func aClientOfAnotherAuthorityIsRefusedWhereItIsVerified() throws {
        let pair = try pki.pair(server: optional(), client: pki.clientContext(identity: other.client))
        expectUntrusted(pair, containing: "")
        #expect(pair.clientVerdict() == .peerAlert("unknown CA"))
    }

    @Test(arguments: [-3600, 3600])
    func aClientWhoseTimeIsWrongIsLetInAndKnownForIt(_ shift: Int) throws {
        let now = UInt64(Int(OpenSSLTime.now) + shift)
        let issue = { (authority: CertificateAuthority) throws in
            try authority.issueClient(
                key: pki.client.key, commonName: "node-1", role: "node", uris: [], validSeconds: 60, now: now)
        }
        let certificate = try issue(pki.authority)
        let identity = TLSContext.Identity(chainPEM: certificate.pem, key: pki.client.key)
        let pair = try pki.pair(server: optional(), client: pki.clientContext(identity: identity))
        try pair.handshake()
        #expect(pair.server.peerCertificate?.isValid(at: OpenSSLTime.now) == false)
        // That its time is wrong excuses nothing else.
        let foreign = TLSContext.Identity(chainPEM: try issue(other.authority).pem, key: pki.client.key)
        expectUntrusted(
            try pki.pair(server: optional(), client: pki.clientContext(identity: foreign)), containing: "")
        let unfit = try pki.authority.issueServer(
            key: pki.client.key, names: ["server.test"], addresses: [], days: 1, now: now - 2 * 86400)
        let server = TLSContext.Identity(chainPEM: unfit.pem, key: pki.client.key)
        expectUntrusted(
            try pki.pair(server: optional(), client: pki.clientContext(identity: server)), containing: "")
    }

    @Test func aServersCertificateIsNoClients() throws {
        let pair = try pki.pair(server: optional(), client: pki.clientContext(identity: pki.server))
        expectUntrusted(pair, containing: "")
    }

    // MARK: Application protocols

    @Test func theFirstOfTheServersProtocolsThatTheClientOffersIsChosen() throws {
        let pair = try pki.pair(
            server: pki.serverContext(alpn: ["sluice/1", "h2"]),
            client: pki.clientContext(alpn: ["http/1.1", "h2", "sluice/1"]))
        try pair.handshake()
        #expect(pair.client.alpn == "sluice/1")
        #expect(pair.server.alpn == "sluice/1")
    }

    @Test func noCommonProtocolEndsTheHandshake() throws {
        let pair = try pki.pair(
            server: pki.serverContext(alpn: ["sluice/1"]), client: pki.clientContext(alpn: ["h2", "sluice"]))
        #expect(throws: TLSError.self) { try pair.handshake() }
        #expect(pair.clientVerdict() == .peerAlert("no application protocol"))
    }

    @Test func aClientThatOffersNoProtocolGetsNone() throws {
        let pair = try pki.pair(server: pki.serverContext(alpn: ["sluice/1"]))
        try pair.handshake()
        #expect(pair.server.alpn == nil)
    }

    // MARK: Set-up that makes no sense

    @Test func aContextRefusesAForeignKey() throws {
        #expect(throws: TLSError.configuration("the certificate and the key do not belong together")) {
            try TLSContext.server(
                chainPEM: pki.server.chainPEM, key: .generateP256(), clients: .anyKey, alpn: [])
        }
    }

    @Test func aContextRefusesToTrustACertificateThatIsNoAuthoritys() throws {
        #expect(throws: TLSError.self) { try pki.clientContext(.authority(caPEM: pki.client.chainPEM)) }
        #expect(throws: TLSError.self) { try pki.clientContext(.authority(caPEM: [])) }
    }

    @Test(arguments: [nil, "", "a\0b"])
    func aClientMustNameItsServer(_ name: String?) throws {
        let context = try pki.clientContext()
        #expect(throws: TLSError.self) { try TLSConnection(context: context, serverName: name) }
    }

    private func optional() throws -> TLSContext { try pki.serverContext(.optional(caPEM: pki.caPEM)) }

    private func expectUntimely(
        _ pair: Pair, _ certificate: Certificate, sourceLocation: SourceLocation = #_sourceLocation
    ) {
        let error = #expect(throws: TLSError.self, sourceLocation: sourceLocation) { try pair.handshake() }
        guard case .untimelyPeer(certificate.notBefore, certificate.notAfter, let now, false)? = error else {
            Issue.record("\(String(describing: error)) is not about time", sourceLocation: sourceLocation)
            return
        }
        #expect(now + 60 > OpenSSLTime.now, sourceLocation: sourceLocation)
        let text = error.map(String.init(describing:)) ?? ""
        #expect(text.contains("clock says \(Timestamp.text(now))"), sourceLocation: sourceLocation)
    }

    private func expectUntrusted(
        _ pair: Pair, containing text: String, sourceLocation: SourceLocation = #_sourceLocation
    ) {
        let error = #expect(throws: TLSError.self, sourceLocation: sourceLocation) { try pair.handshake() }
        guard case .untrustedPeer(let reason) = error else {
            Issue.record("\(String(describing: error)) is not about trust", sourceLocation: sourceLocation)
            return
        }
        #expect(text.isEmpty || reason.contains(text), sourceLocation: sourceLocation)
    }
}

extension CertificateDraft {
    /// A server's identity that another server's key signed, which is no authority.
    static func leafIssuedByLeaf(_ pki: TestAuthority) throws -> TLSContext.Identity {
        let key = PrivateKey.generateP256()
        let issuer = try Certificate(pem: pki.server.chainPEM)
        let names = [try AlternativeName(dns: "server.test")]
        let now = OpenSSLTime.now
        let draft = CertificateDraft(
            publicKey: key.key, commonName: "server.test", role: nil, validity: (now - 60)...(now + 3600),
            extensions: [], alternatives: names)
        let leaf = try draft.sign(issuer: issuer, key: pki.server.key)
        return .init(chainPEM: leaf.pem + pki.server.chainPEM, key: key)
    }
}
