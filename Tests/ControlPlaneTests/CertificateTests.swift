import Catalog
import Core
import Foundation
import HTTPTypes
import Reactor
import Synchronization
import TLS
import Testing

@testable import ControlPlane

/// Certificates that come near their end, or pass it, while the server runs; administrators and names that change.
@Suite(.serialized) struct CertificateTests {
    private static let day: UInt64 = 86400

    /// What the server would use on both ports.
    private final class Used: Sendable {
        let all = Mutex<[Authority]>([])
        var last: Authority? { all.withLock { $0.last } }
    }

    private func withServer(_ body: (ControlRig, MovableClock, Used) async throws -> Void) async throws {
        let clock = MovableClock()
        try await withControlPlane(clock: clock) { rig in
            let used = Used()
            rig.plane.onServerCertificate { authority in used.all.withLock { $0.append(authority) } }
            try await body(rig, clock, used)
        }
    }

    private func kinds(_ rig: ControlRig, _ prefix: String) -> [String] {
        rig.events.events(after: 0, limit: 1000).events
            .filter { $0.kind.rawValue.hasPrefix(prefix) }.map { "\($0.kind.rawValue) \($0.subject)" }
    }

    private func request(_ key: PrivateKey, _ name: String = "x") throws -> String {
        let pem = String(decoding: try CertificateRequest.make(key: key, commonName: name), as: UTF8.self)
        return pem.replacing("\n", with: "\\n")
    }

    private func certificate(_ answer: ControlRig.Answer) throws -> Certificate {
        guard case .string(let pem) = answer.json["certificate"] else {
            throw Problem(.internalError, answer.text)
        }
        return try Certificate(pem: Array(pem.utf8))
    }

    // MARK: The server's own

