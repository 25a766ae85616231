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

        func answer(_ request: ControlRequest) -> ControlResponse {
            if request.path == "/v1/server" {
                return Self.json(["clusterID": "c1", "channel": ["127.0.0.1:7481"]])
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
        #expect(joined.config.clusterID == "c1")
        #expect(joined.config.channels == ["127.0.0.1:7481"])
        let loaded = try Credentials.load(folder: folder)
        #expect(loaded.certificate.subjectCommonName == "node-1")
        let same = try CertificateRenewal.renewIfDue(loaded, now: loaded.certificate.notBefore)
        #expect(same.certificate == loaded.certificate)
        let renewed = try CertificateRenewal.renewIfDue(loaded, now: loaded.certificate.notAfter - 1)
        #expect(renewed.certificate != loaded.certificate)
        #expect(renewed.certificate.thumbprint == loaded.certificate.thumbprint)
        #expect(try Credentials.load(folder: folder).certificate == renewed.certificate)
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
