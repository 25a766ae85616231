import Core
import Reactor
import Synchronization
import TLS
import TestSupport
import Testing
import Wire

@testable import SluiceClient

/// Asking for the map of a volume, of servers that answer rightly and wrongly.
@Suite(.timeLimit(.minutes(1)), .serialized, .blocking)
struct VolumeMapperTests {
    private static let size: UInt64 = 1 << 20

    /// The map of a volume whose server answers BLOCK_STATUS so, one answer after the other.
    private func map(
        _ answers: [(extents: [BlockExtent], value: UInt64)], size: UInt64 = VolumeMapperTests.size,
        range: ByteRange? = nil, since marker: Identifier? = nil
    ) throws -> [VolumeExtent] {
        let identities = try ScriptedPeer.Identities()
        let seen = SeenRequests()
        let peer = try ScriptedPeer(identities) { connection in
            try connection.greet()
            try connection.answerOpen(PeerConnection.volume(size: size))
            for answer in answers {
                let (header, payload) = try connection.nextRequest()
                seen.add(header)
                #expect(payload == marker?.bytes ?? [])
                try connection.reply(
                    header, payload: BlockMap(extents: answer.extents).bytes, value: answer.value)
            }
            try connection.waitForEnd()
        }
        let options = VolumeClientOptions(
            addresses: [peer.address], serverName: "127.0.0.1", tls: try identities.clientContext(),
            capability: [1])
        let extents = try VolumeMapper.map(options, range: range, since: marker)
        #expect(seen.all.allSatisfy { $0.opcode == Opcode.blockStatus.rawValue && $0.handle == 7 })
        #expect(seen.all.count == answers.count)
        return extents
    }

    private func extent(_ length: UInt64, _ flags: BlockFlags) -> BlockExtent {
        BlockExtent(length: length, flags: flags)
    }

    @Test func aMarkerIsNamedInEveryRequest() throws {
        let map = try map(
            [
                ([extent(65536, .allocated), extent(65536, [.allocated, .changed])], 131_072),
                ([extent(Self.size - 131_072, [.zero, .changed])], Self.size - 131_072),
            ], since: Identifier(high: 0x0102_0304_0506_0708, low: 9))
        #expect(
            map == [
                VolumeExtent(offset: 0, length: 65536, flags: .allocated),
                VolumeExtent(offset: 65536, length: 65536, flags: [.allocated, .changed]),
                VolumeExtent(offset: 131_072, length: Self.size - 131_072, flags: [.zero, .changed]),
            ])
    }

    @Test func nothingIsChangedSinceNoMarker() {
        #expect(throws: ChannelError.self) { try map([([extent(Self.size, [.zero, .changed])], Self.size)]) }
    }

    @Test func answersAreJoinedWhereTheySayTheSame() throws {
        let map = try map([
            ([extent(4096, .allocated), extent(8192, .zero)], 12288),
            ([extent(4096, .zero)], 4096),
            ([extent(512, [.zero, .allocated]), extent(Self.size - 16896, [])], Self.size - 16384),
        ])
        #expect(
            map == [
                VolumeExtent(offset: 0, length: 4096, flags: .allocated),
                VolumeExtent(offset: 4096, length: 12288, flags: .zero),
                VolumeExtent(offset: 16384, length: 512, flags: [.zero, .allocated]),
                VolumeExtent(offset: 16896, length: Self.size - 16896, flags: []),
            ])
    }

    @Test func aVolumeLargerThanARequestCoversIsAskedForInParts() throws {
        let most = UInt64(UInt32.max) / 512 * 512
        let map = try map(
            [([extent(most, .zero)], most), ([extent(4096, .zero)], 4096)], size: most + 4096)
        #expect(map == [VolumeExtent(offset: 0, length: most + 4096, flags: .zero)])
    }

    @Test func aRangeIsAskedForAlone() throws {
        let range = try #require(ByteRange(offset: 8192, length: 1024))
        let map = try map([([extent(1024, .allocated)], 1024)], range: range)
        #expect(map == [VolumeExtent(offset: 8192, length: 1024, flags: .allocated)])
        let beyond = try #require(ByteRange(offset: Self.size, length: 512))
        let error = #expect(throws: ChannelError.self) { _ = try self.map([], range: beyond) }
        #expect(error?.status == .outOfRange)
    }

    @Test func theMostExtentsOfAnAnswerFit() throws {
        let all = (0..<256).map { extent(4096, $0 % 2 == 0 ? .zero : .allocated) }
        #expect(try map([(all, Self.size)]).count == 256)
    }

    @Test func whatCannotBeIsAViolation() throws {
        let wrong: [(extents: [BlockExtent], value: UInt64)] = [
            ([], 0), ([], 4096),
            ([extent(4096, .zero)], 8192), ([extent(8192, .zero)], 4096),
            ([extent(4096, .zero), extent(0, .allocated)], 4096 + 512),
            ([extent(Self.size + 512, .zero)], Self.size + 512),
            ([extent(.max, .zero), extent(4097, .zero)], 4096),
            ([extent(4096, BlockFlags(rawValue: 4))], 4096),
            ((0..<257).map { _ in extent(512, .zero) }, 257 * 512),
            ([extent(4096, .zero)], 0),
        ]
        for answer in wrong {
            let error = #expect(throws: ChannelError.self) { _ = try map([answer]) }
            #expect(error?.status == .protocolViolation, "\(answer)")
        }
    }

    @Test func aRefusalSaysWhy() throws {
        let identities = try ScriptedPeer.Identities()
        let peer = try ScriptedPeer(identities) { connection in
            try connection.greet()
            try connection.answerOpen()
            let (header, _) = try connection.nextRequest()
            try connection.reply(header, .notSupported, payload: Array("it does not know".utf8))
            try connection.waitForEnd()
        }
        let options = VolumeClientOptions(
            addresses: [peer.address], serverName: "127.0.0.1", tls: try identities.clientContext(),
            capability: [1])
        let error = #expect(throws: ChannelError.self) { _ = try VolumeMapper.map(options) }
        #expect(error?.status == .notSupported)
        #expect(error?.description.contains("it does not know") == true)
    }
}

/// The requests that a peer has seen.
private final class SeenRequests: Sendable {
    private let requests = Mutex<[RequestHeader]>([])
    func add(_ header: RequestHeader) { requests.withLock { $0.append(header) } }
    var all: [RequestHeader] { requests.withLock { $0 } }
}
