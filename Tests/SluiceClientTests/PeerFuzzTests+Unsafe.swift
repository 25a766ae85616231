import Capability
import Core
import Foundation
import Glibc
import Reactor
import Simulation
import Synchronization
import TLS
import TestSupport
import Testing
import Wire

@testable import SluiceClient

/// Numbers that lie where sums, products and conversions break.
private struct HostileNumbers {
    var random: BenchPattern.Random

    private static let edges: [UInt64] = {
        let powers = (0..<64).map { UInt64(1) << UInt64($0) }
        return [0, 1, 2, 3, .max, .max - 1, 86_400, 86_401, UInt64(Int64.max), UInt64(UInt32.max)]
            + powers.flatMap { [$0 - 1, $0, $0 + 1, 0 &- $0] }
    }()

    mutating func next() -> UInt64 {
        switch random.next(below: 8) {
        case 0: random.next()
        case 1: random.next() >> random.next(below: 64)
        default: Self.edges[Int(random.next(below: UInt64(Self.edges.count)))]
        }
    }

    mutating func next<Number: FixedWidthInteger>(_ type: Number.Type) -> Number {
        Number(truncatingIfNeeded: next())
    }

    mutating func below(_ bound: Int) -> Int { Int(random.next(below: UInt64(bound))) }

    mutating func bytes(_ count: Int) -> [UInt8] {
        (0..<count).map { _ in UInt8(truncatingIfNeeded: random.next()) }
    }

    /// A right text, changed in a few places.
    mutating func spoil(_ bytes: [UInt8]) -> [UInt8] {
        var result = bytes
        for _ in 0...below(3) {
            guard !result.isEmpty else { return self.bytes(below(40)) }
            let place = below(result.count)
            switch below(5) {
            case 0: result[place] ^= 1 << UInt8(below(8))
            case 1: result.remove(at: place)
            case 2: result.insert(UInt8(truncatingIfNeeded: random.next()), at: place)
            case 3: result = Array(result[..<place])
            default:
                let number = next()
                for index in 0..<min(8, result.count - place) {
                    result[place + index] = UInt8(truncatingIfNeeded: number >> UInt64(8 * index))
                }
            }
        }
        return result
    }
}

