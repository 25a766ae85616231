import Core
import DriverKit
import Services
import TLS
import TestSupport
import Testing
import Wire

@testable import DataPlane

/// Connections that end while a CLOSE waits for earlier requests on its handle.
@Suite(.timeLimit(.minutes(1)), .serialized, .blocking)
struct LostCloseTests {
    private func token(_ server: TestServer, _ key: PrivateKey) throws -> [UInt8] {
        try server.mint(server.claims(for: key)).bytes
    }

    @Test func theSessionOfAPendingCloseEndsWithItsConnection() async throws {
        try await withServer { server async throws in
            let key = PrivateKey.generateP256()
            let client = try server.client(key)
            let handle = try client.open(try token(server, key))
            server.driver.hold([.read])
            try client.send(.read, slot: 0, handle: handle, count: 8192)
            try client.send(.close, slot: 1, handle: handle)
            await server.driver.waitUntilHeld(1)
            client.disconnect()
            server.driver.letGo()
            try await server.waitForSessions { $0.isEmpty }
        }
    }

    @Test func aChannelWithAPendingCloseIsResumed() async throws {
        try await withServer { server async throws in
            let key = PrivateKey.generateP256()
            let old = try server.client(key, features: .resume)
            let handle = try old.open(try token(server, key))
            server.driver.hold([.read])
            try old.send(.read, slot: 0, handle: handle, count: 8192)
            try old.send(.close, slot: 1, handle: handle)
            await server.driver.waitUntilHeld(1)
            old.disconnect()
            let new = try server.connect(key)
            try new.sendHello(new.resumption(of: try #require(old.session), secret: old.secret))
            server.driver.letGo()
            #expect(try new.takeOver(old, try new.readReply()).resumption == .slots)
            // A CLOSE is not repeated: its slot takes what comes next.
            #expect(try new.request(.ping, slot: 1).status == .ok)
            #expect(try new.read(try new.open(try token(server, key)), at: 0, 512).status == .ok)
        }
    }

    @Test(arguments: [Features(), .resume])
    func nothingOfAPendingCloseHoldsUpAnAdministratorOrTheEnd(features: Features) async throws {
        try await withServer { server async throws in
            let key = PrivateKey.generateP256()
            for _ in 0..<20 {
                let client = try server.client(key, features: features)
                let handle = try client.open(try token(server, key), rights: .read)
                // In one write: the CLOSE arrives while the driver has the READ.
                try client.sendTogether(
                    [
                        (.read, 0, handle, 8192),
                        (.close, 1, handle, 0),
                    ])
                client.disconnect()
            }
            let sessions = try await server.services.perform(.listSessions)
            for session in sessions {
                // One that has ended by itself meanwhile is not found.
                _ = try? await server.services.perform(.endSession(session.id, reason: "test"))
            }
            try await server.waitForSessions { $0.isEmpty }
        }
    }
}
