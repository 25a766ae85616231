import Core
import Foundation
import TLS
import Testing

@testable import SluiceClient

@Suite struct ControlCredentialsTests {
    /// A place for one test's files, removed afterwards.
    private final class Place {
        let path = NSTemporaryDirectory() + "sluice-credentials-" + UUID().uuidString
        deinit { try? FileManager.default.removeItem(atPath: path) }

        func mode(_ name: String = "") throws -> Int {
            let attributes = try FileManager.default.attributesOfItem(atPath: path + name)
            return (attributes[.posixPermissions] as? NSNumber)?.intValue ?? -1
        }
    }

    private let authority: CertificateAuthority
    private let place = Place()

    init() throws { authority = try CertificateAuthority.create(commonName: "a", validDays: 10) }

    private func make(now: UInt64? = nil, validSeconds: UInt64 = 3600) throws -> Credentials {
        let key = PrivateKey.generateP256()
        let certificate = try authority.issueClient(
            key: key, commonName: "n1", role: "node", uris: [], validSeconds: validSeconds, now: now)
        return Credentials(
            folder: place.path, authorityPEM: authority.certificate.pem, certificatePEM: certificate.pem,
            certificate: certificate, key: key,
            config: Credentials.Config(server: "https://io1:7480", channels: ["io1:7481"], node: "n1"))
    }

    @Test func whatIsWrittenIsReadAndOnlyTheOwnerCan() throws {
        let made = try make()
        try CredentialFolder(path: place.path).create(made)
        let read = try Credentials.load(folder: place.path)
        #expect(read.certificate == made.certificate)
        #expect(read.key.publicKeyThumbprint == made.key.publicKeyThumbprint)
        #expect(read.authorityPEM == made.authorityPEM)
        #expect(read.config == made.config)
        #expect(try place.mode() == 0o700)
        for name in ["/ca.pem", "/cert.pem", "/key.pem", "/config.json"] {
            #expect(try place.mode(name) == 0o600)
        }
        #expect(try FileManager.default.contentsOfDirectory(atPath: place.path).count == 4)
    }

    @Test func missingParentsAreMadeAndAFolderWithOtherFilesIsAddedTo() throws {
        try FileManager.default.createDirectory(atPath: place.path, withIntermediateDirectories: true)
        let nested = place.path + "/a/b"
        try CredentialFolder(path: nested).create(try make())
        #expect(throws: Never.self) { try Credentials.load(folder: nested) }
        #expect(FileManager.default.createFile(atPath: place.path + "/other", contents: nil))
        try CredentialFolder(path: place.path).create(try make())
        #expect(throws: Never.self) { try Credentials.load(folder: place.path) }
        #expect(FileManager.default.fileExists(atPath: place.path + "/other"))
    }

    @Test func credentialsThatAreThereAreNotOverwritten() throws {
        let first = try make()
        try CredentialFolder(path: place.path).create(first)
        #expect(throws: ClientError.self) { try CredentialFolder(path: place.path).create(try make()) }
        #expect(try Credentials.load(folder: place.path).certificate == first.certificate)
    }

    @Test func aKeyThatOthersCanReadIsRefusedWithTheFix() throws {
        try CredentialFolder(path: place.path).create(try make())
        unsafe chmod(place.path + "/key.pem", 0o644)
        #expect {
            try Credentials.load(folder: place.path)
        } throws: { error in
            "\(error)".contains("chmod 600")
        }
    }

    @Test func aKeyOfAnotherCertificateIsRefused() throws {
        try CredentialFolder(path: place.path).create(try make())
        try Data(PrivateKey.generateP256().pem).write(to: URL(fileURLWithPath: place.path + "/key.pem"))
        unsafe chmod(place.path + "/key.pem", 0o600)
        #expect {
            try Credentials.load(folder: place.path)
        } throws: { error in
            "\(error)".contains("different keys")
        }
    }

    @Test(arguments: ["ca.pem", "cert.pem", "key.pem"])
    func aMissingFileIsNamed(name: String) throws {
        try CredentialFolder(path: place.path).create(try make())
        unsafe unlink(place.path + "/" + name)
        #expect {
            try Credentials.load(folder: place.path)
        } throws: { error in
            "\(error)".contains("\(place.path)/\(name)") && "\(error)".contains("sluice join")
        }
    }

    @Test func theAdminBundleNeedsNoConfiguration() throws {
        try CredentialFolder(path: place.path).create(try make())
        unsafe unlink(place.path + "/config.json")
        #expect(try Credentials.load(folder: place.path).config.server == nil)
        #expect(throws: ClientError.self) {
            try ControlClient(credentials: Credentials.load(folder: place.path))
        }
    }

    @Test func aRenewalReplacesTheCertificateAndKeepsTheKey() throws {
        let first = try make()
        try CredentialFolder(path: place.path).create(first)
        let certificate = try authority.issueClient(
            key: first.key, commonName: "n1", role: "node", uris: [], validSeconds: 7200)
        let next = try first.replacing(
            certificatePEM: certificate.pem, authorityPEM: authority.certificate.pem, key: first.key)
        try CredentialFolder(path: place.path).updateCertificate(next)
        let read = try Credentials.load(folder: place.path)
        #expect(read.certificate == certificate)
        #expect(read.key.publicKeyThumbprint == first.key.publicKeyThumbprint)
    }

    @Test func aRenewalIsDueWhenLessThanAThirdOfTheLifeIsLeft() throws {
        let certificate = try make(now: 1_000_000_000, validSeconds: 3000).certificate
        let life = certificate.notAfter - certificate.notBefore
        let turn = certificate.notAfter - life / 3
        #expect(!CertificateRenewal.isDue(certificate, now: certificate.notBefore))
        #expect(!CertificateRenewal.isDue(certificate, now: turn))
        #expect(CertificateRenewal.isDue(certificate, now: turn + 1))
        #expect(CertificateRenewal.isDue(certificate, now: certificate.notAfter + 1))
        #expect(CertificateRenewal.isDue(certificate, now: .max))
        #expect(CertificateRenewal.secondsUntilDue(certificate, now: turn - 10) == 10)
        #expect(CertificateRenewal.secondsUntilDue(certificate, now: .max) == 60)
    }

    @Test func theDefaultFolderFollowsUserAndEnvironment() {
        #expect(Credentials.defaultFolder(environment: [:], userID: 0) == "/etc/sluice")
        #expect(
            Credentials.defaultFolder(environment: ["HOME": "/home/a"], userID: 1000)
                == "/home/a/.config/sluice")
        let named = ["SLUICE_CREDENTIALS": "/x", "HOME": "/home/a"]
        #expect(Credentials.defaultFolder(environment: named, userID: 0) == "/x")
    }
}
