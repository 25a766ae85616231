import Core
import Foundation
import Glibc
import Reactor
import TLS
import TestSupport
import Testing
import Wire

@testable import SluiceClient

@Suite(.serialized, .blocking) struct ControlClientTests {
    @Test(arguments: [
        ("https://io1:7480", "io1", 7480), ("https://io1", "io1", 7480), ("io1:9", "io1", 9),
        ("io1", "io1", 7480),
        ("https://[::1]:7", "::1", 7), ("https://[fe80::1]/", "fe80::1", 7480),
        ("https://192.0.2.1:7480/", "192.0.2.1", 7480),
    ])
    func aServerAddressIsRead(text: String, host: String, port: Int) throws {
        let address = try ServerAddress(text: text)
        #expect(address.host == host)
        #expect(Int(address.port) == port)
        #expect(try ServerAddress(text: address.description) == address)
    }

    @Test(arguments: [
        "", "http://io1", "https://", "https://:7480", "https://io1:", "https://io1:0", "https://io1:70000",
        "io1:a",
        "https://io1/path", "https://user@io1", "::1", "[::1", "[::1]x", "a b", "ftp://x:1",
    ])
    func whatIsNoServerAddressIsRefusedWithAnExample(text: String) {
        #expect {
            try ServerAddress(text: text)
        } throws: { error in
            "\(error)".contains("https://HOST:PORT")
        }
    }

    @Test func aProblemDocumentBecomesAnError() {
        let json = #"""
            {"type":"urn:sluice:problem:INVALID_FIELD","title":"A field has a wrong value","status":422,
            "code":"INVALID_FIELD","detail":"size must be larger","field":"size","expected":"at least 4096"}
            """#
        let error = ClientError.of(status: 422, body: Array(json.utf8))
        #expect(error.code == "INVALID_FIELD")
        #expect(error.status == 422)
        #expect(error.kind == .caller)
        #expect(error.field == "size")
        #expect(error.description == "size must be larger (size should be at least 4096)")
    }

    @Test(arguments: [
        (401, ErrorKind.denied), (403, .denied), (404, .caller), (429, .busy), (500, .bug), (503, .busy),
        (507, .device),
    ])
    func anAnswerThatIsNoProblemDocumentIsStillAnError(status: Int, kind: ErrorKind) {
        for body in ["", "{", "[1]", "null", "gone\nfor good", "\u{1b}[2J"] {
            let error = ClientError.of(status: status, body: Array(body.utf8))
            #expect(error.kind == kind)
            #expect(error.code == "HTTP_\(status)")
            #expect(!error.detail.isEmpty)
            #expect(!error.detail.contains("\u{1b}"))
        }
    }

    @Test func aQueryIsEscaped() {
        #expect(QueryText.encode([]) == "")
        #expect(QueryText.encode([("a b", "c&d=é/"), ("x", "")]) == "?a%20b=c%26d%3D%C3%A9%2F&x=")
    }

    private func client(_ address: SocketAddress, seconds: Int = 1) throws -> ControlClient {
        let authority = try CertificateAuthority.create(commonName: "a", validDays: 1)
        var timeouts = ControlTimeouts()
        timeouts.connectSeconds = seconds
        return try ControlClient(
            server: ServerAddress(text: "\(address)"), identity: nil,
            trust: .authority(caPEM: authority.certificate.pem), timeouts: timeouts)
    }

    @Test func aServerThatIsNotThereIsNamedWithAdvice() throws {
        let listener = try Sockets.listen(try SocketAddress(text: "127.0.0.1:0"))
        let address = try Sockets.localAddress(fd: listener.raw)
        try listener.close()
        #expect {
            try client(address).request(.get, "/livez")
        } throws: { error in
            let error = error as? ClientError
            return error?.code == "UNREACHABLE"
                && error?.description.contains("Is sluiced running there") == true
                && error?.description.contains("\(address)") == true
        }
    }

    @Test func aServerThatSaysNothingIsGivenUp() throws {
        let listener = try Sockets.listen(try SocketAddress(text: "127.0.0.1:0"))
        let address = try Sockets.localAddress(fd: listener.raw)
        #expect {
            try client(address).request(.get, "/livez")
        } throws: { error in
            (error as? ClientError)?.code == "TIMED_OUT"
        }
        try listener.close()
    }

    @Test func aServerThatIsNoTLSServerIsAnError() throws {
        let listener = try Sockets.listen(try SocketAddress(text: "127.0.0.1:0"))
        let address = try Sockets.localAddress(fd: listener.raw)
        let fd = listener.take()
        let thread = Thread {
            let peer = accept(fd, nil, nil)
            let text = Array("220 mail.example ESMTP\r\n".utf8)
            _ = unsafe text.withUnsafeBytes {
                unsafe Glibc.send(peer, $0.baseAddress, $0.count, Int32(MSG_NOSIGNAL))
            }
            Glibc.shutdown(peer, Int32(SHUT_WR))
            var byte: UInt8 = 0
            while unsafe Glibc.recv(peer, &byte, 1, 0) > 0 {}
            close(peer)
            close(fd)
        }
        thread.start()
        #expect {
            try client(address, seconds: 20).request(.get, "/livez")
        } throws: { error in
            (error as? ClientError)?.code == "CONNECTION_BROKEN"
        }
    }
}

@Suite struct ControlJoinTokenTests {
    private func token() throws -> JoinToken {
        JoinToken(
            authorityFingerprint: SHA256.hash([1]), nodeName: try #require(ResourceName("node-1")),
            secret: [UInt8](0..<32))
    }

    @Test func theTextFormIsReadBack() throws {
        let token = try token()
        #expect(token.text.hasPrefix("sljoin1_"))
        #expect(try JoinToken(text: token.text) == token)
        #expect(try JoinToken(text: "  \(token.text)\n") == token)
    }

    @Test func whatItPrintsHoldsNoSecret() throws {
        #expect("\(try token())" == "join token for node node-1")
    }

    @Test func cutAndChangedTokensAreRefusedOrDifferent() throws {
        let token = try token()
        for count in 0..<token.text.count {
            let cut = String(token.text.prefix(count))
            #expect(throws: StatusError.self) {
                let read = try JoinToken(text: cut)
                // A cut inside the name gives another node's token, which no server has made.
                if read.nodeName != token.nodeName { throw StatusError(.badRequest, "another name") }
            }
        }
        for text in ["", "sljoin1_", "sljoin2_AAAA", "sljoin1_???", String(repeating: "A", count: 5000)] {
            #expect(throws: StatusError.self) { try JoinToken(text: text) }
        }
    }

    @Test func joiningWithABrokenTokenSaysWhereToGetOne() {
        #expect {
            try NodeEnrolment.join(server: "https://127.0.0.1:1", token: "sljoin1_x", folder: "/nonexistent")
        } throws: { error in
            "\(error)".contains("sluice node add")
        }
    }
}
