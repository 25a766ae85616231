import Core
import TLS
import TestSupport
import Testing
import Wire

@testable import SluiceClient

/// The client's loops over bytes, for every size around the edges of its buffers: replies as they arrive, and requests as
/// they go out.
@Suite(.timeLimit(.minutes(10)), .blocking) struct FrameEdgeTests {
    private static let record = 16 << 10
    private static let sizes = [
        512, 1024, ChannelCore.directBytesMin - 512, ChannelCore.directBytesMin,
        ChannelCore.directBytesMin + 512,
        ChannelCore.stagingBytes - 512, ChannelCore.stagingBytes - 32, ChannelCore.stagingBytes,
        ChannelCore.stagingBytes + 512, 1 << 20,
    ]

    private func greeted() throws -> ChannelCore {
        let core = ChannelCore()
        let reply = HelloReply(
            slots: 9, payloadBytesMax: 1 << 20, features: .resume, session: Identifier(high: 0, low: 1),
            channel: 1,
            resumption: .fresh, cluster: Identifier(high: 3, low: 4), serverName: "s")
        let header = ReplyHeader(length: UInt32(reply.bytes.count), opcode: Opcode.hello.rawValue)
        try feed(core, header.bytes + reply.bytes, piece: .max)
        core.notices = []
        return core
    }

    /// Hands the bytes over in pieces; each call takes at least one byte, and there is always room for one.
    private func feed(_ core: ChannelCore, _ bytes: [UInt8], piece: Int) throws {
        var rest = bytes[...]
        while !rest.isEmpty {
            let isDirect = core.isRoomDirect
            let room = unsafe core.room
            let count = min(room.count, rest.count, piece)
            try #require(count > 0, "there is no room")
            unsafe room.copyBytes(from: rest.prefix(count))
            rest = rest.dropFirst(count)
            try core.received(count, isDirect: isDirect)
        }
    }

    @Test(arguments: [
        1, 31, 32, 33, 511, 512, 513, record - 1, record, record + 1, ChannelCore.stagingBytes, .max,
    ])
    func repliesOfEverySizeArriveInEveryPiece(_ piece: Int) throws {
        let core = try greeted()
        let sizes = piece < 511 ? Self.sizes.filter { $0 <= ChannelCore.directBytesMin } : Self.sizes
        let memory = TestMemory(1 << 20)
        for (first, size) in sizes.enumerated() {
            // Two in one stream, so that the second begins wherever the first has ended.
            for second in [512, size] {
                let other = TestMemory(second)
                var stream: [UInt8] = []
                for (tag, count, buffer) in [(UInt64(1), size, memory), (2, second, other)] {
                    let header = unsafe core.begin(
                        ChannelRequest(
                            .read, handle: 7, offset: 0, count: UInt32(count), buffer: buffer.base, tag: tag))
                    let request = try #require(header)
                    stream +=
                        ReplyHeader(to: request, status: .ok, length: UInt32(count), value: UInt64(count))
                        .bytes
                    stream += (0..<count).map { UInt8(truncatingIfNeeded: $0 &* 31 &+ first &+ Int(tag)) }
                }
                try feed(core, stream, piece: piece)
                var tags: [UInt64] = []
                while core.takeCompletions({ span in
                    for index in span.indices { tags.append(span[index].tag) }
                }) {}
                #expect(tags == [1, 2])
                #expect(Array(memory.bytes.prefix(size)) == Array(stream[32..<32 + size]))
                #expect(other.bytes == Array(stream[(64 + size)...]))
            }
        }
    }

    @Test func requestsOfEverySizeLeaveWholeAndInOrder() throws {
        let pair = try OutgoingPair()
        var frames = OutgoingFrames(sink: RecordSink(tls: pair.client))
        let payloads = [
            0, 512, (8 << 10) - 1, 8 << 10, (8 << 10) + 1, Self.record - 32, Self.record, Self.record + 1,
            (64 << 10) - 32, (64 << 10) - 31, 64 << 10, (64 << 10) + 1, 1 << 20,
        ]
        let content = Dictionary(
            uniqueKeysWithValues: payloads.map { count in
                (count, (0..<count).map { UInt8(truncatingIfNeeded: $0 &* 7 &+ count) })
            })
        var expected: [UInt8] = []
        for first in payloads {
            for second in payloads where first < 1 << 20 || second < 1 << 20 {
                for count in [first, second] {
                    let header = RequestHeader(length: UInt32(count), opcode: Opcode.write.rawValue)
                    let bytes = content[count] ?? []
                    unsafe bytes.withUnsafeBytes { unsafe frames.append(header, $0) }
                    expected += header.bytes + bytes
                }
                if expected.count > 1 << 20 {
                    try frames.flush()
                    #expect(try pair.received() == expected)
                    expected = []
                }
            }
        }
        for count in payloads where count <= 64 << 10 {
            let body = [UInt8](repeating: 3, count: count)
            let header = RequestHeader(length: UInt32(count), opcode: Opcode.open.rawValue)
            frames.append(header, body)
            expected += header.bytes + body
        }
        try frames.flush()
        #expect(try pair.received() == expected)
    }
}

/// Encrypts frames.
private final class RecordSink: FrameSink {
    private let tls: TLSConnection

    init(tls: TLSConnection) { self.tls = tls }

    var pendingBytes: Int { tls.output.pendingBytes }

    func write(_ bytes: UnsafeRawBufferPointer) throws(ChannelError) {
        do throws(TLSError) {
            unsafe try tls.write(bytes)
        } catch { throw .tls(error) }
    }
}

/// A client and a server after their handshake, connected by nothing but function calls.
private struct OutgoingPair {
    let client: TLSConnection
    private let server: TLSConnection

    init() throws {
        let identities = try ScriptedPeer.Identities()
        client = try TLSConnection(context: try identities.clientContext(), serverName: "localhost")
        server = try TLSConnection(
            context: try .server(
                chainPEM: identities.server.chainPEM, key: identities.server.key, clients: .anyKey,
                alpn: ["sluice/1"]))
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

    /// Everything that the client has written, decrypted by the server.
    func received() throws -> [UInt8] {
        carry(from: client, to: server)
        var result: [UInt8] = []
        var buffer = [UInt8](repeating: 0, count: 50000)
        while let count = try unsafe buffer.withUnsafeMutableBytes({ try unsafe server.read(into: $0) }),
            count > 0
        {
            result += buffer.prefix(count)
        }
        return result
    }
}
