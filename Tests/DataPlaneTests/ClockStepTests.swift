import Core
import Reactor
import Services
import TLS
import TestSupport
import Testing
import Wire

@testable import DataPlane

/// The server's time of day is set while channels are in use.
@Suite(.timeLimit(.minutes(1)), .serialized, .blocking)
struct ClockStepTests {
    private let keys = (PrivateKey.generateP256(), PrivateKey.generateP256())

    private func token(_ server: TestServer, _ key: PrivateKey) throws -> [UInt8] {
        try server.mint(server.claims(for: key)).bytes
    }

    /// Returns when the shards have looked at lives again, a quarter of a second later.
    private func lookAgain(_ server: TestServer) async throws {
        let end = SystemClock.monotonic() + 1_200_000_000
        try await untilTrue { SystemClock.monotonic() > end }
    }

    @Test(
        "a handle lives as long as its capability said when it was opened",
        arguments: [7200, -7200, 1 << 40] as [Int64])
    func handlesGoOn(step: Int64) async throws {
        try await withServer { server async throws in
            let client = try server.client(keys.0)
            let handle = try client.open(try token(server, keys.0))
            server.clock.step(step)
            try await lookAgain(server)
            #expect(try client.write(handle, at: 0, pattern(512)) == .ok)
            server.clock.advance(3601)
            try await untilTrue { try client.read(handle, at: 0, 512).status == .expired }
        }
    }

    @Test("the claim of a lost writer ends no earlier either, and is not kept for longer")
    func claimsGoOn() async throws {
        try await withServer { server async throws in
            let old = try server.client(keys.0, features: .resume)
            _ = try old.open(try token(server, keys.0))
            old.disconnect()
            try await server.waitForSessions { $0.first?.lost != nil }
            server.clock.step(86_400)
            let rival = try server.client(keys.1)
            #expect(try rival.openReply(try token(server, keys.1)).status == .writerConflict)
            server.clock.step(-2 * 86_400)
            server.clock.advance(3600)
            #expect(try rival.openReply(try token(server, keys.1)).status == .ok)
        }
    }

    @Test("a reader's session without a connection lingers as long as it was told")
    func lingers() async throws {
        try await withServer(configure: { $0.lingerSeconds = 100 }) { server async throws in
            let old = try server.client(keys.0, features: .resume)
            _ = try old.open(try token(server, keys.0), rights: .read)
            old.disconnect()
            try await server.waitForSessions { $0.first?.lost != nil }
            server.clock.step(86_400)
            try await lookAgain(server)
            #expect(try server.resumed(old, keys.0).request(.ping, slot: 3).status == .ok)
        }
    }

    @Test("the holder is told of an end that was jumped over")
    func announcesLateEnds() async throws {
        try await withServer { server async throws in
            let client = try server.client(keys.0)
            let claims = server.claims(for: keys.0)
            let handle = try client.open(try server.mint(claims).bytes)
            server.clock.advance(4000)
            #expect(try client.readEvent() == .expiring(handle: handle, expiry: claims.expiry))
        }
    }

    @Test("of a short life only the last quarter is announced")
    func announcesShortLives() async throws {
        try await withServer { server async throws in
            let client = try server.client(keys.0)
            var claims = server.claims(for: keys.0)
            claims.expiry = server.clock.now() + 20
            let handle = try client.open(try server.mint(claims).bytes)
            server.clock.advance(14)
            try await lookAgain(server)
            #expect(try client.request(.ping, slot: 1).status == .ok)
            #expect(client.events.isEmpty)
            server.clock.advance(1)
            #expect(try client.readEvent() == .expiring(handle: handle, expiry: claims.expiry))
        }
    }
}
