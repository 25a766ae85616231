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

/// Clients that do not read, or do not go on writing: what they hold is their node's, and others have room.
@Suite(.timeLimit(.minutes(2)), .serialized, .blocking)
struct StarvationTests {
    /// A node beside the one that all others here are of.
    private func neighbour(_ server: TestServer) async throws -> (client: TestClient, handle: UInt32) {
        let node = Identifier.random(using: SystemRandom())
        _ = try await server.services.perform(.setNode(id: node, name: "neighbour", epoch: 1))
        let key = PrivateKey.generateP256()
        let client = try server.client(key)
        return (
            client, try client.open(try server.mint(server.claims(for: key, rights: .read, of: node)).bytes)
        )
    }

    /// Sessions with a capability to read that ask for 1 MiB each, and read nothing.
    private func deaf(
        _ server: TestServer, count: Int, claims: (PrivateKey) -> Claims
    ) throws -> [TestClient] {
        try (0..<count).map { _ in
            let key = PrivateKey.generateP256()
            let client = try server.client(key, slots: 8)
            client.takesLittle()
            let handle = try client.open(try server.mint(claims(key)).bytes)
            for slot in UInt16(0)..<4 { try client.send(.read, slot: slot, handle: handle, count: 1 << 20) }
            return client
        }
    }

    private func serves(_ neighbour: (client: TestClient, handle: UInt32), times: Int = 50) throws {
        for _ in 0..<times {
            #expect(try neighbour.client.read(neighbour.handle, at: 0, 4096).status == .ok)
        }
        #expect(try neighbour.client.read(neighbour.handle, at: 0, 1 << 20).status == .ok)
    }

    private func seconds(_ body: () async throws -> Void) async throws -> Double {
        let begun = SystemClock().now()
        try await body()
        return Double(SystemClock().now() - begun) / 1e9
    }

    @Test func sessionsThatDoNotReadLeaveRoomForOtherNodes() async throws {
        try await withServer(configure: { $0.arenaBytes = 16 << 20 }) { server async throws in
            let neighbour = try await neighbour(server)
            let clients = try deaf(server, count: 40) { server.claims(for: $0, rights: .read) }
            // As many as find room have it, and keep it.
            try await untilTrue { server.driver.executed.count >= 8 }
            #expect(try await seconds { try serves(neighbour) } < 20)
            #expect(clients.count == 40)
        }
    }

    @Test func writesThatDoNotGoOnLeaveRoomForOtherNodes() async throws {
        try await withServer(accessMode: .shared, configure: { $0.arenaBytes = 16 << 20 }) {
            server async throws in
            let neighbour = try await neighbour(server)
            let clients = try (0..<40).map { _ in
                let key = PrivateKey.generateP256()
                let client = try server.client(key)
                let handle = try client.open(try server.mint(server.claims(for: key)).bytes)
                let header = client.nextHeader(.write, handle: handle, count: 1 << 20, length: 1 << 20)
                try client.sendRaw(header.bytes + [UInt8](repeating: 7, count: 4096))
                return client
            }
            #expect(try await seconds { try serves(neighbour) } < 20)
            #expect(clients.count == 40)
        }
    }

