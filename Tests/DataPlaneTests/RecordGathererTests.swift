import Core
import TLS
import Testing

@testable import DataPlane

/// Whatever is gathered, and however it is cut, arrives as it was and in full records.
@Suite struct RecordGathererTests {
    @Test(arguments: 0..<20)
    func whatIsGatheredArrivesInOrder(_ seed: Int) throws {
        var random = SystemRandomNumberGenerator()
        let pair = try ConnectedPair()
        var gatherer = RecordGatherer()
        var expected: [UInt8] = []
        var memory = unsafe [UnsafeMutableRawBufferPointer]()
        defer { unsafe memory.forEach { unsafe $0.deallocate() } }
        gatherer.begin()
        for step in 0..<60 {
            let size = [2, 31, 512, 513, 4096, 16383, 16384, 70000].randomElement(using: &random)!
            let count = size - seed % 3
            let bytes = (0..<count).map { UInt8(truncatingIfNeeded: $0 &* 7 &+ step &+ seed) }
            switch Int.random(in: 0..<4, using: &random) {
            case 0:
                try unsafe gatherer.appendHeader(to: pair.server) { target in
                    unsafe target.initializeMemory(as: UInt8.self, repeating: UInt8(step), count: 32)
                }
                expected += [UInt8](repeating: UInt8(step), count: 32)
            case 1:
                let fleeting = UnsafeMutableRawBufferPointer.allocate(byteCount: count, alignment: 16)
                unsafe fleeting.copyBytes(from: bytes)
                try unsafe gatherer.appendCopy(UnsafeRawBufferPointer(fleeting), to: pair.server)
                unsafe fleeting.initializeMemory(as: UInt8.self, repeating: 0xEE)
                unsafe fleeting.deallocate()
                expected += bytes
            default:
                let lasting = UnsafeMutableRawBufferPointer.allocate(byteCount: count, alignment: 16)
                unsafe lasting.copyBytes(from: bytes)
                unsafe memory.append(lasting)
                try unsafe gatherer.append(UnsafeRawBufferPointer(lasting), to: pair.server)
                expected += bytes
            }
            if step % 13 == seed % 13 { try gatherer.flush(to: pair.server) }
        }
        try gatherer.flush(to: pair.server)
        #expect(try pair.received() == expected)
    }

    @Test func recordsAreFull() throws {
        let pair = try ConnectedPair()
        var gatherer = RecordGatherer()
        let payload = UnsafeMutableRawBufferPointer.allocate(byteCount: 4096, alignment: 16)
        defer { unsafe payload.deallocate() }
        unsafe payload.initializeMemory(as: UInt8.self, repeating: 5)
        gatherer.begin()
        for _ in 0..<32 {
            try unsafe gatherer.appendHeader(to: pair.server) { target in
                unsafe target.initializeMemory(as: UInt8.self, repeating: 1, count: 32)
            }
            try unsafe gatherer.append(UnsafeRawBufferPointer(payload), to: pair.server)
        }
        try gatherer.flush(to: pair.server)
        let plaintext = 32 * (32 + 4096)
        let records = (plaintext + 16383) / 16384
        // A header is not cut in two, so a record may lack what one would have filled.
        #expect(
            pair.server.output.pendingBytes <= plaintext + (records + 1) * TLSConnection.recordOverheadBytes)
    }
}

/// A server and a client after their handshake, connected by nothing but function calls.
private struct ConnectedPair {
    let server: TLSConnection
    let client: TLSConnection

    init() throws {
        let authority = try CertificateAuthority.create(commonName: "test CA", validDays: 2)
        let key = PrivateKey.generateP256()
        let certificate = try authority.issueServer(
            key: key, names: ["localhost"], addresses: ["127.0.0.1"], days: 1)
        server = try TLSConnection(
            context: .server(
                chainPEM: certificate.pem + authority.certificate.pem, key: key, clients: .anyKey,
                alpn: [DataServer.applicationProtocol]))
        let clientKey = PrivateKey.generateP256()
        let clientCertificate = try authority.issueClient(
            key: clientKey, commonName: "node-1", role: "node", uris: [], validSeconds: 86400)
        client = try TLSConnection(
            context: .client(
                identity: TLSContext.Identity(chainPEM: clientCertificate.pem, key: clientKey),
                trust: .authority(caPEM: authority.certificate.pem), alpn: [DataServer.applicationProtocol]),
            serverName: "127.0.0.1")
        var isDone = false
        while !isDone {
            isDone = try client.handshake()
            carry(from: client, to: server)
            isDone = try server.handshake() && isDone
            carry(from: server, to: client)
        }
    }

    private func carry(from source: TLSConnection, to target: TLSConnection) {
        let bytes = unsafe source.output.withPending { unsafe Array($0) }
        source.output.consumed(bytes.count)
        unsafe bytes.withUnsafeBytes { unsafe target.feed($0) }
        target.endInput()
    }

    /// Everything that the server has written, decrypted by the client.
    func received() throws -> [UInt8] {
        carry(from: server, to: client)
        var result: [UInt8] = []
        var buffer = [UInt8](repeating: 0, count: 50000)
        while let count = try unsafe buffer.withUnsafeMutableBytes({ try unsafe client.read(into: $0) }),
            count > 0
        {
            result += buffer.prefix(count)
        }
        return result
    }
}
