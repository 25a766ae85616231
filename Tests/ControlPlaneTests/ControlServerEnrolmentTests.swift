import Core
import Foundation
import HTTPTypes
import Reactor
import SluiceClient
import Synchronization
import TLS
import TestSupport
import Testing
import Wire

@testable import ControlPlane

/// Enrolment and renewal between the client and a server that answers as the API says.
@Suite(.serialized, .blocking) struct ControlServerEnrolmentTests {
    private struct Enrol: Decodable {
        var token: String?
        var csr: String
    }

    /// Certifies whoever shows the token, and whoever renews with its own certificate.
    private final class Registry: Sendable {
        let authority = Mutex<CertificateAuthority?>(nil)
        let token = Mutex("")
        let lifetime = Mutex<UInt64>(3600)
        let certified = Mutex(0)
        /// The certificate that has ended, as the server's clock has it.
        let ended = Mutex<Digest32?>(nil)

        func answer(_ request: ControlRequest) -> ControlResponse {
            if request.path == "/v1/server" {
                if let certificate = request.peer.certificate,
                    certificate.fingerprint == ended.withLock({ $0 })
                {
                    return Self.json(
                        ["code": "UNAUTHENTICATED", "detail": "it ended", "field": "certificate"],
                        status: .unauthorized)
                }
                return Self.json([
                    "clusterID": "4ddde1f48301144c432d2c1acbd54940", "channel": ["127.0.0.1:7481"],
                ])
            }
            guard let enrol = try? JSONDecoder().decode(Enrol.self, from: Data(request.body)),
                let csr = try? CertificateRequest(pem: Array(enrol.csr.utf8)),
                let authority = authority.withLock({ $0 }), request.segments.count == 4
            else { return ControlResponse(status: .badRequest) }
            let isAllowed =
                request.segments[3] == "enroll"
                ? enrol.token == token.withLock { $0 } && request.peer.certificate == nil
                : request.peer.role == .node && request.peer.thumbprint == csr.publicKeyThumbprint
            guard isAllowed else {
                return Self.json(
                    ["code": "INVALID_TOKEN", "detail": "the token does not count"], status: .forbidden)
            }
            let certificate = try? authority.issueClient(
                publicKeyFrom: csr, commonName: request.segments[2], role: "node", uris: [],
                validSeconds: lifetime.withLock { $0 })
            guard let certificate else { return ControlResponse(status: .internalServerError) }
            certified.withLock { $0 += 1 }
            return Self.json(
                [
                    "name": request.segments[2], "id": String(repeating: "0", count: 32),
                    "certificate": String(decoding: certificate.pem, as: UTF8.self),
                    "ca": String(decoding: authority.certificate.pem, as: UTF8.self),
                ], status: .created)
        }

        static func json(_ object: [String: Any], status: HTTPResponse.Status = .ok) -> ControlResponse {
            let data = (try? JSONSerialization.data(withJSONObject: object)) ?? Data()
            return ControlResponse(
                status: status, headers: [.contentType: "application/json"], body: Array(data))
        }
    }

    private let registry = Registry()

    private func start() throws -> (ServerUnderTest, JoinToken) {
        let registry = registry
        let test = try ServerUnderTest { registry.answer($0) }
        let token = JoinToken(
            authorityFingerprint: test.authority.certificate.fingerprint,
            nodeName: try #require(ResourceName("node-1")), secret: SystemRandom().bytes(32))
        registry.authority.withLock { $0 = test.authority }
        registry.token.withLock { $0 = token.text }
        return (test, token)
    }

    @Test func aNodeJoinsAndRenews() async throws {
        let (test, token) = try start()
        let folder = test.folder + "/node"
        let joined = try NodeEnrolment.join(server: test.url, token: token.text, folder: folder)
        #expect(joined.config.node == "node-1")
        #expect(joined.config.server == test.url)
        #expect(joined.config.clusterID == "4ddde1f48301144c432d2c1acbd54940")
        #expect(joined.config.channels == ["127.0.0.1:7481"])
        let loaded = try Credentials.load(folder: folder)
        #expect(loaded.certificate.subjectCommonName == "node-1")
        let same = try CertificateRenewal.renewIfDue(loaded, now: loaded.certificate.notBefore)
        #expect(!same.isRenewed && same.credentials.certificate == loaded.certificate)
        let outcome = try CertificateRenewal.renewIfDue(loaded, now: loaded.certificate.notAfter - 1)
        #expect(outcome.isRenewed && outcome.unsaved == nil)
        let renewed = outcome.credentials
        #expect(renewed.certificate != loaded.certificate)
        #expect(renewed.certificate.thumbprint == loaded.certificate.thumbprint)
        #expect(try Credentials.load(folder: folder).certificate == renewed.certificate)
        await test.server.stop()
    }

    @Test func aRenewalAsksTheServerInUseAndIsUsedWhereItCannotBeKept() async throws {
        let (test, token) = try start()
        let folder = test.folder + "/node"
        let joined = try NodeEnrolment.join(server: test.url, token: token.text, folder: folder)
        let config = try String(contentsOfFile: folder + "/config.json", encoding: .utf8)
        try config.replacing(test.url, with: "https://127.0.0.1:1").write(
            toFile: folder + "/config.json", atomically: false, encoding: .utf8)
        let loaded = try Credentials.load(folder: folder)
        let due = loaded.certificate.notAfter - 1
        #expect(throws: ClientError.self) { try CertificateRenewal.renewIfDue(loaded, now: due) }
        let renewed = try CertificateRenewal.renewIfDue(loaded, now: due, server: test.url)
        #expect(renewed.isRenewed && renewed.unsaved == nil)
        // A folder that is gone stands for one that may not be written to.
        try FileManager.default.removeItem(atPath: folder)
        let kept = try CertificateRenewal.renewIfDue(loaded, now: due, server: test.url)
        #expect(kept.isRenewed && kept.credentials.certificate != joined.certificate)
        #expect(kept.unsaved?.detail.contains("cannot write") == true)
        await test.server.stop()
    }

    @Test func aCertificateThatTheServerSaysHasEndedIsRenewedAndAskedWithOnceMore() async throws {
        let (test, token) = try start()
        let folder = test.folder + "/node"
        let joined = try NodeEnrolment.join(server: test.url, token: token.text, folder: folder)
        registry.ended.withLock { $0 = joined.certificate.fingerprint }
        var renewed: [Certificate] = []
        let answer = try CertificateRenewal.retrying(
            joined, server: test.url, onRenewal: { renewed.append($0.credentials.certificate) }
        ) { current throws(ClientError) in
            try ControlClient(server: test.url, credentials: current).request(.get, "/v1/server")
        }
        #expect(answer.status == 200 && renewed.count == 1)
        #expect(try Credentials.load(folder: folder).certificate == renewed.first)
        // Once, whatever the server says.
        #expect(throws: ClientError.self) {
            try CertificateRenewal.retrying(
                joined, server: test.url,
                onRenewal: { outcome in
                    registry.ended.withLock { $0 = outcome.credentials.certificate.fingerprint }
                }
            ) { current throws(ClientError) in
                try ControlClient(server: test.url, credentials: current).request(.get, "/v1/server")
            }
        }
        #expect(registry.certified.withLock { $0 } == 3)
        await test.server.stop()
    }

