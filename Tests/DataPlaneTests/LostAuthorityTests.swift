import Core
import DriverKit
import Services
import TLS
import TestSupport
import Testing
import Wire

@testable import DataPlane

/// A lost channel whose authority to write ends: somebody else may write, and nothing old may come after that.
@Suite(.timeLimit(.minutes(1)), .serialized, .blocking)
struct LostAuthorityTests {
    private func token(_ server: TestServer, _ key: PrivateKey) throws -> [UInt8] {
        try server.mint(server.claims(for: key)).bytes
    }

    private func resumes(_ server: TestServer, _ key: PrivateKey, _ old: TestClient) throws -> Status? {
        let client = try server.connect(key)
        defer { client.disconnect() }
        return try client.resumeReply(old).status
    }

    @Test func aChannelWhoseCapabilityHasExpiredIsNotResumed() async throws {
        try await withServer { server async throws in
            let keys = (PrivateKey.generateP256(), PrivateKey.generateP256())
            let old = try server.client(keys.0, features: .resume)
            _ = try old.open(try token(server, keys.0))
            old.disconnect()
            server.clock.advance(4000)
            let rival = try server.client(keys.1)
            let bytes = try token(server, keys.1)
            try await untilTrue { try rival.openReply(bytes).status == .ok }
            try rival.closeInOrder()
            #expect(try resumes(server, keys.0, old) == .notFound)
        }
    }

    @Test func aChannelWhoseCapabilityWasRevokedIsNotResumed() async throws {
        try await withServer { server async throws in
            let key = PrivateKey.generateP256()
            let claims = server.claims(for: key)
            let old = try server.client(key, features: .resume)
            _ = try old.open(try server.mint(claims).bytes)
            old.disconnect()
            let action = ServiceAction.revokeCapability(
                claims.capability, expiry: claims.expiry, reason: "a test")
            _ = try await server.services.perform(action)
            #expect(try resumes(server, key, old) == .notFound)
        }
    }

    @Test func whatIsRevokedWhileItsConnectionIsGoingIsNotResumedEither() async throws {
        try await withServer { server async throws in
            let key = PrivateKey.generateP256()
            let claims = server.claims(for: key)
            let old = try server.client(key, features: .resume)
            let handle = try old.open(try server.mint(claims).bytes)
            server.driver.hold([.write])
            try old.send(.write, slot: 3, handle: handle, count: 512, payload: pattern(512))
            await server.driver.waitUntilHeld(1)
            old.disconnect()
            let revoked = Task {
                try await server.services.perform(
                    .revokeCapability(claims.capability, expiry: claims.expiry, reason: "a test"))
            }
            server.driver.letGo()
            _ = try await revoked.value
            #expect(try resumes(server, key, old) == .notFound)
        }
    }

    @Test func whoLosesTheConnectionAfterTheAuthorityIsNotResumedEither() async throws {
        try await withServer { server async throws in
            let (key, rivalKey) = (PrivateKey.generateP256(), PrivateKey.generateP256())
            let old = try server.client(key, features: .resume)
            let handle = try old.open(try token(server, key))
            server.clock.advance(4000)
            let rival = try server.client(rivalKey)
            let bytes = try token(server, rivalKey)
            try await untilTrue { try rival.openReply(bytes).status == .ok }
            try rival.closeInOrder()
            // What is sent now, and not answered, must not be repeated after what the rival wrote.
            let header = old.nextHeader(.write, slot: 1, handle: handle, count: 4096, length: 4096)
            try old.sendRaw(header.bytes + pattern(100))
            old.disconnect()
            #expect(try resumes(server, key, old) == .notFound)
        }
    }

    @Test func aChannelThatWasResumedOpensNothingOnceSomebodyElseCouldWrite() async throws {
        try await withServer { server async throws in
            let keys = (PrivateKey.generateP256(), PrivateKey.generateP256())
            let old = try server.client(keys.0, features: .resume)
            _ = try old.open(try token(server, keys.0))
            old.disconnect()
            let resumed = try server.resumed(old, keys.0)
            server.clock.advance(4000)
            let rival = try server.client(keys.1)
            #expect(try rival.openReply(try token(server, keys.1)).status == .ok)
            try rival.closeInOrder()
            // Whatever it would repeat comes after what the rival may have written.
            let reply = try? resumed.openReply(try token(server, keys.0), rights: .read)
            #expect(reply.map { $0.status == .expired } ?? true, "\(String(describing: reply?.status))")
            resumed.disconnect()
            try await untilTrue { try resumes(server, keys.0, old) == .notFound }
        }
    }

    @Test func aChannelThatWasResumedAndHasOpenedGoesOn() async throws {
        try await withServer { server async throws in
            let key = PrivateKey.generateP256()
            let old = try server.client(key, features: .resume)
            _ = try old.open(try token(server, key))
            old.disconnect()
            let resumed = try server.resumed(old, key)
            server.clock.advance(1800)
            let handle = try resumed.open(try token(server, key))
            server.clock.advance(2000)
            let rivalKey = PrivateKey.generateP256()
            let other = try server.client(rivalKey)
            #expect(try other.openReply(try token(server, rivalKey)).status == .writerConflict)
            #expect(try resumed.write(handle, at: 0, pattern(512)) == .ok)
        }
    }

    @Test func aReaderKeepsItsChannel() async throws {
        try await withServer { server async throws in
            let key = PrivateKey.generateP256()
            let old = try server.client(key, features: .resume)
            _ = try old.open(try token(server, key), rights: .read)
            old.disconnect()
            #expect(try resumes(server, key, old) == .ok)
        }
    }
}
