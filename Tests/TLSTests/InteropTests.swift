import Core
import Foundation
import TestSupport
import Testing

@testable import TLS

/// The openssl command as the other side: an independent record layer and an independent reader of our files.
@Suite(.serialized, .blocking) struct InteropTests {
    private let pki: TestAuthority
    private let openssl: OpenSSLCommand

    init() throws {
        pki = try TestAuthority()
        openssl = try OpenSSLCommand()
    }

    @Test(arguments: ["TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256"])
    func sClientTalksToOurServer(_ suite: String) throws {
        let (client, server) = try startClient(["-quiet", "-ciphersuites", suite, "-alpn", "sluice/1"])
        try server.handshake()
        #expect(server.connection.cipherSuite == suite)
        #expect(server.connection.alpn == "sluice/1")
        #expect(server.connection.peerThumbprint == pki.client.key.publicKeyThumbprint)
        let large = String(repeating: "0123456789abcde\n", count: 20_000)
        try client.write(large)
        #expect(try readLarge(server, large.utf8.count) == large)
        try server.send(large)
        try server.finish()
        let (_, text) = client.finish()
        #expect(text.hasSuffix(large))
    }

    @Test func keyUpdatesOfBothDirectionsAreFollowed() throws {
        let (client, server) = try startClient([])
        try server.handshake()
        for round in 0..<3 {
            // A line that begins with K asks for new keys in both directions, k for the sender's only. What is
            // read together with it is lost, so the next line waits until the command has said that it did it.
            try client.write("K\n")
            #expect(client.waitFor("KEYUPDATE", times: 2 * round + 1))
            try client.write("line \(round)\n")
            #expect(try server.readUntil("\n") == "line \(round)\n")
            try server.send("answer \(round)\n")
            #expect(client.waitFor("answer \(round)\n"))
            try client.write("k\n")
            #expect(client.waitFor("KEYUPDATE", times: 2 * round + 2))
            try client.write("end \(round)\n")
            #expect(try server.readUntil("\n") == "end \(round)\n")
        }
        try client.write("Q\n")
        #expect(try server.readUntil(nil) == "")
        #expect(client.finish().status == 0)
    }

    @Test func aTLS12ClientIsRefusedWithAnAlert() throws {
        let (client, server) = try startClient(["-tls1_2"])
        let error = #expect(throws: TLSError.self) { try server.handshake() }
        #expect(error == .handshakeFailed("unsupported protocol"))
        try server.finish()
        client.input.closeFile()
        let (status, text) = client.finish()
        #expect(status == 1)
        #expect(text.contains("alert protocol version"))
    }

    @Test func ourClientTalksToSServerAndIgnoresItsTickets() throws {
        let (server, client) = try startServer(["-rev", "-Verify", "1", "-CAfile", try caFile()])
        try client.handshake()
        try client.send("stressed\n")
        #expect(try client.readUntil("\n") == "desserts\n")
        try client.send("live\n")
        #expect(try client.readUntil("\n") == "evil\n")
        try client.finish()
        server.command.signal(SIGTERM)
    }

    @Test func aTLS12ServerIsRefused() throws {
        let (server, client) = try startServer(["-tls1_2"])
        let error = #expect(throws: TLSError.self) { try client.handshake() }
        #expect(error == .peerAlert("protocol version"))
        server.command.signal(SIGTERM)
    }

    @Test func certificatesPassTheVerificationOfTheCommand() throws {
        let ca = try caFile()
        let server = try openssl.file("server.pem", pki.server.chainPEM)
        let client = try openssl.file("client.pem", pki.client.chainPEM)
        let strict = ["-x509_strict", "-CAfile", ca]
        func verify(_ arguments: [String]) throws -> Int32 {
            let command = try openssl.start(["verify"] + strict + arguments)
            return command.finish().status
        }
        #expect(try verify(["-purpose", "sslserver", "-verify_hostname", "server.test", server]) == 0)
        #expect(try verify(["-purpose", "sslserver", "-verify_ip", "192.0.2.7", server]) == 0)
        #expect(try verify(["-purpose", "sslclient", client]) == 0)
        #expect(try verify(["-purpose", "sslclient", server]) != 0)
        #expect(try verify(["-purpose", "sslserver", client]) != 0)
        let text = try openssl.run("x509", "-in", client, "-noout", "-text").text
        #expect(text.contains("Subject: OU = node, CN = node-1"))
        #expect(text.contains("URI:sluice:node:abababababababababababababababab"))
        #expect(text.contains("TLS Web Client Authentication"))
        let certificate = try Certificate(pem: pki.client.chainPEM)
        let fingerprint = try openssl.run("x509", "-in", client, "-noout", "-fingerprint", "-sha256").text
        #expect(fingerprint.replacing(":", with: "").lowercased().contains(certificate.fingerprint.hex))
    }

