import Core
import Simulation
import Testing

@testable import TLS

@Suite struct CertificateTests {
    private let authority: CertificateAuthority

    init() throws { authority = try CertificateAuthority.create(commonName: "Sluice test CA", validDays: 30) }

    @Test func anAuthorityCertifiesItself() throws {
        let certificate = authority.certificate
        #expect(certificate.isAuthority)
        #expect(certificate.subjectCommonName == "Sluice test CA")
        #expect(certificate.thumbprint == authority.key.publicKeyThumbprint)
        let again = try CertificateAuthority(certificatePEM: certificate.pem, keyPEM: authority.key.pem)
        #expect(again.certificate == certificate)
    }

    @Test func anAuthorityRefusesAForeignKeyAndACertificateThatIsNoAuthoritys() throws {
        #expect(throws: TLSError.self) {
            try CertificateAuthority(certificatePEM: authority.certificate.pem, key: .generateP256())
        }
        let key = PrivateKey.generateP256()
        let leaf = try authority.issueServer(key: key, names: ["a"], addresses: [], days: 1)
        #expect(throws: TLSError.self) { try CertificateAuthority(certificatePEM: leaf.pem, key: key) }
    }

    @Test func aServersCertificateNamesWhatWasAsked() throws {
        let key = PrivateKey.generateEd25519()
        let certificate = try authority.issueServer(
            key: key, names: ["io-1.example", "*.example"], addresses: ["10.0.0.1", "::1"], days: 2,
            now: 1_800_000_000)
        #expect(certificate.dnsNames == ["io-1.example", "*.example"])
        #expect(certificate.addresses == [[10, 0, 0, 1], [UInt8](repeating: 0, count: 15) + [1]])
        #expect(certificate.subjectCommonName == "io-1.example")
        #expect(certificate.notBefore == 1_800_000_000 - 300)
        #expect(certificate.notAfter == 1_800_000_000 + 2 * 86400)
        #expect(certificate.isValid(at: 1_800_000_000) && !certificate.isValid(at: 1_800_172_801))
        #expect(!certificate.isAuthority)
        #expect(certificate.thumbprint == key.publicKeyThumbprint)
    }

    @Test(arguments: [
        "", "a b", "a,DNS:evil.example", "-a", "a-", "a..b", ".", "a\0", "ü.example", "*", "a.*.b",
    ])
    func noCertificateIsIssuedForWhatIsNoName(_ name: String) {
        #expect(throws: TLSError.self) {
            try authority.issueServer(key: .generateP256(), names: [name], addresses: [], days: 1)
        }
    }

    @Test(arguments: ["", "1.2.3", "1.2.3.4.5", "1.2.3.4/8", "fe80::1%eth0", "host", "1.2.3.4\0"])
    func noCertificateIsIssuedForWhatIsNoAddress(_ address: String) {
        #expect(throws: TLSError.self) {
            try authority.issueServer(key: .generateP256(), names: [], addresses: [address], days: 1)
        }
    }

    @Test func limitsOfNamesAndTimesAreKept() {
        let key = PrivateKey.generateP256()
        #expect(throws: TLSError.self) {
            try authority.issueServer(key: key, names: [], addresses: [], days: 1)
        }
        for days in [0, -1, 36501, Int.max] {
            #expect(throws: TLSError.self) {
                try authority.issueServer(key: key, names: ["a"], addresses: [], days: days)
            }
        }
        for (name, role, uri, seconds): (String, String, String, UInt64) in [
            ("", "node", "sluice:x", 1), (String(repeating: "n", count: 65), "node", "sluice:x", 1),
            ("n", "", "sluice:x", 1), ("n", "node", "sluice x", 1), ("n", "node", "", 1),
            ("n", "node", "sluice:x", 0), ("n", "node", "sluice:x", .max), ("a\0b", "node", "sluice:x", 1),
        ] {
            #expect(throws: TLSError.self) {
                try authority.issueClient(
                    key: key, commonName: name, role: role, uris: [uri], validSeconds: seconds)
            }
        }
    }

    @Test func aNodesCertificateIsMadeFromItsRequest() throws {
        let key = PrivateKey.generateP256()
        let request = try CertificateRequest(pem: CertificateRequest.make(key: key, commonName: "wanted"))
        #expect(request.commonName == "wanted")
        #expect(request.publicKeyThumbprint == key.publicKeyThumbprint)
        let id = Identifier(high: 1, low: 2)
        let certificate = try authority.issueClient(
            publicKeyFrom: request, commonName: "node-7", role: "node",
            uris: [Certificate.nodeURIPrefix + id.hex], validSeconds: 600)
        #expect(certificate.subjectCommonName == "node-7")
        #expect(certificate.organizationalUnit == "node")
        #expect(certificate.nodeID == id)
        #expect(certificate.thumbprint == key.publicKeyThumbprint)
    }

    @Test func twoNodeURIsNameNoNode() throws {
        let uris = [Identifier(high: 1, low: 2), .zero].map { Certificate.nodeURIPrefix + $0.hex }
        let certificate = try authority.issueClient(
            key: .generateP256(), commonName: "n", role: "node", uris: uris, validSeconds: 60)
        #expect(certificate.uris == uris)
        #expect(certificate.nodeID == nil)
    }

    @Test func serialsDiffer() throws {
        let key = PrivateKey.generateP256()
        let serials = try (0..<50).map { _ in
            try authority.issueServer(key: key, names: ["a"], addresses: [], days: 1).serialHex
        }
        #expect(Set(serials).count == 50)
        #expect(serials.allSatisfy { $0.count == 32 })
    }

    @Test func pemIsReadBack() throws {
        let certificate = authority.certificate
        #expect(try Certificate(pem: certificate.pem) == certificate)
        let leaf = try authority.issueServer(key: .generateP256(), names: ["a"], addresses: [], days: 1)
        #expect(try Certificate.chain(pem: leaf.pem + certificate.pem) == [leaf, certificate])
    }

    // MARK: Hostile input

    @Test func whatIsNoCertificateIsRefused() throws {
        let pem = authority.certificate.pem
        let key = PrivateKey.generateP256()
        let bad: [[UInt8]] = [
            [], [0], Array("hello".utf8), key.pem, Array(pem.dropLast(40)), Array(pem.prefix(60)),
            pem + Array(pem.prefix(200)), [UInt8](repeating: 0x2D, count: 70000),
            Array(repeating: pem, count: 9).flatMap { $0 },
        ]
        for text in bad {
            #expect(throws: TLSError.self) { try Certificate(pem: text) }
        }
    }

    @Test(arguments: 1...300)
    func alteredCertificatesAreRefusedOrParsedButNeverCrash(_ seed: UInt64) throws {
        var random = SplitMix(seed: seed)
        let client = try authority.issueClient(
            key: .generateEd25519(), commonName: "n", role: "node", uris: ["sluice:node:00"], validSeconds: 60
        )
        var der = client.der
        for _ in 0..<Int.random(in: 1...4, using: &random) {
            der[Int.random(in: der.indices, using: &random)] = UInt8.random(in: 0...255, using: &random)
        }
        if seed.isMultiple(of: 7) { der.removeLast(.random(in: 1..<der.count, using: &random)) }
        do {
            let parsed = try Certificate(pem: PEM.encode(der, label: "CERTIFICATE"))
            #expect(parsed.uris.count <= 64)
        } catch {
            #expect(error.kind == .caller)
        }
    }

    @Test func aRequestThatAnotherKeySignedIsRefused() throws {
        var random = SplitMix(seed: 9)
        let pem = try CertificateRequest.make(key: .generateEd25519(), commonName: "node-1")
        let der = try CertificateRequest(pem: pem).der
        for _ in 0..<200 {
            var altered = der
            altered[Int.random(in: der.indices, using: &random)] ^= UInt8.random(in: 1...255, using: &random)
            #expect(throws: TLSError.self) {
                try CertificateRequest(pem: PEM.encode(altered, label: "CERTIFICATE REQUEST"))
            }
        }
    }
}
