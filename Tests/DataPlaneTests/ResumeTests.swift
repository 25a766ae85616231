import Core
import DriverKit
import Reactor
import Services
import TLS
import TestSupport
import Testing
import Wire

@testable import DataPlane

/// Channels that outlive their connections.
@Suite(.timeLimit(.minutes(1)), .serialized, .blocking)
struct ResumeTests {
    private func token(_ server: TestServer, _ key: PrivateKey) throws -> [UInt8] {
        try server.mint(server.claims(for: key)).bytes
    }

    @Test func aLostChannelGoesOnWithItsSlots() async throws {
        try await withServer { server async throws in
            let key = PrivateKey.generateP256()
            let old = try server.client(key, features: .resume)
            #expect(old.session?.features == .resume)
            #expect(old.session?.lingerSeconds == Limits.lingerSeconds)
            let handle = try old.open(try token(server, key))
            #expect(try old.write(handle, at: 0, pattern(512)) == .ok)
            old.disconnect()
            let new = try server.connect(key)
            let reply = try new.resume(old)
            #expect(reply.resumption == .slots)
            #expect(reply.session == old.session?.session && reply.channel == 0)
            #expect(reply.secret == [UInt8](repeating: 0, count: 32))
            let again = try new.open(try token(server, key))
            #expect(try new.read(again, at: 0, 512).payload == pattern(512))
        }
    }

    @Test func aWriteThatWasExecutedIsAnsweredFromTheCache() async throws {
        try await withServer { server async throws in
            let key = PrivateKey.generateP256()
            let old = try server.client(key, features: .resume)
            let handle = try old.open(try token(server, key))
            server.driver.hold([.write])
            try old.send(.write, slot: 3, handle: handle, count: 512, payload: pattern(512))
            await server.driver.waitUntilHeld(1)
            old.disconnect()
            let new = try server.connect(key)
            // The old connection is gone, or not yet: either way HELLO waits for its write.
            let hello = new.resumption(of: try #require(old.session), secret: old.secret)
            try new.sendHello(hello)
            #expect(!new.hasInput(withinMilliseconds: 100))
            server.driver.letGo()
            _ = try new.takeOver(old, try new.readReply())
            try new.send(
                sequence: 1, .write, slot: 3, handle: 0x999, payload: pattern(512), count: 512)
            let reply = try new.readReply()
            #expect(reply.status == .ok && reply.header.value == 512 && reply.header.sequence == 1)
            #expect(server.driver.executed == [.write])
            let again = try new.open(try token(server, key))
            #expect(try new.write(again, at: 512, pattern(512), slot: 3) == .ok)
            #expect(server.driver.executed == [.write, .write])
        }
    }
}
