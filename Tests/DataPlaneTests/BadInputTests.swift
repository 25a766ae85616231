import Capability
import Core
import Reactor
import TLS
import TestSupport
import Testing
import Wire

@testable import DataPlane

/// Bad frames and requests: each ends in a clear answer or a closed channel, and others are served.
@Suite(.timeLimit(.minutes(1)), .serialized, .blocking)
struct BadInputTests {
    /// A server, a client with an open handle, and a bystander who must be served at the end.
    private func withClient(
        _ body: (TestServer, TestClient, UInt32) async throws -> Void
    ) async throws {
        try await withServer(accessMode: .shared) { server async throws in
            let key = PrivateKey.generateP256()
            let capability = try server.mint(server.claims(for: key)).bytes
            let bystander = try server.client(key)
            let bystanderHandle = try bystander.open(capability)
            let client = try server.client(key)
            try await body(server, client, try client.open(capability))
            #expect(try bystander.read(bystanderHandle, at: 0, 4096).status == .ok)
        }
    }

    @Test func garbageInsteadOfTLSClosesTheConnection() async throws {
        try await withClient { server, _, _ async throws in
            for bytes in [pattern(600), Array("GET / HTTP/1.1\r\n\r\n".utf8), [0x16, 3, 1, 0, 0]] {
                let socket = try RawSocket(server.address)
                socket.send(bytes)
                socket.finishSending()
                #expect(socket.isClosedByPeer())
            }
        }
    }

