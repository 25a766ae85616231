import Core
import Reactor
import Synchronization
import TLS
import TestSupport
import Testing
import Wire

@testable import SluiceClient

@Suite(.timeLimit(.minutes(1)), .serialized, .blocking) struct DataChannelHostileServerTests {
    /// What a server does to a right reply of 4,096 bytes, and how the client names it.
    enum Lie: CaseIterable, Sendable {
        case slotOutOfRange, slotNotInUse, sequence, opcode, tooShort, tooLong, oversize, enormous, status,
            flags
        case countTooSmall, countEnormous
        case eventSlot, hugeMessage, twice

        var fault: ReplyFault {
            switch self {
            case .slotOutOfRange, .slotNotInUse, .twice: .unknownSlot
            case .sequence: .wrongSequence
            case .opcode: .wrongOpcode
            case .tooShort, .tooLong: .wrongLength
            case .oversize, .enormous, .hugeMessage: .oversize
            case .status: .unknownStatus
            case .flags, .eventSlot: .reservedBits
            case .countTooSmall, .countEnormous: .wrongValue
            }
        }

        func frames(for request: RequestHeader) -> [UInt8] {
            var header = ReplyHeader(to: request, status: .ok, length: 4096, value: 4096)
            switch self {
            case .slotOutOfRange: header.slot = 9
            case .slotNotInUse: header.slot = header.slot == 0 ? 1 : 0
            case .sequence: header.sequence += 1
            case .opcode: header.opcode = Opcode.write.rawValue
            case .tooShort: header.length = 4095
            case .tooLong: header.length = 4097
            case .oversize: header.length = (1 << 20) + 1
            case .enormous: header.length = .max
            case .status: header.status = 4242
            case .flags: header.flags = 2
            case .countTooSmall: header.value = 4095
            case .countEnormous: header.value = .max
            case .eventSlot: header.flags = ReplyHeader.eventFlag
            case .hugeMessage:
                header.status = Status.ioError.rawValue
                header.length = 513
            case .twice:
                let frame = header.bytes + [UInt8](repeating: 7, count: 4096)
                return frame + frame
            }
            return header.bytes + [UInt8](repeating: 7, count: 4096)
        }
    }

    @Test(arguments: Lie.allCases) func aLyingReplyEndsTheChannelAndNothingElse(_ lie: Lie) async throws {
        try await withOpenChannel { connection in
            let (header, _) = try connection.nextRequest()
            try connection.send(lie.frames(for: header))
            try connection.waitForEnd()
        } test: { harness in
            let memory = TestMemory(4096)
            harness.on { channel in
                let request = unsafe ChannelRequest(
                    .read, handle: 7, count: 4096, buffer: memory.base, tag: 5)
                #expect(unsafe channel.submit(request))
            }
            let all = await harness.allToTheEnd()
            #expect(all.last?.ending == ChannelError.violation(lie.fault.message).description)
            let ended = all.compactMap { if case .completed(let one) = $0 { one } else { nil } }
            #expect(ended.count == 1 && ended.first?.tag == 5)
            #expect(ended.first?.status == (lie == .twice ? .ok : .ioError))
        }
    }

    @Test func impossibleEventsEndTheChannelAndUnknownOnesAreIgnored() async throws {
        try await withOpenChannel { connection in
            var header = ReplyHeader(flags: 0x8000, slot: 0xffff, opcode: 4711)
            try connection.send(header.bytes)
            header.opcode = EventKind.resized.rawValue
            header.value = .max
            try connection.send(header.bytes)
            try connection.waitForEnd()
        } test: { harness in
            let all = await harness.allToTheEnd()
            #expect(all.count == 1)
            #expect(all.last?.ending?.contains("impossible size") == true)
        }
    }

    @Test func aGreetingThatIsWrongEndsTheChannel() async throws {
        let right = PeerConnection.greeting(for: Hello(slots: 8), slots: 8, payload: 1 << 20)
        func answer(_ change: @escaping @Sendable (inout HelloReply) -> Void) async throws -> String {
            try await ending { connection in
                let (header, _) = try connection.nextRequest()
                var reply = right
                change(&reply)
                try connection.reply(header, payload: reply.bytes)
                try connection.waitForEnd()
            }
        }
        #expect(try await answer { $0.slots = 0 }.contains("outside the protocol's limits"))
        #expect(try await answer { $0.slots = 257 }.contains("outside the protocol's limits"))
        #expect(try await answer { $0.payloadBytesMax = .max }.contains("outside the protocol's limits"))
        #expect(try await answer { $0.version = 2 }.contains("version 2"))
        #expect(
            try await ending { connection in
                let (header, _) = try connection.nextRequest()
                try connection.reply(header, .draining, payload: Array("back at noon".utf8))
                try connection.waitForEnd()
            }.contains("HELLO: DRAINING: back at noon"))
        #expect(
            try await ending { connection in
                try connection.send(ChannelEvent.draining(seconds: 1, target: "").frame(number: 1))
                try connection.waitForEnd()
            }.contains("before it answered HELLO"))
        #expect(
            try await ending { connection in
                try connection.send([UInt8](repeating: 0xff, count: 4096))
                try connection.waitForEnd()
            }.contains("broke the protocol"))
    }

    @Test func aServerThatIsNoneOrNotOursIsNotSpokenTo() async throws {
        #expect(try await ending(alpn: []) { try $0.waitForEnd() }.contains("does not speak sluice/1"))
        #expect(try await ending(serverName: "other.test") { try $0.waitForEnd() }.contains("does not name"))
        let garbage = try await ending(handshakes: false) { connection in
            connection.sendCiphertext(Array("HTTP/1.1 400 Bad Request\r\n\r\n".utf8))
        }
        #expect(garbage.contains("TLS"))
        #expect(try await ending(handshakes: false) { try $0.cut() }.contains("lost"))
    }

    @Test func aServerThatSaysNothingIsGivenUp() async throws {
        var options = ChannelOptions()
        options.connectSeconds = 1
        let silent = try await ending(handshakes: false, options: options) { connection in
            try connection.waitForEnd()
        }
        #expect(silent.contains("in time"))
    }

    @Test func aServerThatNoLongerAnswersIsGivenUp() async throws {
        var options = ChannelOptions()
        options.pulseSeconds = 1
        try await withOpenChannel(options: options) { connection in
            try connection.waitForEnd()
        } test: { harness in
            harness.on { #expect(unsafe $0.submit(ChannelRequest(.flush, handle: 7, tag: 1))) }
            let all = await harness.allToTheEnd()
            #expect(all.last?.ending == ChannelError.timedOut("a PING").description)
        }
    }

    @Test func nobodyListeningIsToldApart() async throws {
        let socket = try Sockets.listen(try SocketAddress(text: "127.0.0.1:0"))
        let address = try Sockets.localAddress(fd: socket.raw)
        try socket.close()
        let harness = try ChannelHarness()
        defer { harness.stop() }
        harness.connect(to: address, try ScriptedPeer.Identities().clientContext())
        #expect(await harness.allToTheEnd().last?.ending?.contains("cannot connect to \(address)") == true)
    }

    @Test func anOpenThatIsAnsweredWithNonsenseEndsTheChannel() async throws {
        let identities = try ScriptedPeer.Identities()
        for (value, payload) in [
            (UInt64(0), PeerConnection.volume().bytes), (1 << 32, PeerConnection.volume().bytes),
            (7, [UInt8](repeating: 0xff, count: ResourceState.byteCount)), (7, [1, 2, 3]),
        ] {
            let peer = try ScriptedPeer(identities) { connection in
                try connection.greet()
                let (header, _) = try connection.nextRequest()
                try connection.reply(header, payload: payload, value: value)
                try connection.waitForEnd()
            }
            let harness = try ChannelHarness()
            defer { harness.stop() }
            harness.connect(to: peer.address, try identities.clientContext())
            _ = await harness.next()
            harness.open()
            let all = await harness.allToTheEnd()
            #expect(all.last?.ending?.contains("broke the protocol") == true)
        }
    }
}