    @Test func aNodeWhoseCertificateEndedEnrolsAgainByItsKey() async throws {
        let (test, token) = try start()
        let folder = test.folder + "/node"
        let first = try NodeEnrolment.join(server: test.url, token: token.text, folder: folder)
        let end = first.certificate.notAfter
        #expect {
            try NodeEnrolment.join(server: test.url, token: token.text, folder: folder, now: end - 1)
        } throws: { error in
            (error as? ClientError)?.description.contains(Timestamp.text(end)) == true
        }
        let again = try NodeEnrolment.join(server: test.url, token: token.text, folder: folder, now: end + 1)
        #expect(again.certificate != first.certificate)
        #expect(again.certificate.thumbprint == first.certificate.thumbprint)
        #expect(try Credentials.load(folder: folder).certificate == again.certificate)
        let forced = try NodeEnrolment.join(
            server: test.url, token: token.text, folder: folder, again: true, now: end - 1)
        #expect(forced.certificate != again.certificate)
        await test.server.stop()
    }

    @Test func whereNoFolderCanBeMadeTheTokenIsNotSpent() async throws {
        let (test, token) = try start()
        try Data().write(to: URL(filePath: test.folder + "/file"))
        #expect(throws: ClientError.self) {
            try NodeEnrolment.join(server: test.url, token: token.text, folder: test.folder + "/file/node")
        }
        #expect(registry.certified.withLock { $0 } == 0)
        await test.server.stop()
    }

    @Test func aServerOfAnotherAuthorityCannotTakeTheToken() async throws {
        let (test, token) = try start()
        let impostor = try ServerUnderTest { [registry] in registry.answer($0) }
        let folder = test.folder + "/node"
        #expect {
            try NodeEnrolment.join(server: impostor.url, token: token.text, folder: folder)
        } throws: { error in
            (error as? ClientError)?.code == "UNTRUSTED_SERVER"
        }
        #expect(registry.certified.withLock { $0 } == 0)
        #expect(!FileManager.default.fileExists(atPath: folder))
        await test.server.stop()
        await impostor.server.stop()
    }

    @Test func aRefusedTokenLeavesNothingBehind() async throws {
        let (test, token) = try start()
        registry.token.withLock { $0 = "used up" }
        let folder = test.folder + "/node"
        #expect {
            try NodeEnrolment.join(server: test.url, token: token.text, folder: folder)
        } throws: { error in
            (error as? ClientError)?.code == "INVALID_TOKEN" && (error as? ClientError)?.status == 403
        }
        #expect(!FileManager.default.fileExists(atPath: folder))
        await test.server.stop()
    }

    @Test func joiningTwiceIntoOneFolderDoesNotSpendTheToken() async throws {
        let (test, token) = try start()
        let folder = test.folder + "/node"
        _ = try NodeEnrolment.join(server: test.url, token: token.text, folder: folder)
        #expect(throws: ClientError.self) {
            try NodeEnrolment.join(server: test.url, token: token.text, folder: folder)
        }
        #expect(registry.certified.withLock { $0 } == 1)
        await test.server.stop()
    }
}
