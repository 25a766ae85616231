import Core
import Glibc
import Simulation
import Testing

@testable import TLS

@Suite struct TLSConnectionTests {
    let pki: TestAuthority

    init() throws { pki = try TestAuthority() }

    @Test func bothSidesExchangeBytesAfterAHandshake() throws {
        let pair = try opened()
        let question = Array("How deep is the sea?".utf8)
        let received = try pair.server.accept(pair.client.sealed(question)) { try pair.server.readOnce() }
        #expect(received == question)
        let answer = try pair.client.accept(pair.server.sealed([1, 2, 3])) { try pair.client.readOnce() }
        #expect(answer == [1, 2, 3])
        #expect(pair.client.cipherSuite == "TLS_AES_128_GCM_SHA256")
        #expect(pair.server.cipherSuite == "TLS_AES_128_GCM_SHA256")
    }

    @Test func nothingIsKnownOfAPeerBeforeTheHandshakeIsDone() throws {
        let pair = try pki.pair()
        #expect(pair.client.peerCertificate == nil && pair.client.peerChain.isEmpty && !pair.client.isOpen)
        #expect(throws: TLSError.closed) { try pair.client.send([1]) }
    }

    @Test(arguments: 1...24)
    func anyCuttingOfTheStreamGivesTheSameBytes(_ seed: UInt64) throws {
        var random = SplitMix(seed: seed)
        let pair = try pki.pair()
        try pair.client.handshakeInPieces(with: pair.server, &random)
        for _ in 0..<6 {
            let (from, to) =
                Bool.random(using: &random) ? (pair.client, pair.server) : (pair.server, pair.client)
            let sent = random.bytes(.random(in: 1...70000, using: &random))
            let ciphertext = try sealedInPieces(sent, from, &random)
            let received = try deliverInPieces(ciphertext, to, &random)
            #expect(received == sent)
            #expect(to.unreadInputBytes == 0)
        }
    }

    @Test(arguments: [1, 15, 16, 4095, 4096, 4097, 16383, 16384, 16385, 16400, 40000])
    func readsOfAnySizeGiveTheSameBytes(_ size: Int) throws {
        let pair = try opened()
        var random = SplitMix(seed: UInt64(size))
        let sent = random.bytes(size == 1 ? 3000 : 100_000)
        let received = try pair.server.accept(pair.client.sealed(sent)) { try pair.server.readAll(size) }
        #expect(received == sent)
    }

    @Test func aMebibyteIsOneWriteInRecordsOf16KiB() throws {
        let pair = try opened()
        var random = SplitMix(seed: 5)
        let sent = random.bytes(1 << 20)
        let ciphertext = try pair.client.sealed(sent)
        #expect(ciphertext.count == (1 << 20) + 64 * 22)
        let received = try pair.server.accept(ciphertext) { try pair.server.readOnce(1 << 20) }
        #expect(received == sent)
    }

    @Test func aReadTakesManyRecordsAtOnce() throws {
        let pair = try opened()
        for byte in 1...50 { try pair.client.send([UInt8(byte)]) }
        let received = try pair.server.accept(pair.client.drainOutput()) { try pair.server.readOnce() }
        #expect(received == Array(1...50))
    }

    @Test func aReadNeverWritesBeyondItsBuffer() throws {
        let pair = try opened()
        let ciphertext = try pair.client.sealed([UInt8](repeating: 1, count: 5000))
        var memory = [UInt8](repeating: 0xEE, count: 4096)
        let count = try pair.server.accept(ciphertext) {
            try unsafe memory.withUnsafeMutableBytes {
                try unsafe pair.server.read(into: .init(rebasing: $0[100..<3000]))
            }
        }
        #expect(count == 2900)
        #expect(memory[..<100].allSatisfy { $0 == 0xEE } && memory[3000...].allSatisfy { $0 == 0xEE })
        #expect(pair.server.unreadInputBytes == 2100)
        #expect(try pair.server.readAll().count == 2100)
    }

    @Test func inputThatIsNotReadAtOnceIsKept() throws {
        let pair = try opened()
        var expected: [UInt8] = []
        for round in 0..<5 {
            let bytes = [UInt8](repeating: UInt8(round), count: 20000)
            expected += bytes
            try pair.server.accept(pair.client.sealed(bytes)) {}
        }
        #expect(pair.server.unreadInputBytes > 100_000)
        #expect(try pair.server.readAll(777) == expected)
        #expect(pair.server.unreadInputBytes == 0)
    }

