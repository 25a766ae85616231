import Core
import Glibc

@testable import TLS

/// An authority with a server's and a client's identity, as every deployment has them.
struct TestAuthority {
    let authority: CertificateAuthority
    let server: TLSContext.Identity
    let client: TLSContext.Identity

    init(commonName: String = "Sluice test CA") throws {
        authority = try CertificateAuthority.create(commonName: commonName, validDays: 30)
        let serverKey = PrivateKey.generateP256()
        let serverCertificate = try authority.issueServer(
            key: serverKey, names: ["server.test"], addresses: ["192.0.2.7", "2001:db8::7"], days: 7)
        server = .init(chainPEM: serverCertificate.pem + authority.certificate.pem, key: serverKey)
        let clientKey = PrivateKey.generateP256()
        let clientCertificate = try authority.issueClient(
            key: clientKey, commonName: "node-1", role: "node",
            uris: ["sluice:node:" + String(repeating: "ab", count: 16)],
            validSeconds: 3600)
        client = .init(chainPEM: clientCertificate.pem, key: clientKey)
    }

    var caPEM: [UInt8] { authority.certificate.pem }

    func serverContext(
        _ clients: ClientAuthentication = .anyKey, identity: TLSContext.Identity? = nil, alpn: [String] = []
    ) throws -> TLSContext {
        let identity = identity ?? server
        return try .server(chainPEM: identity.chainPEM, key: identity.key, clients: clients, alpn: alpn)
    }

    func clientContext(
        _ trust: ServerTrust? = nil, anonymous: Bool = false, identity: TLSContext.Identity? = nil,
        alpn: [String] = []
    ) throws -> TLSContext {
        try .client(
            identity: anonymous ? nil : identity ?? client, trust: trust ?? .authority(caPEM: caPEM),
            alpn: alpn)
    }

    /// Both ends with this authority, before the handshake.
    func pair(
        server: TLSContext? = nil, client: TLSContext? = nil, serverName: String = "server.test"
    ) throws -> Pair {
        try Pair(
            server: TLSConnection(context: server ?? serverContext()),
            client: TLSConnection(context: client ?? clientContext(), serverName: serverName))
    }
}

/// A client and a server that are connected by nothing but function calls.
struct Pair {
    let server: TLSConnection
    let client: TLSConnection

    /// Carries bytes to and fro until both handshakes are done; throws what either side throws.
    func handshake() throws {
        var clientDone = false
        var serverDone = false
        for _ in 0..<10 where !(clientDone && serverDone) {
            clientDone = try client.handshake()
            serverDone = try server.accept(client.drainOutput()) { try server.handshake() }
            clientDone = try client.accept(server.drainOutput()) { try client.handshake() }
        }
        guard clientDone, serverDone else { throw TestFailure("the handshake does not end") }
    }

    /// What the client learns from the server after the handshake: nil when it is open, or the error.
    func clientVerdict() -> TLSError? {
        do {
            _ = try client.accept(server.drainOutput()) { try client.readAll() }
            return nil
        } catch {
            return error as? TLSError
        }
    }
}

struct TestFailure: Error, CustomStringConvertible {
    let description: String
    init(_ description: String) { self.description = description }
}

extension TLSConnection {
    /// Lends `bytes` while `body` runs.
    func accept<Result>(_ bytes: [UInt8], _ body: () throws -> Result) throws -> Result {
        try unsafe bytes.withUnsafeBytes { region in try unsafe withInput(region, body) }
    }

    /// Everything that waits to be sent.
    func drainOutput() -> [UInt8] {
        let bytes = unsafe output.withPending { unsafe Array($0) }
        output.consumed(bytes.count)
        return bytes
    }

    /// Encrypts `bytes` and returns the ciphertext.
    func sealed(_ bytes: [UInt8]) throws -> [UInt8] {
        try send(bytes)
        return drainOutput()
    }

    func send(_ bytes: [UInt8]) throws {
        try unsafe bytes.withUnsafeBytes { region in try unsafe write(region) }
    }

    /// One `read` into a buffer of `size` bytes.
    func readOnce(_ size: Int = 65536) throws -> [UInt8]? {
        var buffer = [UInt8](repeating: 0xEE, count: size)
        let count = try unsafe buffer.withUnsafeMutableBytes { region in try unsafe read(into: region) }
        return count.map { Array(buffer.prefix($0)) }
    }

    /// Reads until input is wanted or the peer has closed.
    func readAll(_ size: Int = 65536) throws -> [UInt8] {
        var bytes: [UInt8] = []
        while let next = try readOnce(size), !next.isEmpty { bytes += next }
        return bytes
    }
}

/// The time that certificates are checked against.
enum OpenSSLTime {
    static var now: UInt64 { UInt64(time(nil)) }
}
