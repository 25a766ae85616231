import Core
import Simulation
import Testing

@testable import TLS

/// What follows a handshake: key updates, alerts, tickets, records without data. The other side is a record
/// layer whose records the test makes byte by byte.
@Suite struct RecordLayerTests {
    private let pki: TestAuthority

    init() throws { pki = try TestAuthority() }

    // MARK: Key updates

    @Test(arguments: [1, 2, 7] as [UInt64])
    func keysAreReplacedInTimeWithoutLosingAByte(_ recordsPerKey: UInt64) throws {
        let pair = try pki.pair()
        pair.client.recordsPerKey = recordsPerKey
        pair.server.recordsPerKey = recordsPerKey
        try pair.handshake()
        var random = SplitMix(seed: recordsPerKey)
        for _ in 0..<20 {
            let bytes = random.bytes(.random(in: 1...60000, using: &random))
            #expect(try pair.server.accept(pair.client.sealed(bytes)) { try pair.server.readAll() } == bytes)
            #expect(try pair.client.accept(pair.server.sealed(bytes)) { try pair.client.readAll() } == bytes)
        }
    }

    @Test func aRequestedKeyUpdateIsAnsweredOnceBeforeTheNextByte() throws {
        let peer = try ScriptedPeer(isClient: true)
        for _ in 0..<5 {
            try peer.send(RecordType.handshake, [HandshakeType.keyUpdate, 0, 0, 1, 1])
            #expect(peer.updateWriteKey())
        }
        #expect(try peer.deliver() == [])
        #expect(peer.layerOutput.pendingBytes == 0)
        try peer.layerSend([1, 2, 3])
        let records = try peer.receive()
        #expect(records.map(\.type) == [RecordType.handshake, RecordType.applicationData])
        #expect(records.map(\.content) == [[HandshakeType.keyUpdate, 0, 0, 1, 0], [1, 2, 3]])
    }

    @Test(arguments: [[], [2], [0, 0]] as [[UInt8]])
    func aKeyUpdateThatAsksForNothingKnownIsRefused(_ body: [UInt8]) throws {
        try expectRefusal(.illegalParameter) { peer in
            try peer.send(RecordType.handshake, [HandshakeType.keyUpdate, 0, 0, UInt8(body.count)] + body)
        }
    }

    @Test func aMessageBehindAKeyUpdateInTheSameRecordIsRefused() throws {
        let update: [UInt8] = [HandshakeType.keyUpdate, 0, 0, 1, 0]
        try expectRefusal(.unexpectedMessage) { try $0.send(RecordType.handshake, update + update) }
    }

