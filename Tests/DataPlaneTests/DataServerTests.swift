import Capability
import Core
import DriverKit
import Reactor
import Services
import TLS
import TestSupport
import Testing
import Wire

@testable import DataPlane

/// Bytes that differ from place to place, so that a mix-up shows.
func pattern(_ count: Int, seed: UInt8 = 1) -> [UInt8] {
    var state = UInt32(seed) &* 2_654_435_761 &+ 12345
    return (0..<count).map { _ in
        state = state &* 1_664_525 &+ 1_013_904_223
        return UInt8(truncatingIfNeeded: state >> 24)
    }
}

@Suite(.timeLimit(.minutes(1)), .serialized, .blocking)
struct DataServerTests {
    @Test func whatIsWrittenIsReadAtEverySize() async throws {
        try await withServer { server async throws in
            let key = PrivateKey.generateP256()
            let client = try server.client(key)
            let handle = try client.open(try server.mint(server.claims(for: key)).bytes)
            for count in [512, 4096, 8192, 16384, 65536, 131_072 + 512, 1 << 20] {
                let bytes = pattern(count, seed: UInt8(truncatingIfNeeded: count >> 9))
                #expect(try client.write(handle, at: 512, bytes) == .ok)
                let reply = try client.read(handle, at: 512, UInt32(count))
                #expect(reply.status == .ok)
                #expect(reply.header.value == UInt64(count))
                #expect(reply.payload == bytes)
            }
            #expect(try client.request(.flush, handle: handle).status == .ok)
        }
    }

    @Test func aPoolThatAReactorCannotServeIsNotThereAndCanBeTriedAgain() async throws {
        try await withServer { server async throws in
            let pool = PoolDescriptor(name: "second", driver: "test", settings: [:], folder: "")
            server.driver.state.withLock { $0.refusesQueues = true }
            for _ in 0..<2 {
                do throws(StatusError) {
                    _ = try await server.services.perform(.addPool(pool))
                    Issue.record("it was started")
                } catch { #expect(error.status == .busy, "\(error)") }
            }
            server.driver.state.withLock { $0.refusesQueues = false }
            _ = try await server.services.perform(.addPool(pool))
        }
    }

    @Test func manyRequestsInOneSendAreAllAnswered() async throws {
        try await withServer { server async throws in
            let key = PrivateKey.generateP256()
            let client = try server.client(key, slots: 64)
            let handle = try client.open(try server.mint(server.claims(for: key)).bytes)
            let slots = try #require(client.session).slots
            var frames: [UInt8] = []
            for slot in 0..<slots {
                let bytes = pattern(4096, seed: UInt8(slot))
                let header = client.nextHeader(
                    .write, slot: slot, handle: handle, offset: UInt64(slot) * 4096, count: 4096, length: 4096
                )
                frames += header.bytes + bytes
            }
            try client.sendRaw(frames)
            var answered: Set<UInt16> = []
            for _ in 0..<slots {
                let reply = try client.readReply()
                #expect(reply.status == .ok)
                answered.insert(reply.header.slot)
            }
            #expect(answered.count == Int(slots))
            frames = []
            for slot in 0..<slots {
                frames +=
                    client.nextHeader(
                        .read, slot: slot, handle: handle, offset: UInt64(slot) * 4096, count: 4096
                    ).bytes
            }
            try client.sendRaw(frames)
            for _ in 0..<slots {
                let reply = try client.readReply()
                #expect(reply.payload == pattern(4096, seed: UInt8(reply.header.slot)))
            }
        }
    }

    @Test func aFrameInPiecesOfOneByteIsUnderstood() async throws {
        try await withServer { server async throws in
            let key = PrivateKey.generateP256()
            let client = try server.client(key)
            let handle = try client.open(try server.mint(server.claims(for: key)).bytes)
            let bytes = pattern(512)
            let header = client.nextHeader(.write, handle: handle, offset: 0, count: 512, length: 512)
            for byte in header.bytes + bytes { try client.sendRaw([byte]) }
            #expect(try client.readReply().status == .ok)
            #expect(try client.read(handle, at: 0, 512).payload == bytes)
        }
    }

    @Test func zeroesAndDiscardReadAsZero() async throws {
        try await withServer { server async throws in
            let key = PrivateKey.generateP256()
            let client = try server.client(key)
            let handle = try client.open(try server.mint(server.claims(for: key)).bytes)
            #expect(try client.write(handle, at: 0, pattern(8192)) == .ok)
            #expect(try client.request(.writeZeroes, handle: handle, offset: 0, count: 4096).status == .ok)
            #expect(try client.request(.discard, handle: handle, offset: 4096, count: 4096).status == .ok)
            #expect(try client.read(handle, at: 0, 8192).payload == Array(repeating: 0, count: 8192))
        }
    }

    @Test func channelsOfOneSessionShareItOnSeveralReactors() async throws {
        var options = DataServerOptions()
        options.reactors = 2
        try await withServer(options: options) { server async throws in
            let key = PrivateKey.generateP256()
            let capability = try server.mint(server.claims(for: key)).bytes
            let first = try server.client(key)
            let second = try server.client(key, joining: first)
            #expect(second.session?.session == first.session?.session)
            #expect(second.session?.channel == 1)
            let handles = (try first.open(capability), try second.open(capability))
            #expect(try first.write(handles.0, at: 0, pattern(4096)) == .ok)
            #expect(try second.read(handles.1, at: 0, 4096).payload == pattern(4096))
            let sessions = try await server.services.perform(.listSessions)
            #expect(sessions.count == 1)
            #expect(sessions.first?.channels == 2)
            #expect(sessions.first?.openVolumes.count == 2)
            #expect(sessions.first?.node == server.node)
            #expect(sessions.first?.bytesWritten == 4096)
        }
    }

    @Test func joiningNeedsTheSecretAndTheSameKey() async throws {
        try await withServer { server async throws in
            let key = PrivateKey.generateP256()
            let first = try server.client(key)
            let session = try #require(first.session)
            let stranger = try TestClient(
                address: server.address, context: server.clientContext(PrivateKey.generateP256()))
            let stolen = Hello(session: session.session, secret: session.secret)
            #expect(try stranger.helloReply(stolen).status == .denied)
            #expect(stranger.isClosedByServer())
            let guesser = try TestClient(address: server.address, context: server.clientContext(key))
            let guess = Hello(session: session.session, secret: Array(repeating: 7, count: 32))
            #expect(try guesser.helloReply(guess).status == .denied)
            let late = try TestClient(address: server.address, context: server.clientContext(key))
            let unknown = Hello(session: Identifier(high: 1, low: 2), secret: session.secret)
            #expect(try late.helloReply(unknown).status == .notFound)
        }
    }
}