    @Test(arguments: [true, false]) func takingTheirAuthorityFreesWhatTheyHold(writes: Bool) async throws {
        try await withServer(accessMode: .shared, configure: { $0.arenaBytes = 16 << 20 }) {
            server async throws in
            // All of one node, so that they and whoever comes share.
            let owner = PrivateKey.generateP256()
            let claims = server.claims(for: owner)
            let first = try server.client(owner)
            first.takesLittle()
            var clients = [first]
            for _ in 0..<20 { clients.append(try server.client(owner, joining: first)) }
            for client in clients {
                client.takesLittle()
                let handle = try client.open(try server.mint(claims).bytes)
                if writes {
                    let header = client.nextHeader(.write, handle: handle, count: 1 << 20, length: 1 << 20)
                    try client.sendRaw(header.bytes + [UInt8](repeating: 7, count: 4096))
                } else {
                    for slot in UInt16(0)..<2 {
                        try client.send(.read, slot: slot, handle: handle, count: 1 << 20)
                    }
                }
            }
            if !writes { try await untilTrue { server.driver.executed.count >= 8 } }
            _ = try await server.services.perform(
                .revokeCapability(claims.capability, expiry: claims.expiry, reason: "test"))
            let key = PrivateKey.generateP256()
            let late = try server.client(key)
            let handle = try late.open(try server.mint(server.claims(for: key)).bytes)
            // More than was left beside what they had: in a second, and not after their timers of half a minute.
            let took = try await seconds {
                for slot in UInt16(0)..<4 { try late.send(.read, slot: slot, handle: handle, count: 1 << 20) }
                for _ in 0..<4 { #expect(try late.readReply().status == .ok) }
            }
            #expect(took < 20)
        }
    }

    @Test(arguments: [true, false]) func whoIsInTheWayOfItsOwnNodeGives(writes: Bool) async throws {
        try await withServer(accessMode: .shared, configure: { $0.arenaBytes = 16 << 20 }) {
            server async throws in
            let clients = try (0..<20).map { _ in
                let key = PrivateKey.generateP256()
                let client = try server.client(key, slots: 8)
                client.takesLittle()
                let handle = try client.open(try server.mint(server.claims(for: key)).bytes)
                if writes {
                    let header = client.nextHeader(.write, handle: handle, count: 1 << 20, length: 1 << 20)
                    try client.sendRaw(header.bytes + [UInt8](repeating: 7, count: 4096))
                } else {
                    for slot in UInt16(0)..<4 {
                        try client.send(.read, slot: slot, handle: handle, count: 1 << 20)
                    }
                }
                return client
            }
            let key = PrivateKey.generateP256()
            let late = try server.client(key)
            let handle = try late.open(try server.mint(server.claims(for: key)).bytes)
            // The timers of the others are half a minute.
            let took = try await seconds {
                let reply = try late.read(handle, at: 0, 1 << 20)
                #expect(reply.status == .ok)
            }
            #expect(took < 20)
            #expect(clients.count == 20)
        }
    }

    // MARK: Limits of a grant

    @Test func theLimitOfAGrantHoldsForAllItsCapabilities() async throws {
        let grant = Identifier.random(using: SystemRandom())
        var options = DataServerOptions()
        options.reactors = 2
        try await withServer(
            options: options, accessMode: .shared,
            configure: { $0.grantCeiling = { _ in (grant, IOLimits(iops: 100)) } }
        ) { server async throws in
            let channels = try (0..<8).map { _ in
                let key = PrivateKey.generateP256()
                var claims = server.claims(for: key, rights: .read)
                claims.limits = IOLimits(iops: 100)
                let client = try server.client(key)
                return (client, try client.open(try server.mint(claims).bytes))
            }
            let took = try await seconds {
                for (client, handle) in channels {
                    for slot in UInt16(0)..<10 {
                        try client.send(.read, slot: slot, handle: handle, count: 512)
                    }
                }
                for (client, _) in channels {
                    for _ in 0..<10 { #expect(try client.readReply().status == .ok) }
                }
            }
            // 80 at 100 a second, of which about ten are the burst; each for itself would take no time at all.
            #expect(took > 0.5)
            _ = try await server.services.perform(.limitGrant(grant, RateLimits(iops: 100_000)))
            let raised = try await seconds {
                for (client, handle) in channels {
                    for slot in UInt16(0)..<10 {
                        try client.send(.read, slot: slot, handle: handle, count: 512)
                    }
                }
                for (client, _) in channels {
                    for _ in 0..<10 { #expect(try client.readReply().status == .ok) }
                }
            }
            #expect(raised < 20)
        }
    }
}