    @Test func endlessKeyUpdatesAreRefused() throws {
        let peer = try ScriptedPeer(isClient: true)
        #expect(throws: TLSError.protocolViolation("too many records without data")) {
            for _ in 0..<100 {
                try peer.send(RecordType.handshake, [HandshakeType.keyUpdate, 0, 0, 1, 1])
                #expect(peer.updateWriteKey())
                _ = try peer.deliver()
            }
        }
    }

    // MARK: Other handshake messages

    @Test func aClientIgnoresTicketsInAnyPieces() throws {
        let peer = try ScriptedPeer(isClient: false)
        let ticket: [UInt8] = [HandshakeType.newSessionTicket, 0, 1, 0] + [UInt8](repeating: 9, count: 256)
        try peer.send(RecordType.handshake, ticket + ticket)
        for byte in ticket.prefix(9) { try peer.send(RecordType.handshake, [byte]) }
        try peer.send(RecordType.handshake, Array(ticket.dropFirst(9)))
        try peer.send(RecordType.applicationData, [5])
        #expect(try peer.deliver() == [5])
    }

    @Test func aServerRefusesATicket() throws {
        try expectRefusal(.unexpectedMessage) {
            try $0.send(RecordType.handshake, [HandshakeType.newSessionTicket, 0, 0, 0])
        }
    }

    @Test(arguments: [0, 1, 2, 8, 11, 13, 15, 20, 254] as [UInt8])
    func noOtherMessageIsAccepted(_ type: UInt8) throws {
        for isClient in [true, false] {
            try expectRefusal(.unexpectedMessage, isClient: isClient) {
                try $0.send(RecordType.handshake, [type, 0, 0, 0])
            }
        }
    }

    @Test func dataWithinAMessageIsRefused() throws {
        try expectRefusal(.unexpectedMessage, isClient: false) {
            try $0.send(RecordType.handshake, [HandshakeType.newSessionTicket, 0])
            try $0.send(RecordType.applicationData, [1])
        }
    }

    @Test func aMessageOfAnySizeCostsLittleMemory() throws {
        try expectRefusal(.illegalParameter, isClient: false) {
            try $0.send(RecordType.handshake, [HandshakeType.newSessionTicket, 0xFF, 0xFF, 0xFF])
        }
    }

    // MARK: Alerts and other records

    @Test(arguments: [
        (40, "handshake failure"), (49, "access denied"), (80, "internal error"), (255, "alert 255"),
    ])
    func anAlertEndsTheConnectionWithItsName(_ code: UInt8, _ name: String) throws {
        for level: UInt8 in [1, 2] {
            let peer = try ScriptedPeer(isClient: true)
            try peer.send(RecordType.alert, [level, code])
            #expect(throws: TLSError.peerAlert(name)) { try peer.deliver() }
            #expect(throws: TLSError.peerAlert(name)) { try peer.layerSend([1]) }
        }
    }

    @Test func userCanceledIsFollowedByACleanClose() throws {
        let peer = try ScriptedPeer(isClient: true)
        try peer.send(RecordType.alert, [1, 90])
        try peer.send(RecordType.alert, [1, 0])
        #expect(try peer.deliver() == [])
        #expect(try peer.readsEnd())
    }

    @Test(arguments: [[], [1], [1, 0, 0]] as [[UInt8]])
    func anAlertOfTheWrongSizeIsRefused(_ content: [UInt8]) throws {
        try expectRefusal(.unexpectedMessage) { try $0.send(RecordType.alert, content) }
    }

    @Test(arguments: [0, 20, 24, 255] as [UInt8])
    func recordsOfOtherTypesAreRefused(_ type: UInt8) throws {
        try expectRefusal(.unexpectedMessage) { try $0.send(type, [1, 2]) }
    }

    @Test func aRecordThatIsNotEncryptedIsRefused() throws {
        for type: UInt8 in [20, 21, 22] {
            try expectRefusal(.unexpectedMessage) { $0.sendRaw([type, 3, 3, 0, 2, 1, 0]) }
        }
    }

    @Test func aRecordThatIsTooLongOrTooShortIsRefused() throws {
        try expectRefusal(.recordOverflow) { $0.sendRaw([23, 3, 3, 0x41, 0x01]) }
        try expectRefusal(.recordOverflow) { $0.sendRaw([23, 3, 3, 0xFF, 0xFF]) }
        try expectRefusal(.badRecordMAC) { $0.sendRaw([23, 3, 3, 0, 0]) }
        try expectRefusal(.badRecordMAC) { $0.sendRaw([23, 3, 3, 0, 16] + [UInt8](repeating: 0, count: 16)) }
    }

    @Test func contentAbove16KiBIsRefusedAndPaddingUpToTheLimitIsNot() throws {
        try expectRefusal(.recordOverflow) {
            try $0.send(RecordType.applicationData, [UInt8](repeating: 1, count: 16385))
        }
        for (count, padding) in [(16384, 1), (16383, 2), (1, 16384), (16384, 200), (0, 16385)] {
            try expectRefusal(.recordOverflow) {
                try $0.send(
                    RecordType.applicationData, [UInt8](repeating: 1, count: count), padding: padding)
            }
        }
        let peer = try ScriptedPeer(isClient: true)
        try peer.send(RecordType.applicationData, [1, 0, 2, 0], padding: 16000)
        try peer.send(RecordType.applicationData, [UInt8](repeating: 3, count: 16183), padding: 201)
        try peer.send(RecordType.applicationData, [UInt8](repeating: 3, count: 201))
        for size in [1, 2, 4, 5, 100, 16380] {
            try peer.send(RecordType.applicationData, [UInt8](repeating: 4, count: 4), padding: size)
        }
        let expected = [1, 0, 2, 0] + [UInt8](repeating: 3, count: 16384) + [UInt8](repeating: 4, count: 24)
        #expect(try peer.deliver(readBytes: 5) == expected)
    }

    @Test func aFewEmptyRecordsAreAcceptedAndManyAreNot() throws {
        let peer = try ScriptedPeer(isClient: true)
        for _ in 0..<32 { try peer.send(RecordType.applicationData, []) }
        try peer.send(RecordType.applicationData, [1])
        for _ in 0..<32 { try peer.send(RecordType.applicationData, []) }
        #expect(try peer.deliver() == [1])
        try peer.send(RecordType.applicationData, [], padding: 10)
        #expect(throws: TLSError.protocolViolation("too many records without data")) { try peer.deliver() }
    }

    @Test(arguments: CipherSuite.allCases)
    func everyCipherSuiteProtectsRecords(_ suite: CipherSuite) throws {
        let peer = try ScriptedPeer(isClient: true, suite: suite)
        var random = SplitMix(seed: 3)
        for size in [1, 15, 16, 17, 4096, 16384] {
            let bytes = random.bytes(size)
            try peer.send(RecordType.applicationData, bytes)
            #expect(try peer.deliver(readBytes: 1000) == bytes)
            try peer.layerSend(bytes)
            #expect(try peer.receive().map(\.content) == [bytes])
        }
        try peer.send(RecordType.handshake, [HandshakeType.keyUpdate, 0, 0, 1, 1])
        #expect(peer.updateWriteKey())
        try peer.send(RecordType.applicationData, [1])
        #expect(try peer.deliver() == [1])
    }

    /// The peer does what `script` says; the layer must fail, and say so in an alert that the peer can read.
    private func expectRefusal(
        _ alert: Alert, isClient: Bool = true, sourceLocation: SourceLocation = #_sourceLocation,
        _ script: (ScriptedPeer) throws -> Void
    ) throws {
        let peer = try ScriptedPeer(isClient: isClient)
        try script(peer)
        let error = #expect(throws: TLSError.self, sourceLocation: sourceLocation) { try peer.deliver() }
        guard case .protocolViolation = error else {
            Issue.record("\(String(describing: error))", sourceLocation: sourceLocation)
            return
        }
        let answer = try peer.receive()
        #expect(answer.map(\.type) == [RecordType.alert], sourceLocation: sourceLocation)
        #expect(answer.map(\.content) == [[2, alert.rawValue]], sourceLocation: sourceLocation)
        #expect(throws: TLSError.self, sourceLocation: sourceLocation) { try peer.layerSend([1]) }
    }
}