/// The client's half of the protocol against whatever bytes come.
@Suite struct DataChannelCoreFuzzTests {
    @Test func anyStreamEndsInCompletionsOrAViolation() throws {
        var random = BenchPattern.Random(7481)
        var violations = 0
        for _ in 0..<3000 {
            let core = ChannelCore()
            let memory = TestMemory(64 << 10)
            do throws(ChannelError) {
                let hello = PeerConnection.greeting(for: Hello(slots: 8), slots: 8, payload: 65536)
                let greeting = ReplyHeader(length: UInt32(hello.bytes.count), opcode: Opcode.hello.rawValue)
                try Self.feed(core, greeting.bytes + hello.bytes, &random)
                var stream: [UInt8] = []
                for tag in 0..<7 {
                    let count = UInt32(random.next(below: 65536) + 1)
                    let request = unsafe ChannelRequest(
                        tag & 1 == 0 ? .read : .flush, handle: 7, count: tag & 1 == 0 ? count : 0,
                        buffer: memory.base,
                        tag: UInt64(tag))
                    guard let header = unsafe core.begin(request) else {
                        Issue.record("there are seven slots")
                        return
                    }
                    let length = header.opcode == Opcode.read.rawValue ? header.count : 0
                    stream +=
                        ReplyHeader(to: header, status: .ok, length: length, value: UInt64(header.count))
                        .bytes
                    stream += [UInt8](repeating: 1, count: Int(length))
                }
                for _ in 0..<random.next(below: 3) {
                    let position =
                        random.next(below: 2) == 0
                        ? random.next(below: 32) : random.next(below: UInt64(stream.count))
                    stream[Int(position)] ^= UInt8(truncatingIfNeeded: random.next())
                }
                try Self.feed(core, stream, &random)
            } catch {
                violations += 1
                core.abandon(.ioError)
            }
            var ended = 0
            while core.takeCompletions({ ended += $0.count }) {}
            #expect(ended <= 7)
        }
        #expect(violations > 300)
    }

    /// Hands the bytes over in pieces of random sizes, as records would.
    private static func feed(
        _ core: ChannelCore, _ bytes: [UInt8], _ random: inout BenchPattern.Random
    ) throws(ChannelError) {
        var start = 0
        while start < bytes.count {
            let isDirect = core.isRoomDirect
            let room = unsafe core.room
            let count = min(room.count, bytes.count - start, Int(random.next(below: 20_000)) + 1)
            unsafe room.copyBytes(from: bytes[start..<start + count])
            start += count
            try core.received(count, isDirect: isDirect)
        }
    }
}