    // MARK: The end of a connection

    @Test func aCleanCloseIsReadAsZeroAfterTheLastByte() throws {
        let pair = try opened()
        try pair.client.send([1, 2, 3])
        pair.client.close()
        pair.client.close()
        #expect(throws: TLSError.closed) { try pair.client.send([4]) }
        let ciphertext = pair.client.drainOutput()
        try pair.server.accept(ciphertext + ciphertext) { () throws in
            #expect(try pair.server.readOnce() == [1, 2, 3])
            #expect(try pair.server.readOnce() == [])
            #expect(try pair.server.readOnce() == [])
        }
        // The other direction stays open.
        let answer = try pair.client.accept(pair.server.sealed([9])) { try pair.client.readOnce() }
        #expect(answer == [9])
    }

    @Test func aStreamThatEndsWithoutCloseIsNoCleanEnd() throws {
        let pair = try opened()
        let ciphertext = try pair.client.sealed([1, 2, 3])
        #expect(try pair.server.accept(Array(ciphertext.dropLast())) { try pair.server.readOnce() } == nil)
    }

    @Test func everyAlteredByteOfARecordIsRefused() throws {
        let pair = try opened()
        let ciphertext = try pair.client.sealed([1, 2, 3])
        for index in ciphertext.indices {
            let pair = try opened()
            var altered = try pair.client.sealed([1, 2, 3])
            altered[index] ^= 0x10
            let error = #expect(throws: TLSError.self) {
                // A longer length waits for bytes that never come, so they are sent.
                try pair.server.accept(altered + [UInt8](repeating: 0, count: 20000)) {
                    try pair.server.readAll()
                }
            }
            guard case .protocolViolation = error else {
                Issue.record("byte \(index): \(String(describing: error))")
                continue
            }
            #expect(!pair.server.isOpen)
            #expect(throws: TLSError.self) { try pair.server.send([1]) }
            guard case .peerAlert = pair.clientVerdict() else {
                Issue.record("byte \(index): the peer is not told")
                continue
            }
        }
    }

    @Test func repeatedDroppedAndReorderedRecordsAreRefused() throws {
        for order in [[0, 0], [1], [1, 0], [0, 2]] {
            let pair = try opened()
            let records = try (0..<3).map { try pair.client.sealed([UInt8($0)]) }
            #expect(throws: TLSError.protocolViolation("a record is not authentic")) {
                for index in order {
                    _ = try pair.server.accept(records[index]) { try pair.server.readAll() }
                }
            }
        }
    }

    @Test func bytesBeforeABadRecordAreDelivered() throws {
        let pair = try opened()
        let good = try pair.client.sealed([7, 7])
        try pair.server.accept(good + good) { () throws in
            #expect(try pair.server.readOnce() == [7, 7])
            #expect(throws: TLSError.self) { try pair.server.readOnce() }
            #expect(throws: TLSError.self) { try pair.server.readOnce() }
        }
    }

    @Test(arguments: 1...50)
    func garbageInsteadOfAHandshakeIsRefused(_ seed: UInt64) throws {
        var random = SplitMix(seed: seed)
        let server = try TLSConnection(context: pki.serverContext())
        var garbage = random.bytes(.random(in: 6...3000, using: &random))
        // Some of it looks like the beginning of a record, and of a greeting.
        if seed.isMultiple(of: 2) { garbage.replaceSubrange(0..<3, with: [22, 3, 1]) }
        if seed.isMultiple(of: 4) { garbage.replaceSubrange(3..<6, with: [0, UInt8(seed), 1]) }
        do {
            let isDone = try server.accept(garbage) { try server.handshake() }
            #expect(!isDone)
        } catch {
            #expect(error is TLSError)
            #expect(!server.isOpen)
            #expect(throws: TLSError.self) { try server.accept([22, 3, 1]) { try server.handshake() } }
            #expect(server.unreadInputBytes == 0)
        }
    }

    @Test(arguments: [
        "GET / HTTP/1.1\r\n\r\n", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "SSH-2.0-OpenSSH_9.2\r\n",
    ])
    func plainTextOfOtherProtocolsIsRefused(_ text: String) throws {
        let server = try TLSConnection(context: pki.serverContext())
        let error = #expect(throws: TLSError.self) {
            try server.accept(Array(text.utf8)) { try server.handshake() }
        }
        guard case .handshakeFailed = error else {
            Issue.record("\(String(describing: error))")
            return
        }
    }

    @Test(arguments: 1...40)
    func anAlteredHandshakeNeverSucceeds(_ seed: UInt64) throws {
        var random = SplitMix(seed: seed)
        let pair = try pki.pair()
        let flight = Int.random(in: 0..<3, using: &random)
        func carry(_ index: Int, _ from: TLSConnection, _ to: TLSConnection) throws -> Bool {
            var bytes = from.drainOutput()
            // A header's version is the one thing that a receiver must not look at.
            if index == flight, bytes.count > 5 {
                let at = Int.random(in: 5..<bytes.count, using: &random)
                bytes[at] ^= UInt8.random(in: 1...255, using: &random)
            }
            return try to.accept(bytes) { try to.handshake() }
        }
        var isDone = false
        do {
            _ = try pair.client.handshake()
            _ = try carry(0, pair.client, pair.server)
            _ = try carry(1, pair.server, pair.client)
            isDone = try carry(2, pair.client, pair.server)
        } catch {
            #expect(error is TLSError)
        }
        #expect(!isDone)
    }

    // MARK: Memory

    @Test func outputMemoryStaysWhereItIsWhileASendIsInFlight() throws {
        let pair = try opened()
        try pair.client.send([1, 2, 3])
        var inFlight = pair.client.takeOutput()
        #expect(pair.client.output.pendingBytes == 0)
        try pair.client.send([UInt8](repeating: 4, count: 100_000))
        let first = unsafe Array(inFlight.bytes.prefix(10))
        inFlight.consume(10)
        let second = unsafe Array(inFlight.bytes)
        #expect(inFlight.count == second.count)
        pair.client.giveBack(inFlight)
        let received = try pair.server.accept(first + second) { try pair.server.readOnce() }
        #expect(received == [1, 2, 3])
        let rest = try pair.server.accept(pair.client.drainOutput()) { try pair.server.readAll() }
        #expect(rest == [UInt8](repeating: 4, count: 100_000))
    }

    private func opened() throws -> Pair {
        let pair = try pki.pair()
        try pair.handshake()
        return pair
    }

    private func sealedInPieces(
        _ bytes: [UInt8], _ from: TLSConnection, _ random: inout SplitMix
    ) throws -> [UInt8] {
        var rest = bytes[...]
        while !rest.isEmpty {
            let count = Int.random(in: 1...min(rest.count, 40000), using: &random)
            try from.send(Array(rest.prefix(count)))
            rest = rest.dropFirst(count)
        }
        return from.drainOutput()
    }

    /// Feeds in pieces of any size, and reads with buffers of any size, or not at all for once.
    private func deliverInPieces(
        _ ciphertext: [UInt8], _ to: TLSConnection, _ random: inout SplitMix
    ) throws -> [UInt8] {
        var rest = ciphertext[...]
        var received: [UInt8] = []
        while !rest.isEmpty {
            let most = [3, 100, 20000, 70000].randomElement(using: &random) ?? 1
            let piece = Array(rest.prefix(.random(in: 1...most, using: &random)))
            rest = rest.dropFirst(piece.count)
            let size = Int.random(in: 1...20000, using: &random)
            let readsNow = Int.random(in: 0..<4, using: &random) > 0
            received += try to.accept(piece) { readsNow ? try to.readAll(size) : [] }
        }
        return received + (try to.readAll())
    }
}

extension TLSConnection {
    /// A handshake in which every flight arrives in small pieces.
    func handshakeInPieces(with server: TLSConnection, _ random: inout SplitMix) throws {
        func carry(_ from: TLSConnection, _ to: TLSConnection) throws {
            var rest = from.drainOutput()[...]
            while !rest.isEmpty {
                let piece = Array(rest.prefix(.random(in: 1...300, using: &random)))
                rest = rest.dropFirst(piece.count)
                _ = try to.accept(piece) { try to.handshake() }
            }
        }
        _ = try handshake()
        try carry(self, server)
        try carry(server, self)
        try carry(self, server)
        guard isOpen, server.isOpen else { throw TestFailure("the handshake does not end") }
    }
}