/// A peer that sends whatever records it is told to, and the record layer that has to cope with it.
private final class ScriptedPeer {
    struct Record {
        let type: UInt8
        let content: [UInt8]
    }

    private let transport = CipherTransport(pool: TLSBufferPool())
    private let layer: RecordLayer
    private let sealing: RecordCipher
    private let opening: RecordCipher
    private var wire: [UInt8] = []

    /// A peer that is a client, so that the layer is a server's, or the other way round.
    init(isClient: Bool, suite: CipherSuite = .aes128GCM) throws {
        func cipher(_ byte: UInt8, isSealing: Bool) throws -> RecordCipher {
            let bytes = [UInt8](repeating: byte, count: suite.secretBytes)
            let secret = unsafe bytes.withUnsafeBufferPointer { unsafe TrafficSecret($0) }
            return try #require(RecordCipher(suite: suite, secret: secret, isSealing: isSealing))
        }
        layer = RecordLayer(
            transport: transport, reader: try cipher(1, isSealing: false),
            writer: try cipher(2, isSealing: true),
            isServer: isClient)
        sealing = try cipher(1, isSealing: true)
        opening = try cipher(2, isSealing: false)
    }

    var layerOutput: TLSOutput { transport.output }

    func layerSend(_ bytes: [UInt8]) throws {
        try unsafe bytes.withUnsafeBytes { try unsafe layer.write($0) }
    }

    func updateWriteKey() -> Bool { sealing.update() }

    func sendRaw(_ bytes: [UInt8]) { wire += bytes }

    /// Puts one record on the wire. The padding lies between content and type, as the cipher sees it, so the
    /// type given to it is the last zero.
    func send(_ type: UInt8, _ content: [UInt8], padding: Int = 0) throws {
        var inner = content
        if padding > 0 { inner += [type] + [UInt8](repeating: 0, count: padding - 1) }
        var record = [UInt8](repeating: 0, count: inner.count + RecordCipher.overheadBytes)
        let done = unsafe record.withUnsafeMutableBufferPointer { target in
            unsafe sealing.seal(
                type: padding > 0 ? 0 : type, inner, count: inner.count, to: target.baseAddress!)
        }
        try #require(done)
        wire += record
    }

    /// Gives what is on the wire to the layer, and returns the data that it reads.
    func deliver(readBytes: Int = 65536) throws -> [UInt8] {
        defer { wire = [] }
        return try unsafe wire.withUnsafeBytes { bytes in
            unsafe transport.input.lend(bytes)
            defer { transport.input.endLoan() }
            var received: [UInt8] = []
            var buffer = [UInt8](repeating: 0, count: readBytes)
            while let count = try unsafe buffer.withUnsafeMutableBytes({ try unsafe layer.read(into: $0) }),
                count > 0
            {
                received += buffer.prefix(count)
            }
            return received
        }
    }

    /// Whether the layer reports the end of the stream.
    func readsEnd() throws -> Bool {
        var buffer = [UInt8](repeating: 0, count: 16)
        return try unsafe buffer.withUnsafeMutableBytes { try unsafe layer.read(into: $0) } == 0
    }

    /// Opens everything that the layer has sent.
    func receive() throws -> [Record] {
        var records: [Record] = []
        var rest = unsafe layerOutput.withPending { unsafe Array($0) }
        layerOutput.consumed(rest.count)
        while rest.count >= 5 {
            let bodyBytes = Int(rest[3]) << 8 | Int(rest[4])
            var inner = [UInt8](repeating: 0, count: bodyBytes - RecordCipher.tagBytes)
            let innerBytes = inner.count
            let done = unsafe inner.withUnsafeMutableBufferPointer { target in
                unsafe opening.open(
                    rest, bodyBytes: bodyBytes, first: target.baseAddress!, firstCount: innerBytes,
                    second: nil)
            }
            try #require(done)
            let type = inner.removeLast()
            records.append(Record(type: type, content: inner))
            if type == RecordType.handshake { try #require(opening.update()) }
            rest.removeFirst(RecordCipher.headerBytes + bodyBytes)
        }
        return records
    }
}
