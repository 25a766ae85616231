import Core
import DriverKit
import Reactor
import Services
import TLS
import TestSupport
import Testing
import Wire

@testable import DataPlane

/// Sessions without a connection: what they keep from others, and how they end.
@Suite(.timeLimit(.minutes(1)), .serialized, .blocking)
struct LostSessionTests {
    private func token(
        _ server: TestServer, _ key: PrivateKey, rights: Rights = [.read, .write, .flush, .discard],
        epoch: UInt64 = TestServer.volumeEpoch, id: Identifier? = nil
    ) throws -> [UInt8] {
        var claims = server.claims(for: key, rights: rights, id: id)
        claims.resourceEpoch = epoch
        return try server.mint(claims).bytes
    }

    /// A writer that has lost its connection.
    private func lostWriter(
        _ server: TestServer, _ key: PrivateKey, id: Identifier? = nil
    ) async throws -> TestClient {
        let writer = try server.client(key, features: .resume)
        _ = try writer.open(try token(server, key, id: id))
        writer.disconnect()
        try await server.waitForSessions { $0.first?.lost != nil }
        return writer
    }

    @Test func aLostWriterKeepsItsClaimAndOthersAreToldHowToGetIt() async throws {
        try await withServer { server async throws in
            let keys = (PrivateKey.generateP256(), PrivateKey.generateP256())
            let lost = try await lostWriter(server, keys.0)
            let since = Timestamp.text(server.clock.now())
            let rival = try server.client(keys.1)
            let refused = try rival.openReply(try token(server, keys.1))
            #expect(refused.status == .writerConflict)
            #expect(
                refused.message.hasSuffix(
                    "which has had no connection since \(since): 'sluice volume fence vol' takes the volume away "
                        + "from it"))
            let back = try server.resumed(lost, keys.0)
            let handle = try back.open(try token(server, keys.0))
            #expect(try back.write(handle, at: 0, pattern(512)) == .ok)
            #expect(try back.request(.close, handle: handle).status == .ok)
            #expect(try rival.openReply(try token(server, keys.1)).status == .ok, "CLOSE gives it up")
        }
    }

    @Test func takeOverEndsALostSessionOfTheSameKeyOnly() async throws {
        try await withServer { server async throws in
            let keys = (PrivateKey.generateP256(), PrivateKey.generateP256())
            let lost = try await lostWriter(server, keys.0)
            let stranger = try server.client(keys.1)
            #expect(
                try stranger.openReply(try token(server, keys.1), takesOver: true).status == .writerConflict)
            let own = try server.client(keys.0, features: .resume)
            #expect(try own.openReply(try token(server, keys.0)).status == .writerConflict)
            #expect(try own.openReply(try token(server, keys.0), takesOver: true).status == .ok)
            let late = try server.connect(keys.0)
            #expect(try late.resumeReply(lost).status == .notFound)
            let third = try server.client(keys.0, features: .resume)
            #expect(
                try third.openReply(try token(server, keys.0), takesOver: true).status == .writerConflict,
                "a session with a connection is not taken over")
        }
    }

    @Test func nothingIsTakenOverWhileItsWriteRuns() async throws {
        try await withServer { server async throws in
            let key = PrivateKey.generateP256()
            let writer = try server.client(key, features: .resume)
            let handle = try writer.open(try token(server, key))
            server.driver.hold([.write])
            try writer.send(.write, handle: handle, count: 512, payload: pattern(512))
            await server.driver.waitUntilHeld(1)
            writer.disconnect()
            let next = try server.client(key, features: .resume)
            #expect(try next.openReply(try token(server, key), takesOver: true).status == .writerConflict)
            server.driver.letGo()
            try await server.waitForSessions { $0.contains { $0.lost != nil } }
            #expect(try next.openReply(try token(server, key), takesOver: true).status == .ok)
        }
    }

    @Test func aSessionThatMayWriteNothingEndsAfterItsLinger() async throws {
        try await withServer(configure: { $0.lingerSeconds = 100 }) { server async throws in
            let key = PrivateKey.generateP256()
            let reader = try server.client(key, features: .resume)
            #expect(reader.session?.lingerSeconds == 100)
            _ = try reader.openReply(try token(server, key, rights: .read))
            reader.disconnect()
            try await server.waitForSessions { $0.first?.lost != nil }
            server.clock.advance(99)
            #expect(try server.resumed(reader, key).request(.ping, slot: 3).status == .ok)
            try await server.waitForSessions { $0.first?.lost != nil }
            server.clock.advance(100)
            try await server.waitForSessions { $0.isEmpty }
        }
    }

    @Test func aWriterEndsWithItsCapability() async throws {
        try await withServer(configure: { $0.lingerSeconds = 100 }) { server async throws in
            let key = PrivateKey.generateP256()
            _ = try await lostWriter(server, key)
            server.clock.advance(3599)
            let rival = PrivateKey.generateP256()
            let client = try server.client(rival)
            let bytes = try server.mint(server.claims(for: rival)).bytes
            #expect(try client.openReply(bytes).status == .writerConflict)
            server.clock.advance(1)
            #expect(try client.openReply(bytes).status == .ok)
            try await server.waitForSessions { $0.count == 1 }
        }
    }

    @Test func aFenceTakesTheClaimOfALostSession() async throws {
        try await withServer { server async throws in
            let keys = (PrivateKey.generateP256(), PrivateKey.generateP256())
            let lost = try await lostWriter(server, keys.0)
            let epoch = TestServer.volumeEpoch + 1
            let sessions = try await server.services.perform(
                .fenceVolume(server.descriptor(epoch: epoch), reason: "test"))
            #expect(sessions.map(\.session) == [try #require(lost.session?.session)])
            #expect(sessions.allSatisfy { $0.wasWriting })
            let next = try server.client(keys.1)
            let handle = try next.open(try token(server, keys.1, epoch: epoch))
            #expect(try next.write(handle, at: 0, pattern(512)) == .ok)
            #expect(try server.connect(keys.0).resumeReply(lost).status == .notFound)
            let back = try server.client(keys.0, features: .resume)
            #expect(try back.openReply(try token(server, keys.0)).status == .staleEpoch)
            #expect(
                try back.openReply(try token(server, keys.0, epoch: epoch)).status == .writerConflict)
        }
    }

    @Test func revocationAndRemovalOfTheNodeTakeTheClaim() async throws {
        try await withServer { server async throws in
            let keys = (PrivateKey.generateP256(), PrivateKey.generateP256())
            let id = Identifier.random(using: SystemRandom())
            let first = try await lostWriter(server, keys.0, id: id)
            let rival = try server.client(keys.1, features: .resume)
            #expect(try rival.openReply(try token(server, keys.1)).status == .writerConflict)
            _ = try await server.services.perform(
                .revokeCapability(id, expiry: server.clock.now() + 3600, reason: "test"))
            #expect(try rival.openReply(try token(server, keys.1)).status == .ok)
            #expect(try server.connect(keys.0).resumeReply(first).status == .notFound)
            let back = try server.client(keys.0)
            #expect(try back.openReply(try token(server, keys.0, id: id)).status == .revoked)
            rival.disconnect()
            try await server.waitForSessions { $0.contains { $0.lost != nil } }
            _ = try await server.services.perform(.removeNode(server.node))
            #expect(try await server.services.perform(.volumeWriters(server.volume)).isEmpty)
        }
    }

    @Test func aDisconnectedSessionCannotBeResumed() async throws {
        try await withServer { server async throws in
            let key = PrivateKey.generateP256()
            let lost = try await lostWriter(server, key)
            let id = try #require(lost.session?.session)
            _ = try await server.services.perform(.endSession(id, reason: "test"))
            let back = try server.connect(key)
            #expect(try back.resumeReply(lost).status == .notFound)
            let next = try server.client(key)
            #expect(try next.openReply(try token(server, key)).status == .ok)
        }
    }

    @Test func administratorsHearOfIt() async throws {
        let log = EventLog(wallClock: TestClock())
        try await withServer(configure: { $0.events = log }) { server async throws in
            let key = PrivateKey.generateP256()
            let lost = try await lostWriter(server, key)
            let back = try server.resumed(lost, key)
            try back.closeInOrder()
            try await server.waitForSessions { $0.isEmpty }
            let kinds = log.events(after: 0, limit: 64).events.map(\.kind)
            #expect(kinds == [.sessionStarted, .sessionLost, .sessionResumed, .sessionEnded])
        }
    }

    @Test func aDrainedServerTakesNoNewSessionAndTellsTheOthers() async throws {
        try await withServer { server async throws in
            let key = PrivateKey.generateP256()
            let client = try server.client(key, features: .resume)
            _ = try client.open(try token(server, key))
            let drain = Drain(deadline: server.clock.now() + 50, target: "192.0.2.20:7481")
            _ = try await server.services.perform(.drain(drain))
            #expect(try client.readEvent() == .draining(seconds: 50, target: "192.0.2.20:7481"))
            let late = try server.connect(key)
            #expect(try late.helloReply(Hello(features: .resume)).status == .draining)
            server.clock.advance(nanoseconds: 400_000_000)
            let back = try server.resumed(client, key)
            #expect(try back.readEvent() == .draining(seconds: 50, target: "192.0.2.20:7481"))
            let further = try server.client(key, joining: client, features: .resume)
            #expect(further.session?.channel == 1)
            _ = try await server.services.perform(.drain(nil))
            #expect(try server.client(key).session != nil)
        }
    }

    @Test func whoIsLeftAtTheEndOfADrainIsSentAway() async throws {
        try await withServer { server async throws in
            let key = PrivateKey.generateP256()
            let client = try server.client(key, features: .resume)
            _ = try client.open(try token(server, key))
            _ = try await server.services.perform(
                .drain(Drain(deadline: server.clock.now(), target: "192.0.2.20:7481")))
            #expect(client.isClosedByServer())
        }
    }
}