    @Test func aClientWithoutACertificateIsRefused() async throws {
        try await withClient { server, _, _ async throws in
            #expect(throws: (any Error).self) {
                let client = try TestClient(address: server.address, context: try server.clientContext(nil))
                try client.hello()
            }
        }
    }

    @Test func anotherApplicationProtocolIsRefused() async throws {
        try await withClient { server, _, _ async throws in
            let context = try server.clientContext(PrivateKey.generateP256(), alpn: ["h2"])
            #expect(throws: (any Error).self) {
                let client = try TestClient(address: server.address, context: context)
                try client.hello()
            }
        }
    }

    @Test func aFirstRequestThatIsNotHelloEndsTheChannel() async throws {
        try await withClient { server, _, _ async throws in
            let context = try server.clientContext(PrivateKey.generateP256())
            let client = try TestClient(address: server.address, context: context)
            let reply = try client.request(.ping)
            #expect(reply.status == .protocolViolation)
            #expect(client.isClosedByServer())
        }
    }

    @Test func aHelloThatIsTooLongEndsTheChannel() async throws {
        try await withClient { server, _, _ async throws in
            let context = try server.clientContext(PrivateKey.generateP256())
            let client = try TestClient(address: server.address, context: context)
            try client.sendRaw(RequestHeader(length: 1 << 20, opcode: Opcode.hello.rawValue).bytes)
            #expect(try client.readReply().status == .protocolViolation)
            #expect(client.isClosedByServer())
        }
    }

    @Test func aHelloOfAnotherVersionSaysWhichIsSpoken() async throws {
        try await withClient { server, _, _ async throws in
            let context = try server.clientContext(PrivateKey.generateP256())
            let client = try TestClient(address: server.address, context: context)
            var hello = Hello()
            hello.versionMin = 2
            hello.versionMax = 9
            let reply = try client.helloReply(hello)
            #expect(reply.status == .versionMismatch)
            #expect(reply.header.value == 1)
            #expect(reply.header.detail == 1)
            #expect(client.isClosedByServer())
        }
    }

    @Test func aSecondHelloEndsTheChannel() async throws {
        try await withClient { _, client, _ async throws in
            #expect(try client.helloReply(Hello()).status == .protocolViolation)
            #expect(client.isClosedByServer())
        }
    }

    @Test func aPayloadAboveTheGrantedMaximumEndsTheChannel() async throws {
        try await withClient { _, client, handle async throws in
            let header = client.nextHeader(
                .write, handle: handle, offset: 0, count: (1 << 20) + 512, length: (1 << 20) + 512)
            try client.sendRaw(header.bytes)
            #expect(try client.readReply().status == .protocolViolation)
            #expect(client.isClosedByServer())
        }
    }

    @Test func slotsAndSequencesAreEnforced() async throws {
        try await withClient { _, client, handle async throws in
            let slots = try #require(client.session).slots
            #expect(try client.request(.ping, slot: slots).status == .badSlot)
            #expect(try client.request(.ping, slot: 60000).status == .badSlot)
            _ = client.nextHeader(.ping, slot: 1)
            #expect(try client.request(.ping, slot: 1).status == .badSequence)
            client.takeBackSequence(slot: 1)
            client.takeBackSequence(slot: 1)
            #expect(try client.request(.ping, slot: 1).status == .ok)
            client.takeBackSequence(slot: 1)
            #expect(try client.request(.ping, slot: 1).status == .badSequence)
            let zero = RequestHeader(opcode: Opcode.ping.rawValue, slot: 2, sequence: 0)
            try client.sendRaw(zero.bytes)
            #expect(try client.readReply().status == .badSequence)
            #expect(try client.read(handle, at: 0, 512).status == .ok)
        }
    }

    @Test func aRequestOnAnOccupiedSlotIsRefusedAndTheFirstIsAnswered() async throws {
        try await withClient { server, client, handle async throws in
            server.driver.hold([.read])
            try client.send(.read, slot: 3, handle: handle, offset: 0, count: 512)
            await server.driver.waitUntilHeld(1)
            try client.send(.read, slot: 3, handle: handle, offset: 0, count: 512)
            #expect(try client.readReply().status == .badSequence)
            server.driver.letGo()
            #expect(try client.readReply().status == .ok)
        }
    }

    @Test func aWriteWithABadSequenceIsNotExecutedAndItsPayloadIsSkipped() async throws {
        try await withClient { server, client, handle async throws in
            _ = client.nextHeader(.write)
            #expect(try client.write(handle, at: 0, pattern(4096)) == .badSequence)
            client.takeBackSequence()
            client.takeBackSequence()
            #expect(try client.read(handle, at: 0, 4096).payload == Array(repeating: 0, count: 4096))
            #expect(!server.driver.executed.contains(.write))
        }
    }

    @Test(arguments: [0x7F, 0x108, 0x1FF, 0x200, 0xFFFF] as [UInt16])
    func anUnknownOpcodeIsRefusedAndItsPayloadIsSkipped(opcode: UInt16) async throws {
        try await withClient { _, client, handle async throws in
            var header = client.nextHeader(.ping, length: 777)
            header.opcode = opcode
            try client.sendRaw(header.bytes + pattern(777))
            #expect(try client.readReply().status == .unknownOpcode)
            #expect(try client.read(handle, at: 0, 512).status == .ok)
        }
    }

    @Test func reservedBitsAndFieldsAreRefused() async throws {
        try await withClient { _, client, handle async throws in
            var header = client.nextHeader(.read, handle: handle, count: 512)
            header.reserved = 1
            try client.sendRaw(header.bytes)
            #expect(try client.readReply().status == .badFrame)
            header = client.nextHeader(.read, handle: handle, count: 512, flags: .fua)
            try client.sendRaw(header.bytes)
            #expect(try client.readReply().status == .badFrame)
            header = client.nextHeader(.write, handle: handle, count: 512, length: 512)
            header.flags = RequestFlags(rawValue: 0x8000)
            try client.sendRaw(header.bytes + pattern(512))
            #expect(try client.readReply().status == .badFrame)
            #expect(try client.request(.ping, handle: handle).status == .badFrame)
            #expect(try client.request(.flush, handle: handle, offset: 512).status == .badFrame)
            #expect(try client.read(handle, at: 0, 512).status == .ok)
        }
    }

    @Test func lengthsThatDoNotFitAreRefused() async throws {
        try await withClient { _, client, handle async throws in
            #expect(try client.read(handle, at: 0, 0).status == .badLength)
            #expect(try client.write(handle, at: 0, []) == .badLength)
            #expect(
                try client.request(.write, handle: handle, count: 512, payload: pattern(1024)).status
                    == .badLength)
            #expect(try client.request(.read, handle: handle, count: 512, payload: [1]).status == .badLength)
            #expect(try client.request(.open).status == .badLength)
            #expect(try client.read(handle, at: 0, (1 << 20) + 512).status == .tooLarge)
            #expect(try client.read(handle, at: 0, 512).status == .ok)
        }
    }

    @Test func placesOutsideTheVolumeAreRefused() async throws {
        try await withClient { server, client, handle async throws in
            let end = TestServer.volumeBytes
            #expect(try client.read(handle, at: end, 512).status == .outOfRange)
            #expect(try client.read(handle, at: end - 512, 1024).status == .outOfRange)
            #expect(try client.read(handle, at: .max - 511, 512).status == .outOfRange)
            #expect(try client.read(handle, at: .max - 1023, 512).status == .outOfRange)
            #expect(try client.write(handle, at: end, pattern(512)) == .outOfRange)
            let discard = try client.request(.discard, handle: handle, offset: 512, count: .max)
            #expect(discard.status == .outOfRange)
            #expect(try client.read(handle, at: 1, 512).status == .unaligned)
            #expect(try client.read(handle, at: 0, 511).status == .unaligned)
            #expect(server.driver.executed.isEmpty)
        }
    }

    @Test func handlesThatAreNotOpenAreRefused() async throws {
        try await withClient { _, client, handle async throws in
            for bad in [0, handle + 1, handle &+ 256, .max] as [UInt32] {
                #expect(try client.read(bad, at: 0, 512).status == .badHandle)
                #expect(try client.request(.stat, handle: bad).status == .badHandle)
                #expect(try client.request(.close, handle: bad).status == .badHandle)
            }
            #expect(try client.request(.close, handle: handle).status == .ok)
            #expect(try client.read(handle, at: 0, 512).status == .badHandle)
        }
    }

    @Test func aBodyThatDoesNotParseIsRefused() async throws {
        try await withClient { _, client, handle async throws in
            #expect(try client.request(.open, payload: [1]).status == .badFrame)
            #expect(try client.request(.open, payload: pattern(200)).status == .badFrame)
            #expect(try client.request(.renew, handle: handle, payload: [9, 9, 9]).status == .badFrame)
            #expect(try client.openReply(pattern(500)).status == .badCapability)
            #expect(try client.read(handle, at: 0, 512).status == .ok)
        }
    }

    @Test func aFrameCutShortIsNotExecuted() async throws {
        try await withClient { server, client, handle async throws in
            let header = client.nextHeader(.write, handle: handle, offset: 0, count: 4096, length: 4096)
            try client.sendRaw(header.bytes + pattern(4000))
            client.disconnect()
            let key = PrivateKey.generateP256()
            let next = try server.client(key)
            let nextHandle = try next.open(try server.mint(server.claims(for: key)).bytes)
            #expect(try next.read(nextHandle, at: 0, 4096).payload == Array(repeating: 0, count: 4096))
            #expect(!server.driver.executed.contains(.write))
        }
    }

    @Test func anAlteredRecordClosesTheConnection() async throws {
        try await withClient { _, client, handle async throws in
            var records = try client.encrypt(client.nextHeader(.read, handle: handle, count: 512).bytes)
            records[records.count - 1] ^= 1
            #expect(client.sendCiphertext(records))
            #expect(client.isClosedByServer())
        }
    }

    @Test func aFullDiskIsReportedAndSurvived() async throws {
        try await withClient { server, client, handle async throws in
            server.driver.state.withLock { $0.failure = .noSpace }
            #expect(try client.write(handle, at: 0, pattern(4096)) == .noSpace)
            #expect(try client.read(handle, at: 0, 4096).payload.isEmpty)
            // Where the pool says so, a writer is told to wait, and nobody else.
            _ = try await server.services.perform(.setFullPolicy("default", .wait))
            #expect(try client.write(handle, at: 0, pattern(4096)) == .noSpaceYet)
            #expect(try client.read(handle, at: 0, 4096).status == .noSpace)
            let space = try await server.services.perform(.poolSpace("default"))
            #expect(space.refusals == 4 && space.lastRefusal != nil)
            server.driver.state.withLock { $0.failure = nil }
            #expect(try client.write(handle, at: 0, pattern(4096)) == .ok)
        }
    }

    @Test func randomBytesInsideTLSNeverHarmOthers() async throws {
        try await withClient { server, _, _ async throws in
            let context = try server.clientContext(PrivateKey.generateP256())
            for seed in 0..<32 {
                let client = try TestClient(address: server.address, context: context)
                if seed % 2 == 0 { try client.hello() }
                // The server may close while this is being sent.
                try? client.sendRaw(pattern(3000, seed: UInt8(seed)))
                client.disconnect()
            }
        }
    }
}
