import Core
import Simulation
import Testing
import Wire

@Suite struct BodyTests {
    @Test func theServerGrantsAtMostItsOwnSizesAndAtLeastTheProtocols() {
        func granted(_ payload: UInt32, _ slots: UInt16) -> (UInt32, UInt16) {
            let sizes = Hello(payloadBytesMax: payload, slots: slots).granted(
                payloadBytesMax: 1 << 20, slots: 128)
            return (sizes.payloadBytesMax, sizes.slots)
        }
        #expect(granted(0, 0) == (1 << 20, 64))
        #expect(granted(65536, 8) == (65536, 8))
        #expect(granted(.max, .max) == (1 << 20, 128))
        #expect(granted(1, 1) == (16384, 1))
    }

    @Test func longNamesAreCutAtACharactersEdge() throws {
        let hello = try Hello(bytes: Hello(clientName: String(repeating: "ä", count: 100)).bytes)
        #expect(hello.clientName == String(repeating: "ä", count: 64))
        let odd = try Hello(bytes: Hello(clientName: "x" + String(repeating: "ä", count: 100)).bytes)
        #expect(odd.clientName == "x" + String(repeating: "ä", count: 63))
    }

    @Test func errorMessagesAreCutAtACharactersEdgeAndSafeToPrint() {
        #expect(ErrorMessage.encode("short") == Array("short".utf8))
        let long = ErrorMessage.encode("x" + String(repeating: "ä", count: 300))
        #expect(long.count == 511)
        #expect(ErrorMessage.decode(long) == "x" + String(repeating: "ä", count: 255))
        #expect(ErrorMessage.decode(Array("a\u{1b}[2Jb\n".utf8)) == "a\\u001b[2Jb\\n")
        #expect(ErrorMessage.decode([0x61, 0xff]) == "a\u{fffd}")
        #expect(ErrorMessage.decode(Array(repeating: 0x61, count: 1000)).utf8.count == 512)
    }

    @Test func unknownKindsOfEventsAreIgnoredAndImpossibleFieldsRefused() throws {
        func decode(_ kind: UInt16, status: UInt16 = 0, value: UInt64 = 0, detail: UInt64 = 0)
            throws(StatusError)
            -> ChannelEvent?
        {
            let header = ReplyHeader(
                status: status, flags: 0x8000, slot: 0xffff, opcode: kind, value: value, detail: detail)
            return try ChannelEvent.decode(header, payload: [])
        }
        #expect(try decode(99) == nil)
        #expect(throws: StatusError.self) { try decode(1, detail: 1 << 32) }
        #expect(throws: StatusError.self) { try decode(1, value: .max) }
        #expect(throws: StatusError.self) { try decode(2, status: 0) }
        #expect(throws: StatusError.self) { try decode(5, value: 2) }
    }

    @Test func accessModesHaveDistinctNumbers() {
        for mode in AccessMode.allCases { #expect(AccessMode(wire: mode.wire) == mode) }
        #expect(AccessMode(wire: 3) == nil)
    }

    /// Bytes near the vectors: whatever is accepted encodes to the same bytes again, and nothing traps.
    @Test func decodersAcceptOnlyWhatEncodesToTheSameBytes() throws {
        let vectors = try Vectors.load()
        let groups: [(String, [[UInt8]])] = [
            ("hello", vectors.hello.map(\.bytes)), ("helloReply", vectors.helloReply.map(\.bytes)),
            ("open", vectors.open.map(\.bytes)), ("renew", vectors.renew.map(\.bytes)),
            ("resourceState", vectors.resourceState.map(\.bytes)),
            ("copySource", vectors.copySource.map(\.bytes)), ("blockMap", vectors.blockMap.map(\.bytes)),
        ]
        let seeds = groups.flatMap { name, all in
            (all + vectors.rejects.filter { $0.where == name }.map(\.bytes)).map { (name, $0) }
        }
        var random = SplitMix(seed: 7481)
        var accepted = 0
        var refused = 0
        for _ in 0..<30_000 {
            var (name, bytes) = seeds[Int(random.next() % UInt64(seeds.count))]
            for _ in 0...random.next() % 4 where !bytes.isEmpty {
                let position = Int(random.next() % UInt64(min(bytes.count, 160)))
                bytes[position] = UInt8(truncatingIfNeeded: random.next())
            }
            if random.next() % 4 == 0 {
                bytes = Array(bytes.prefix(Int(random.next() % UInt64(bytes.count + 1))))
            }
            guard let encoded = Self.roundTrip(name, bytes) else {
                refused += 1
                continue
            }
            accepted += 1
            #expect(encoded == bytes)
        }
        #expect(accepted > 1000 && refused > 1000)
    }

    /// What the extents say, so that some of them are accepted.
    private static func covered(by bytes: [UInt8]) -> UInt64 {
        var reader = ByteReader(bytes)
        var sum: UInt64 = 0
        while let length = reader.read(UInt64.self), reader.read(UInt64.self) != nil { sum &+= length }
        return sum
    }

    private static func roundTrip(_ name: String, _ bytes: [UInt8]) -> [UInt8]? {
        do throws(StatusError) {
            switch name {
            case "hello": return try Hello(bytes: bytes).bytes
            case "helloReply": return try HelloReply(bytes: bytes).bytes
            case "open": return try OpenRequest(bytes: bytes).bytes
            case "renew": return try RenewRequest(bytes: bytes).bytes
            case "copySource": return try CopySource(bytes: bytes).bytes
            case "blockMap": return try BlockMap(bytes: bytes, covered: covered(by: bytes)).bytes
            default: return try ResourceState(bytes: bytes).bytes
            }
        } catch {
            #expect([.badFrame, .badRequest, .versionMismatch].contains(error.status))
            return nil
        }
    }
}