    @Test func requestsAndKeysPassBetweenUsAndTheCommand() throws {
        let key = PrivateKey.generateP256()
        let request = try openssl.file("ours.csr", CertificateRequest.make(key: key, commonName: "node-9"))
        let checked = try openssl.run("req", "-in", request, "-noout", "-verify", "-subject")
        #expect(checked.status == 0 && checked.text.contains("CN = node-9"))
        let keyFile = try openssl.file("ours.key", key.pem)
        #expect(try openssl.run("pkey", "-in", keyFile, "-check", "-noout").text.contains("Key is valid"))

        try openssl.run("ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", "theirs.key")
        try openssl.run("req", "-new", "-key", "theirs.key", "-subj", "/CN=node-3", "-out", "theirs.csr")
        let theirs = try CertificateRequest(pem: openssl.read("theirs.csr"))
        #expect(theirs.commonName == "node-3")
        #expect(
            try PrivateKey(pem: openssl.read("theirs.key")).publicKeyThumbprint == theirs.publicKeyThumbprint)
    }

    @Test(arguments: [
        ["genrsa", "-out", "bad.key", "2048"],
        ["ecparam", "-name", "secp384r1", "-genkey", "-noout", "-out", "bad.key"],
        ["genpkey", "-algorithm", "ed448", "-out", "bad.key"],
        ["genpkey", "-algorithm", "ed25519", "-aes256", "-pass", "pass:secret", "-out", "bad.key"],
    ])
    func keysOfOtherKindsAndEncryptedKeysAreRefused(_ arguments: [String]) throws {
        #expect(try openssl.start(arguments).finish().status == 0)
        #expect(throws: TLSError.self) { try PrivateKey(pem: openssl.read("bad.key")) }
        let made = try openssl.run(
            "req", "-new", "-key", "bad.key", "-passin", "pass:secret", "-subj", "/CN=x", "-out", "bad.csr")
        try #require(made.status == 0)
        if !arguments.contains("-aes256") {
            #expect(throws: TLSError.self) { try CertificateRequest(pem: openssl.read("bad.csr")) }
        }
    }

    private func caFile() throws -> String { try openssl.file("ca.pem", pki.caPEM) }

    /// s_client with the client's identity, and our server's end of its connection.
    private func startClient(_ arguments: [String]) throws -> (RunningCommand, SocketConnection) {
        let (listener, port) = try Loopback.listen()
        defer { close(listener) }
        let certificate = try openssl.file("client.pem", pki.client.chainPEM)
        let key = try openssl.file("client.key", pki.client.key.pem)
        let client = try openssl.start(
            [
                "s_client", "-connect", "127.0.0.1:\(port)", "-CAfile", caFile(), "-cert", certificate,
                "-key",
                key, "-verify_return_error", "-verify_hostname", "server.test",
            ] + arguments)
        let context = try pki.serverContext(.optional(caPEM: pki.caPEM), alpn: ["sluice/1"])
        return (
            client, SocketConnection(try TLSConnection(context: context), fd: try Loopback.accept(listener))
        )
    }

    /// s_server with the server's identity, and our client, connected to it.
    private func startServer(_ arguments: [String]) throws -> (RunningCommand, SocketConnection) {
        let certificate = try openssl.file("server.pem", pki.server.chainPEM)
        let key = try openssl.file("server.key", pki.server.key.pem)
        let server = try openssl.start(
            [
                "s_server", "-accept", "127.0.0.1:0", "-cert", certificate, "-cert_chain", certificate,
                "-key", key,
            ]
                + arguments)
        let prefix = "ACCEPT 127.0.0.1:"
        guard server.waitFor(prefix), server.waitFor("\n"),
            let line = server.text.split(separator: "\n").first(where: { $0.hasPrefix(prefix) }),
            let port = UInt16(line.dropFirst(prefix.count))
        else { throw TestFailure("s_server does not start: \(server.text)") }
        let connection = try TLSConnection(context: pki.clientContext(), serverName: "server.test")
        return (server, SocketConnection(connection, fd: try Loopback.connect(port: port)))
    }

    private func readLarge(_ server: SocketConnection, _ count: Int) throws -> String {
        var text = ""
        while text.utf8.count < count { text += try server.readUntil("\n") }
        return text
    }
}