/// Every decoder of what a peer sends, and what is done with the decoded. Nothing of it may end the process.
///
/// `SLUICE_FUZZ` multiplies the rounds, `SLUICE_SEED` begins with another seed.
@Suite(.timeLimit(.minutes(60)), .serialized, .blocking) struct PeerFuzzTests {
    private static let factor = Fuzzer.factor

    /// Runs `body` for one seed after the other; a seed that ends the process is the last one that was written.
    private func eachSeed(_ rounds: Int, _ body: (inout HostileNumbers) async throws -> Void) async throws {
        for round in 0..<rounds * Self.factor {
            let seed = Fuzzer.firstSeed &+ UInt64(round)
            if round % 1000 == 0 { print("peer fuzz: seeds from \(seed) on") }
            var numbers = HostileNumbers(random: BenchPattern.Random(seed))
            try await body(&numbers)
        }
    }

    @Test func bodiesOfFrames() async throws {
        let state = PeerConnection.volume()
        let hello = Hello(slots: 8, clientName: "client")
        let right: [[UInt8]] = [
            hello.bytes, PeerConnection.greeting(for: hello, slots: 8, payload: 65536).bytes, state.bytes,
            OpenRequest(kind: .volume, rights: [.read], capability: [1, 2, 3]).bytes,
            RenewRequest(capability: [1, 2, 3]).bytes, CopySource(handle: 7, offset: 4096).bytes,
            BlockMap(extents: [BlockExtent(length: 4096, flags: .zero)]).bytes,
        ]
        var known = 0
        try await eachSeed(4000) { numbers in
            let bytes = numbers.spoil(right[numbers.below(right.count)])
            if let hello = try? Hello(bytes: bytes) {
                known += 1
                let again = try Hello(bytes: hello.bytes)
                #expect(again == hello)
                _ = hello.granted(payloadBytesMax: numbers.next(UInt32.self), slots: 9)
            }
            if let reply = try? HelloReply(bytes: bytes) {
                let again = try HelloReply(bytes: reply.bytes)
                #expect(again == reply)
            }
            if let later = try? ResourceState(bytes: bytes) {
                known += 1
                _ = (later.range.end, state.fault(of: later), later.fault(of: state), later.rights.names)
                _ = later.fault(ofNewSize: numbers.next())
            }
            if let open = try? OpenRequest(bytes: bytes) {
                let again = try OpenRequest(bytes: open.bytes)
                #expect(again == open)
            }
            _ = try? RenewRequest(bytes: bytes)
            _ = try? CopySource(bytes: bytes)
            if let map = try? BlockMap(bytes: bytes, covered: numbers.next()) { _ = map.covered }
            #expect(ShownText.isPlain(ErrorMessage.decode(bytes)))
        }
        #expect(known > 100 * Self.factor)
    }

    @Test func headersAndEvents() async throws {
        try await eachSeed(20_000) { numbers in
            let kind = EventKind.allCases[numbers.below(5)]
            var header = ReplyHeader(
                length: numbers.next(UInt32.self), status: numbers.next(UInt16.self) & 0x7F,
                flags: ReplyHeader.eventFlag, slot: ReplyHeader.eventSlot, opcode: kind.rawValue,
                value: numbers.next(), detail: numbers.next() & 0xFF)
            if numbers.below(4) == 0 { header.detail = numbers.next() }
            let payload = numbers.bytes(numbers.below(64))
            if header.fault(payloadBytesMax: 1 << 20) == nil || numbers.below(2) == 0,
                let event = try? ChannelEvent.decode(header, payload: payload)
            {
                _ = (event.handle, event.kind, event.frame(number: 1))
                if case .draining(let seconds, _) = event { #expect(seconds <= Limits.drainSecondsMax) }
            }
            let request = RequestHeader(
                length: numbers.next(UInt32.self), opcode: numbers.next(UInt16.self) & 0x1FF,
                flags: RequestFlags(rawValue: numbers.next(UInt16.self) & 3), slot: numbers.next(UInt16.self),
                sequence: numbers.next(UInt32.self), handle: numbers.next(UInt32.self),
                count: numbers.next(UInt32.self), offset: numbers.next())
            _ = request.validate(.established(payloadBytesMax: 1 << 20))
            _ = request.validate(.greeting)
            _ = RequestHeader.successor(of: request.sequence)
        }
    }

    /// A server's capability is parsed for its times and rights, and shown to people.
    @Test func capabilities() async throws {
        let keys = OpenSSLSignatures()
        let (_, signer) = keys.makeKey()
        var read = 0
        try await eachSeed(300) { numbers in
            let start = numbers.next()
            var claims = Claims(
                issuer: .zero, audience: .zero, capability: .zero, subject: .zero, issuedAt: numbers.next(),
                notBefore: start, expiry: numbers.next(), holder: Digest32(first: .zero, second: .zero),
                kind: .volume, resource: .zero, rights: Rights(rawValue: numbers.next(UInt32.self) & 0x3FF),
                range: ByteRange(offset: numbers.next(), length: numbers.next()),
                limits: IOLimits(iops: numbers.next(), bytesPerSecond: numbers.next()),
                resourceEpoch: numbers.next(), nodeEpoch: numbers.next(), delegationDepth: 3)
            if claims.rights.isEmpty { claims.rights = .read }
            if claims.expiry <= claims.notBefore { swap(&claims.expiry, &claims.notBefore) }
            guard var minted = try? Capability.mint(claims, keyID: [1], signer: signer, keys: keys) else {
                return
            }
            if let narrower = try? minted.attenuated(
                by: Attenuation(
                    range: ByteRange(offset: numbers.next(), length: numbers.next()), expiry: numbers.next()),
                keys: keys)
            {
                minted = narrower
            }
            for bytes in [minted.bytes, numbers.spoil(minted.bytes), numbers.spoil(minted.bytes)] {
                guard let capability = try? Capability(bytes: bytes) else { continue }
                read += 1
                _ = try? CapabilityToSend(capability)
                for now in [0, numbers.next(), .max] {
                    let text = capability.explained(now: now)
                    #expect(ShownText.lines(text) == text)
                }
                _ = (Timestamp.text(capability.claims.expiry), Nanoseconds.seconds(capability.claims.expiry))
            }
        }
        #expect(read > 100)
    }

    @Test func textsOfTheControlAPI() async throws {
        let right = [
            #"{"type":"urn:x","title":"T","status":422,"code":"INVALID_FIELD","detail":"d","field":"size"}"#,
            "https://io1.example:7480", "[2001:db8::1]:7481", "192.0.2.1:7481", "2026-11-24T04:13:27Z",
            "10GiB",
            "id: 1\nevent: x\ndata: {}\n\n",
        ].map { Array($0.utf8) }
        try await eachSeed(3000) { numbers in
            let bytes = numbers.spoil(right[numbers.below(right.count)])
            let text = String(decoding: bytes, as: UTF8.self)
            let error = ClientError.of(status: 400 + numbers.below(200), body: bytes)
            #expect(ShownText.isPlain(error.detail) && ShownText.isPlain(error.code))
            if let address = try? ServerAddress(text: text) {
                _ = try ServerAddress(text: address.description)
            }
            if let address = try? SocketAddress(text: text) { _ = (address.hostBytes, address.isThisMachine) }
            if let seconds = Timestamp.parse(text) { _ = Timestamp.text(seconds) }
            if let count = ByteCount(text: text) { _ = count.description }
            _ = ByteCount(numbers.next()).description
            _ = Timestamp.text(numbers.next())
            _ = try? JoinToken(text: "sljoin1_" + text)
            var parser = EventStreamParser()
            _ = parser.take(bytes)
        }
    }

    /// A whole client against a server that opens the volume and then says whatever it likes, in frames that are right
    /// but for their numbers.
    @Test func clients() async throws {
        let identities = try ScriptedPeer.Identities()
        let script = Mutex<HostileNumbers>(HostileNumbers(random: BenchPattern.Random(0)))
        let peer = try ScriptedPeer(identities) { connection in
            var numbers = script.withLock { $0 }
            for _ in 0..<connection.index { _ = numbers.next() }
            try Self.lie(connection, &numbers)
        }
        let context = try identities.clientContext()
        try await eachSeed(12) { numbers in
            let chosen = numbers
            script.withLock { $0 = chosen }
            var options = VolumeClientOptions(
                addresses: [peer.address], serverName: "localhost", tls: context, capability: [1])
            options.channel.depth = 8
            options.channels = 1 + numbers.below(2)
            options.reconnectSeconds = 1
            let harness = try VolumeHarness(options)
            let memory = TestMemory(1 << 20)
            var answered = 0
            while let one = await harness.next() {
                if case .closed = one { break }
                if case .completed = one { answered += 1 }
                guard answered < 40 else {
                    harness.on { $0.close() }
                    continue
                }
                harness.on { volume in
                    guard let state = volume.state else { return }
                    let count = min(state.transferBytesMax, 1 << 20)
                    _ = unsafe volume.submit(.read, count: count, buffer: memory.base, tag: 1)
                    _ = unsafe volume.submit(.blockStatus, count: 4096, buffer: memory.base, tag: 2)
                    _ = unsafe volume.submit(.flush, tag: 3)
                    volume.renew(capability: [2]) { _ in }
                }
            }
            harness.stop()
            withExtendedLifetime(memory) {}
        }
    }

    private static func lie(_ connection: PeerConnection, _ numbers: inout HostileNumbers) throws {
        let (header, body) = try connection.nextRequest()
        let hello = try Hello(bytes: body)
        var reply = PeerConnection.greeting(for: hello, slots: 9, payload: 1 << 20)
        if numbers.below(2) == 0 { reply.features = .resume }
        if hello.resumes != nil, numbers.below(4) > 0 { reply.resumption = .slots }
        switch numbers.below(8) {
        case 0: reply.payloadBytesMax = numbers.next(UInt32.self)
        case 1: reply.slots = numbers.next(UInt16.self)
        case 2: reply.idleSeconds = numbers.next(UInt32.self)
        case 3: reply.channel = numbers.next(UInt16.self)
        default: break
        }
        try connection.reply(header, payload: reply.bytes)
        while true {
            let (header, _) = try connection.nextRequest()
            if numbers.below(4) == 0 {
                for _ in 0...numbers.below(20) { try connection.send(event(&numbers)) }
            }
            switch header.knownOpcode {
            case .open, .renew, .stat:
                var state = PeerConnection.volume()
                switch numbers.below(8) {
                case 0: state.size = numbers.next()
                case 1: state.blockSize = 1 << UInt32(numbers.below(17))
                case 2: state.transferBytesMax = numbers.next(UInt32.self)
                case 3: state.range = ByteRange(offset: numbers.next(), length: 0) ?? state.range
                case 4: state.expiry = numbers.next()
                case 5: state.writerGeneration = numbers.next()
                default: break
                }
                let handle = numbers.below(8) == 0 ? numbers.next() : 7
                try connection.reply(header, payload: state.bytes, value: handle)
            case .read:
                let status: Status = numbers.below(4) == 0 ? .mediumError : .ok
                try connection.reply(
                    header, status,
                    payload: status == .ok ? [UInt8](repeating: 1, count: Int(header.count)) : [0x1B, 0x9B],
                    value: numbers.below(8) == 0 ? numbers.next() : UInt64(header.count))
            case .blockStatus:
                let extents = (0...numbers.below(3)).map { _ in
                    BlockExtent(
                        length: numbers.below(2) == 0 ? 4096 : numbers.next(),
                        flags: BlockFlags(rawValue: numbers.next(UInt32.self) & 3))
                }
                try connection.reply(
                    header, payload: BlockMap(extents: extents).bytes,
                    value: numbers.below(2) == 0 ? 4096 : numbers.next())
            default:
                var answer = ReplyHeader(
                    to: header, status: .ok, value: numbers.next(), detail: numbers.next())
                if numbers.below(8) == 0 { answer.slot = numbers.next(UInt16.self) }
                if numbers.below(8) == 0 { answer.sequence = numbers.next(UInt32.self) }
                try connection.send(answer.bytes)
            }
            if numbers.below(16) == 0 { try connection.cut() }
        }
    }

    private static func event(_ numbers: inout HostileNumbers) -> [UInt8] {
        var header = ReplyHeader(
            flags: ReplyHeader.eventFlag, slot: ReplyHeader.eventSlot,
            opcode: EventKind.allCases[numbers.below(5)].rawValue, sequence: numbers.next(UInt32.self),
            value: numbers.below(2) == 0
                ? UInt64(1 << 20) + 4096 * UInt64(numbers.below(99)) : numbers.next(),
            detail: numbers.below(3) == 0 ? numbers.next() : 7)
        if header.opcode == EventKind.revoked.rawValue { header.status = Status.revoked.rawValue }
        let target = header.opcode == EventKind.draining.rawValue ? Array("127.0.0.1:1".utf8) : []
        header.length = UInt32(target.count)
        return header.bytes + target
    }
}
