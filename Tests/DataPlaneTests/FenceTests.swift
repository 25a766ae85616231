import Core
import DriverKit
import Reactor
import Services
import TLS
import TestSupport
import Testing
import Wire

@testable import DataPlane

/// Taking a volume away from whoever writes to it.
@Suite(.timeLimit(.minutes(1)), .serialized, .blocking)
struct FenceTests {
    private static let epoch = TestServer.volumeEpoch + 1

    private func fence(_ server: TestServer, _ reason: String = "fenced by admin:me") async throws
        -> [FencedSession]
    {
        let action = ServiceAction.fenceVolume(server.descriptor(epoch: Self.epoch), reason: reason)
        return try await server.services.perform(action)
    }

    private func token(_ server: TestServer, _ key: PrivateKey, epoch: UInt64) throws -> [UInt8] {
        var claims = server.claims(for: key)
        claims.resourceEpoch = epoch
        return try server.mint(claims).bytes
    }

    private func writers(_ server: TestServer) async throws -> [WriterInfo] {
        try await server.services.perform(.volumeWriters(server.volume))
    }

    @Test func aSecondWriterIsToldWhoWritesAndSinceWhen() async throws {
        try await withServer { server async throws in
            let keys = (PrivateKey.generateP256(), PrivateKey.generateP256())
            let writer = try server.client(keys.0)
            _ = try writer.open(try server.mint(server.claims(for: keys.0)).bytes)
            let since = server.clock.now()
            server.clock.advance(60)
            let rival = try server.client(keys.1)
            let refused = try rival.openReply(try server.mint(server.claims(for: keys.1)).bytes)
            let session = try #require(writer.session?.session)
            #expect(refused.status == .writerConflict)
            #expect(
                refused.message == "volume vol is being written by node node-1, session "
                    + "\(session.hex.prefix(8)), since \(Timestamp.text(since))")
            let listed = try await writers(server)
            #expect(listed.map(\.session) == [session])
            #expect(listed.map(\.nodeName) == ["node-1"] && listed.map(\.since) == [since])
        }
    }

    @Test func aFenceEndsEveryHandleOnEveryReactorAndMakesRoom() async throws {
        var options = DataServerOptions()
        options.reactors = 2
        try await withServer(options: options) { server async throws in
            let keys = (PrivateKey.generateP256(), PrivateKey.generateP256())
            let bytes = try token(server, keys.0, epoch: TestServer.volumeEpoch)
            let first = try server.client(keys.0)
            let second = try server.client(keys.0, joining: first)
            let reader = try server.client(keys.1)
            let handles = (try first.open(bytes), try second.open(bytes))
            let reading = try reader.openReply(
                try token(server, keys.1, epoch: TestServer.volumeEpoch), rights: .read)
            #expect(reading.status == .ok)
            let cut = try await fence(server)
            let own = try #require(first.session?.session)
            let other = try #require(reader.session?.session)
            #expect(Set(cut.map(\.session)) == [own, other])
            #expect(cut.first { $0.session == own }?.wasWriting == true)
            #expect(cut.first { $0.session == other }?.wasWriting == false)
            #expect(cut.allSatisfy { $0.nodeName == "node-1" })
            #expect(try first.write(handles.0, at: 0, pattern(512)) == .fenced)
            #expect(try second.read(handles.1, at: 0, 512).status == .fenced)
            #expect(
                first.events == [
                    .revoked(handle: handles.0, status: .fenced, reason: "fenced by admin:me")
                ])
            let renew = RenewRequest(capability: bytes)
            #expect(try first.request(.renew, handle: handles.0, payload: renew.bytes).status == .fenced)
            #expect(try first.openReply(bytes).status == .staleEpoch)
            #expect(try await writers(server).isEmpty)
            let next = try reader.open(try token(server, keys.1, epoch: Self.epoch))
            #expect(try reader.write(next, at: 0, pattern(512)) == .ok)
            #expect(try await writers(server).map(\.session) == [other])
            #expect(server.driver.executed == [.write])
        }
    }

    @Test func aFenceWaitsForWhatADriverHas() async throws {
        try await withServer { server async throws in
            let key = PrivateKey.generateP256()
            let client = try server.client(key)
            let handle = try client.open(try token(server, key, epoch: TestServer.volumeEpoch))
            server.driver.hold([.write])
            try client.send(.write, handle: handle, count: 512, payload: pattern(512))
            await server.driver.waitUntilHeld(1)
            let fencing = Task {
                _ = try await fence(server)
                return server.driver.executed.count
            }
            #expect(
                try client.readEvent()
                    == .revoked(handle: handle, status: .fenced, reason: "fenced by admin:me"))
            #expect(try client.write(handle, at: 512, pattern(512), slot: 1) == .fenced)
            server.driver.letGo()
            #expect(try await fencing.value == 1, "the answer came before the write had ended")
            #expect(try client.readReply().status == .ok)
        }
    }

    @Test func whatNoDriverHasBegunIsTakenBackAtOnce() async throws {
        try await withServer { server async throws in
            let keys = (PrivateKey.generateP256(), PrivateKey.generateP256())
            let client = try server.client(keys.0)
            let handle = try client.open(try token(server, keys.0, epoch: TestServer.volumeEpoch))
            server.driver.stall(true)
            for slot in UInt16(0)..<3 {
                try client.send(.write, slot: slot, handle: handle, count: 512, payload: pattern(512))
            }
            try await server.waitForSessions { $0.first?.inFlight == 3 }
            #expect(try await fence(server).count == 1)
            for _ in 0..<3 { #expect(try client.readReply().status == .fenced) }
            server.driver.stall(false)
            let next = try server.client(keys.1)
            let reopened = try next.open(try token(server, keys.1, epoch: Self.epoch))
            #expect(try next.read(reopened, at: 0, 512).payload == [UInt8](repeating: 0, count: 512))
            #expect(server.driver.executed == [.read])
        }
    }

    @Test func whoIsDisconnectedLosesWhatNoDriverHasBegun() async throws {
        try await withServer { server async throws in
            let key = PrivateKey.generateP256()
            let client = try server.client(key)
            let handle = try client.open(try token(server, key, epoch: TestServer.volumeEpoch))
            server.driver.stall(true)
            try client.send(.write, handle: handle, count: 512, payload: pattern(512))
            try await server.waitForSessions { $0.first?.inFlight == 1 }
            let session = try #require(client.session?.session)
            let disconnecting = Task {
                _ = try await server.services.perform(.endSession(session, reason: "test"))
            }
            #expect(try client.readReply().status == .fenced)
            client.disconnect()
            try await disconnecting.value
            server.driver.stall(false)
            let next = try server.client(key)
            let reopened = try next.open(try token(server, key, epoch: TestServer.volumeEpoch))
            #expect(try next.read(reopened, at: 0, 512).payload == [UInt8](repeating: 0, count: 512))
            #expect(server.driver.executed == [.read])
        }
    }

    @Test func anOlderEpochFencesNobody() async throws {
        try await withServer { server async throws in
            let key = PrivateKey.generateP256()
            let client = try server.client(key)
            _ = try await fence(server)
            let handle = try client.open(try token(server, key, epoch: Self.epoch))
            let old = ServiceAction.fenceVolume(server.descriptor(), reason: "late")
            await #expect(throws: StatusError.self) { try await server.services.perform(old) }
            #expect(try client.write(handle, at: 0, pattern(512)) == .ok)
        }
    }
}
