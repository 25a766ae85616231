import Core
import TLS
import TestSupport
import Testing

@testable import DataPlane

/// Whatever is gathered, and however it is cut, arrives as it was and in full records.
@Suite(.background) struct RecordGathererTests {
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

    /// What a record has room for when a header comes, and what follows it, by enumeration: each room from none but a
    /// byte to what the longest copied piece and two headers need, and each edge of pieces and records beside it.
    @Test(.timeLimit(.minutes(15)))
    func everyRoomAndEveryEdgeArrivesInOrder() throws {
        let pair = try ConnectedPair()
        let source = UnsafeMutableRawBufferPointer.allocate(byteCount: 4 * 16384 + 2, alignment: 16)
        defer { unsafe source.deallocate() }
        for index in source.indices {
            unsafe source[index] = UInt8(truncatingIfNeeded: index &* 7 &+ index >> 8)
        }
        let sizes = [
            0, 1, 31, 32, 33, 511, 512, 513, 1024, 16351, 16352, 16353, 16383, 16384, 16385, 32768, 49153,
        ]
        var gatherer = RecordGatherer()
        var expected = [UInt8]()
        for room in 1...(512 + 2 * 32 + 2) {
            for size in sizes {
                let second = sizes[(room + size) % sizes.count]
                expected.removeAll(keepingCapacity: true)
                gatherer.begin()
                let before = unsafe UnsafeRawBufferPointer(rebasing: source[1..<1 + 16384 - room])
                try unsafe gatherer.append(before, to: pair.server)
                unsafe expected.append(contentsOf: before)
                for payload in [size, second] {
                    try unsafe gatherer.appendHeader(to: pair.server) { target in
                        unsafe target.initializeMemory(as: UInt8.self, repeating: 0xA5, count: 32)
                    }
                    expected.append(contentsOf: repeatElement(0xA5, count: 32))
                    #expect(gatherer.room > 0)
                    let bytes = unsafe UnsafeRawBufferPointer(rebasing: source[..<payload])
                    if room % 2 == 0 {
                        try unsafe gatherer.append(bytes, to: pair.server)
                    } else {
                        try unsafe gatherer.appendCopy(bytes, to: pair.server)
                    }
                    unsafe expected.append(contentsOf: bytes)
                    #expect(gatherer.room > 0)
                }
                try gatherer.flush(to: pair.server)
                guard try pair.received() == expected else {
                    Issue.record("room \(room), payloads \(size) and \(second)")
                    return
                }
            }
        }
    }

    /// The loads that stopped a reactor for ever: one size again and again, so that every residue of the record's
    /// size is met, for each size up to two records in steps of an odd number, and at the powers of two.
    @Test(.timeLimit(.minutes(15)))
    func oneSizeAgainAndAgainFillsEveryRecord() throws {
        let pair = try ConnectedPair()
        let source = UnsafeMutableRawBufferPointer.allocate(byteCount: 33100, alignment: 16)
        defer { unsafe source.deallocate() }
        for index in source.indices { unsafe source[index] = UInt8(truncatingIfNeeded: index &* 11) }
        var gatherer = RecordGatherer()
        var expected = [UInt8]()
        let powers = (0...15).flatMap { [(1 << $0) - 1, 1 << $0, (1 << $0) + 1] }
        for size in powers + Array(stride(from: 1, to: 32800, by: 331)) {
            expected.removeAll(keepingCapacity: true)
            gatherer.begin()
            for turn in 0..<40 {
                try unsafe gatherer.appendHeader(to: pair.server) { target in
                    unsafe target.initializeMemory(as: UInt8.self, repeating: UInt8(turn), count: 32)
                }
                expected.append(contentsOf: repeatElement(UInt8(turn), count: 32))
                // Each from an address of its own: pieces that lie side by side would be made one.
                let bytes = unsafe UnsafeRawBufferPointer(rebasing: source[turn..<turn + size])
                try unsafe gatherer.append(bytes, to: pair.server)
                unsafe expected.append(contentsOf: bytes)
            }
            try gatherer.flush(to: pair.server)
            #expect(try pair.received() == expected, "payloads of \(size)")
        }
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
        result.reserveCapacity(1 << 17)
        var buffer = [UInt8](repeating: 0, count: 50000)
        while let count = try unsafe buffer.withUnsafeMutableBytes({ try unsafe client.read(into: $0) }),
            count > 0
        {
            result += buffer.prefix(count)
        }
        return result
    }
}