    @Test func theServersCertificateIsRenewedWhileItRuns() async throws {
        try await withServer { rig, clock, used in
            let path = rig.machine.folder.serverCertificate
            let first = try Certificate(pem: try PrivateFiles.read(path))
            clock.advance(304 * Self.day)
            await rig.plane.lookAtCertificates()
            #expect(used.last == nil)
            clock.advance(2 * Self.day)
            await rig.plane.lookAtCertificates()
            let next = try #require(used.last?.serverCertificate)
            #expect(next.notAfter > first.notAfter + 300 * Self.day)
            #expect(next.dnsNames == first.dnsNames)
            #expect(try Certificate(pem: try PrivateFiles.read(path)) == next)
            #expect(kinds(rig, "certificate.renewed").contains("certificate.renewed server"))
            let metrics = try await rig.ask(.get, "/metrics").text
            #expect(
                metrics.contains(
                    "sluice_certificate_expiry_timestamp_seconds{kind=\"server\",name=\"localhost\"} \(next.notAfter)"
                ))
        }
    }

    @Test func aCertificateThatEndedWhileTheClockJumpedIsRenewedAndSoIsOneFromTheFuture() async throws {
        try await withServer { rig, clock, used in
            clock.advance(1000 * Self.day)
            await rig.plane.lookAtCertificates()
            #expect(used.last?.serverCertificate.isValid(at: clock.now()) == true)
            clock.rewind(1000 * Self.day)
            await rig.plane.lookAtCertificates()
            #expect(used.last?.serverCertificate.isValid(at: clock.now()) == true)
            #expect(used.last?.certificates.certificate.isValid(at: clock.now()) == true)
        }
    }

    @Test func aCertificateThatCannotBeKeptIsUsedAndSaidAndKeptLater() async throws {
        try await withServer { rig, clock, used in
            let path = rig.machine.folder.serverCertificate
            let obstacle = path + ".new"
            try FileManager.default.createDirectory(atPath: obstacle, withIntermediateDirectories: false)
            clock.advance(306 * Self.day)
            await rig.plane.lookAtCertificates()
            let next = try #require(used.last?.serverCertificate)
            #expect(next.notAfter > clock.now() + 300 * Self.day)
            #expect(kinds(rig, "certificate.expiring") == ["certificate.expiring server"])
            #expect(try await rig.ask(.get, "/v1/server").text.contains("File exists"))
            #expect(
                try await rig.ask(.get, "/metrics").text.contains(
                    "sluice_certificate_renewals_total{result=\"failed\"} 1"))
            // It is tried again, and said once.
            clock.advance(3700)
            await rig.plane.lookAtCertificates()
            #expect(kinds(rig, "certificate.expiring").count == 1)
            try FileManager.default.removeItem(atPath: obstacle)
            clock.advance(3700)
            await rig.plane.lookAtCertificates()
            #expect(try Certificate(pem: try PrivateFiles.read(path)) == next)
            #expect(!(try await rig.ask(.get, "/v1/server").text.contains("File exists")))
        }
    }

    @Test func theAuthorityIsRenewedByItsKeyTwoYearsBeforeItsEnd() async throws {
        try await withServer { rig, clock, used in
            let first = rig.plane.authority.certificates.certificate
            clock.advance(2921 * Self.day)
            await rig.plane.lookAtCertificates()
            let next = try #require(used.last?.certificates.certificate)
            #expect(next.thumbprint == first.thumbprint && next.notAfter > first.notAfter + 2000 * Self.day)
            let bundle = try PrivateFiles.read("\(rig.machine.folder.adminFolder)/ca.pem")
            #expect(bundle == next.pem)
            #expect(try PrivateFiles.read(rig.machine.folder.authorityCertificate) == next.pem)
        }
    }

    @Test func theBundleInTheDataFolderIsRenewedAndGoesOnToCount() async throws {
        try await withServer { rig, clock, _ in
            clock.advance(306 * Self.day)
            await rig.plane.lookAtCertificates()
            let pem = try PrivateFiles.read("\(rig.machine.folder.adminFolder)/cert.pem")
            let renewed = try Certificate(pem: pem)
            #expect(renewed.notAfter > clock.now() + 300 * Self.day)
            #expect(
                try await rig.ask(.get, "/v1/admins/admin").text.contains(Timestamp.text(renewed.notAfter)))
            #expect(kinds(rig, "certificate.renewed").contains("certificate.renewed admin/admin"))
        }
    }

    // MARK: Names

    @Test func namesAreAddedAndTheCertificateHasThemWhenThatIsAnswered() async throws {
        try await withServer { rig, _, used in
            let answer = try await rig.ask(
                .patch, "/v1/server",
                #"{"names": ["IO2.example"], "addresses": ["192.0.2.11", "2001:DB8::11"]}"#)
            #expect(answer.status == 200)
            #expect(
                used.last?.serverCertificate.serverNames == [
                    "io2.example", "localhost", "192.0.2.11", "2001:db8::11", "127.0.0.1", "::1",
                ])
            // Nothing changes, nothing is made.
            _ = try await rig.ask(.patch, "/v1/server", #"{"names": ["io2.example"]}"#)
            #expect(used.all.withLock { $0.count } == 1)
            for (body, field) in [
                (#"{"names": ["bad name!"]}"#, "names"),
                (#"{"addresses": ["192.0.2.11:7480"]}"#, "addresses"),
                (#"{"names": "io"}"#, "names"),
            ] {
                let refused = try await rig.ask(.patch, "/v1/server", body)
                #expect(refused.status == 422 && refused.json["field"] == .string(field), "\(refused.text)")
            }
            #expect(try await rig.ask(.patch, "/v1/server", "{}", role: .observer).status == 403)
        }
    }

    // MARK: Nodes

    private func enrol(_ rig: ControlRig, _ name: String) async throws -> (PrivateKey, Certificate) {
        let added = try await rig.ask(.post, "/v1/nodes", #"{"name": "\#(name)"}"#)
        guard case .string(let token) = added.json["token"] else { throw Problem(.internalError, added.text) }
        let key = PrivateKey.generateP256()
        let body = "{\"token\": \"\(token)\", \"csr\": \"\(try request(key, name))\"}"
        return (key, try certificate(try await rig.ask(.post, "/v1/nodes/\(name)/enroll", body, role: nil)))
    }

    @Test func aNodeThatDoesNotRenewIsSaidOnceForEachStep() async throws {
        try await withServer { rig, clock, _ in
            _ = try await enrol(rig, "web-1")
            for (days, expected) in [(24, 0), (2, 1), (0, 1), (4, 2), (0, 2)] {
                clock.advance(UInt64(days) * Self.day)
                await rig.plane.lookAtCertificates()
                let said = kinds(rig, "certificate.expir").filter { $0.hasSuffix("node/web-1") }
                #expect(said.count == expected, "\(days): \(said)")
            }
            clock.advance(Self.day)
            await rig.plane.lookAtCertificates()
            #expect(kinds(rig, "certificate.expired") == ["certificate.expired node/web-1"])
            let metrics = try await rig.ask(.get, "/metrics").text
            #expect(metrics.contains("sluice_node_certificates{state=\"expired\"} 1"))
            #expect(metrics.contains("kind=\"node\",name=\"web-1\""))
        }
    }

    @Test func aNodeWhoseCertificateRanOutRecentlyRenewsByItsKeyAndDoesNothingElse() async throws {
        try await withServer { rig, clock, _ in
            let (key, old) = try await enrol(rig, "web-1")
            let body = "{\"csr\": \"\(try request(key))\"}"
            let peer = PeerIdentity(certificate: old)
            clock.advance(31 * Self.day)
            let refused = try await rig.ask(.get, "/v1/volumes", peer: peer)
            #expect(refused.status == 401 && refused.json["field"] == .string("certificate"))
            #expect(
                refused.text.contains(Timestamp.text(old.notAfter))
                    && refused.text.contains("a renewal by its key"))
            let renewed = try await rig.ask(.post, "/v1/nodes/web-1/certificate", body, peer: peer)
            #expect(renewed.status == 201)
            let next = PeerIdentity(certificate: try certificate(renewed))
            #expect(try await rig.ask(.get, "/v1/volumes", peer: next).status == 200)
            // Not for ever, and not once it is removed.
            clock.advance(90 * Self.day)
            let late = try await rig.ask(.post, "/v1/nodes/web-1/certificate", body, peer: peer)
            #expect(late.status == 401 && late.text.contains("sluice node token web-1"))
            #expect(try await rig.ask(.post, "/v1/nodes/web-1/certificate", body, peer: next).status == 201)
            _ = try await rig.ask(.delete, "/v1/nodes/web-1")
            #expect(try await rig.ask(.post, "/v1/nodes/web-1/certificate", body, peer: next).status == 401)
        }
    }

    @Test func aCertificateThatDoesNotCountYetIsToldBothTimes() async throws {
        try await withServer { rig, clock, _ in
            let (_, certificate) = try await enrol(rig, "web-1")
            clock.rewind(2 * Self.day)
            let refused = try await rig.ask(.get, "/v1/volumes", peer: PeerIdentity(certificate: certificate))
            #expect(refused.status == 401)
            for time in [certificate.notBefore, clock.now()] {
                #expect(refused.text.contains(Timestamp.text(time)))
            }
        }
    }

    // MARK: Administrators

    @Test func administratorsAreMadeRenewedAndRevoked() async throws {
        try await withServer { rig, _, _ in
            let key = PrivateKey.generateP256()
            let body = "{\"name\": \"alice\", \"csr\": \"\(try request(key))\"}"
            let made = try await rig.ask(.post, "/v1/admins", body)
            #expect(made.status == 201)
            let alice = PeerIdentity(certificate: try certificate(made))
            #expect(alice.role == .admin)
            #expect(try await rig.ask(.get, "/v1/admins", peer: alice).text.contains("\"alice\""))
            #expect(try await rig.ask(.post, "/v1/admins", body, peer: alice).code == "ALREADY_EXISTS")
            let twin = body.replacing("alice", with: "bob")
            #expect(try await rig.ask(.post, "/v1/admins", twin).code == "INVALID_FIELD")
            // The same key: both certificates count. Another key: that of before does not.
            let path = "/v1/admins/alice/certificate"
            let second = try await rig.ask(.post, path, "{\"csr\": \"\(try request(key))\"}", peer: alice)
            let renewed = PeerIdentity(certificate: try certificate(second))
            for peer in [alice, renewed] {
                #expect(try await rig.ask(.get, "/v1/pools", peer: peer).status == 200)
            }
            let third = try await rig.ask(
                .post, path, "{\"csr\": \"\(try request(.generateP256()))\"}", peer: renewed)
            let other = PeerIdentity(certificate: try certificate(third))
            #expect(try await rig.ask(.get, "/v1/pools", peer: renewed).status == 401)
            #expect(try await rig.ask(.delete, "/v1/admins/alice").status == 204)
            #expect(try await rig.ask(.get, "/v1/pools", peer: other).status == 401)
            // A new one of the name is not the old one.
            let again = body.replacing(try request(key), with: try request(.generateP256()))
            #expect(try await rig.ask(.post, "/v1/admins", again).status == 201)
            for peer in [alice, renewed, other] {
                #expect(try await rig.ask(.get, "/v1/pools", peer: peer).status == 401)
            }
            #expect(
                kinds(rig, "admin.") == [
                    "admin.added admin/alice", "admin.renewed admin/alice", "admin.renewed admin/alice",
                    "admin.revoked admin/alice", "admin.added admin/alice",
                ])
        }
    }

    @Test func theOnlyAdministratorCannotBeRevoked() async throws {
        try await withServer { rig, _, _ in
            let refused = try await rig.ask(.delete, "/v1/admins/admin")
            #expect(refused.status == 409 && refused.text.contains("sluice admin add"))
            #expect(try await rig.ask(.get, "/v1/admins").status == 200)
        }
    }

    @Test func aRevokedAdministratorHearsNoMoreEvents() async throws {
        try await withServer { rig, _, _ in
            let body = "{\"name\": \"alice\", \"csr\": \"\(try request(.generateP256()))\"}"
            let alice = PeerIdentity(
                certificate: try certificate(try await rig.ask(.post, "/v1/admins", body)))
            #expect(rig.plane.isAllowed(alice))
            _ = try await rig.ask(.delete, "/v1/admins/alice")
            #expect(!rig.plane.isAllowed(alice))
        }
    }

    @Test(arguments: [true, false])
    func theOneOfAFolderFromBeforeThereWereRecordsGoesOnToCount(_ isBundleThere: Bool) async throws {
        let machine = try await ControlRig.Machine()
        let key = PrivateKey.generateP256()
        let authority = try CertificateAuthority(
            certificatePEM: try PrivateFiles.read(machine.folder.authorityCertificate),
            keyPEM: try PrivateFiles.read(machine.folder.authorityKey))
        let old = try authority.issueClient(
            key: key, commonName: "admin", role: "admin", uris: [], validSeconds: 5 * 365 * Self.day)
        if isBundleThere {
            try Authority.writeBundle(to: machine.folder.adminFolder, certificates: authority, old, key)
        } else {
            try FileManager.default.removeItem(atPath: machine.folder.adminFolder)
        }
        do {
            let catalog = try SQLiteCatalog(path: machine.folder.catalogFile)
            let store = try await RecordStore(catalog: catalog)
            var changes = RecordChanges()
            for stored in store.all(AdminRecord.self) { changes.delete(stored) }
            try await store.commit(changes)
            try catalog.close()
        }
        let rig = try await ControlRig(machine)
        let peer = PeerIdentity(certificate: old)
        #expect(try await rig.ask(.get, "/v1/pools", peer: peer).status == 200)
        let body = "{\"name\": \"alice\", \"csr\": \"\(try request(.generateP256()))\"}"
        let alice = PeerIdentity(
            certificate: try certificate(try await rig.ask(.post, "/v1/admins", body, peer: peer)))
        #expect(try await rig.ask(.delete, "/v1/admins/admin", peer: alice).status == 204)
        #expect(try await rig.ask(.get, "/v1/pools", peer: peer).status == 401)
        try await rig.stop()
    }

    @Test func aFolderWithoutAnyAdministratorsBundleGetsOneOnTheServerItself() async throws {
        let machine = try await ControlRig.Machine()
        let output = machine.folder.path + "-alice"
        defer { try? FileManager.default.removeItem(atPath: output) }
        let alice = try #require(ResourceName("alice"))
        try await Authority.addAdmin(
            alice, to: machine.folder, output: output, now: SystemWallClock().now(), random: SystemRandom())
        await #expect(throws: AuthorityError.self) {
            try await Authority.addAdmin(
                alice, to: machine.folder, output: output, now: SystemWallClock().now(),
                random: SystemRandom())
        }
        let rig = try await ControlRig(machine)
        let peer = PeerIdentity(
            certificate: try Certificate(pem: try PrivateFiles.read("\(output)/cert.pem")))
        #expect(try await rig.ask(.delete, "/v1/admins/admin", peer: peer).status == 204)
        try await rig.stop()
    }

    // MARK: init

    @Test(arguments: [
        Authority.Options(name: "bad name!"), Authority.Options(name: ""),
        Authority.Options(name: "io.example", names: ["-x"]),
        Authority.Options(name: "io.example", addresses: ["192.0.2.1:7480"]),
        Authority.Options(name: "300.1.2.3"),
        Authority.Options(name: "io.example", names: (0..<60).map { "n\($0)" }),
    ])
    func initThatIsToldNonsenseMakesNothing(_ options: Authority.Options) async throws {
        let folder = DataFolder(NSTemporaryDirectory() + "sluice-init-" + UUID().uuidString)
        await #expect(throws: AuthorityError.self) {
            try await Authority.initialise(
                folder, options: options, now: 1_800_000_000, random: SystemRandom())
        }
        #expect(!PrivateFiles.exists(folder.path))
    }
}
