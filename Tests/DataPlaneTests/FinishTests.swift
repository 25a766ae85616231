import Core
import DriverKit
import Reactor
import Services
import Synchronization
import TLS
import TestSupport
import Testing
import Wire

@testable import DataPlane

/// The end of a server that is told to stop.
@Suite(.timeLimit(.minutes(1)), .serialized, .blocking)
struct FinishTests {
    private func token(_ server: TestServer, _ key: PrivateKey) throws -> [UInt8] {
        try server.mint(server.claims(for: key)).bytes
    }

    @Test func whatIsInFlightIsAnsweredBeforeTheServerEnds() async throws {
        try await withServer { server async throws in
            let key = PrivateKey.generateP256()
            let client = try server.client(key, features: .resume)
            let handle = try client.open(try token(server, key))
            server.driver.hold([.write])
            try client.send(.write, handle: handle, count: 512, payload: pattern(512))
            await server.driver.waitUntilHeld(1)
            async let stopped: Void = server.server.stop()
            #expect(try client.readEvent() == .draining(seconds: 0, target: ""))
            // Taken no more: the server reads nothing that comes after the event.
            try client.send(.write, slot: 1, handle: handle, offset: 512, count: 512, payload: pattern(512))
            server.driver.letGo()
            let reply = try client.readReply()
            #expect(reply.status == .ok && reply.header.slot == 0)
            #expect(client.isClosedByServer())
            client.disconnect()
            await stopped
            #expect(server.driver.executed == [.write])
        }
    }

    @Test func whatTakesTooLongIsCut() async throws {
        var options = DataServerOptions()
        options.finishNanoseconds = 50_000_000
        try await withServer(options: options) { server async throws in
            let key = PrivateKey.generateP256()
            let client = try server.client(key, features: .resume)
            let handle = try client.open(try token(server, key))
            server.driver.hold([.write])
            try client.send(.write, handle: handle, count: 512, payload: pattern(512))
            await server.driver.waitUntilHeld(1)
            async let stopped: Void = server.server.stop()
            #expect(try client.readEvent() == .draining(seconds: 0, target: ""))
            #expect(client.isClosedByServer())
            client.disconnect()
            server.driver.letGo()
            await stopped
        }
    }

    @Test func whoTakesNothingIsNotWaitedForAndWhoReadsSlowlyIs() async throws {
        var options = DataServerOptions()
        options.finishNanoseconds = 40_000_000_000
        options.sendNanoseconds = 40_000_000_000
        try await withServer(options: options) { server async throws in
            let key = PrivateKey.generateP256()
            let clients = try (0..<3).map { _ in
                let client = try server.client(key, slots: 8, features: .resume)
                // More than a segment of loopback, which arrives at once then.
                client.takesLittle(bytes: 128 << 10)
                return client
            }
            let token = try server.mint(server.claims(for: key, rights: .read)).bytes
            // More than the kernel takes of it on both sides.
            for client in clients {
                let handle = try client.open(token, rights: .read)
                for slot in UInt16(0)..<8 {
                    try client.send(.read, slot: slot, handle: handle, count: 1 << 20)
                }
            }
            try await untilTrue { server.driver.executed.count >= 6 }
            let clock = SystemClock()
            let begun = clock.now()
            let reader = clients[2]
            let replies = Mutex(0)
            let reading = Thread {
                // Each for longer than those are waited for who take nothing.
                while (try? reader.readReplySlowly(seconds: 3)) != nil { replies.withLock { $0 += 1 } }
            }
            await server.server.stop()
            try reading.join()
            // At least as many as it may have under way at once.
            #expect(replies.withLock { $0 } >= Limits.channelBudgetBytes / (1 << 20))
            #expect(clock.now() - begun < 30_000_000_000)
        }
    }

    @Test func halfARequestKeepsNobodyWaiting() async throws {
        try await withServer { server async throws in
            let key = PrivateKey.generateP256()
            let client = try server.client(key, features: .resume)
            let handle = try client.open(try token(server, key))
            let header = client.nextHeader(.write, slot: 1, handle: handle, count: 4096, length: 4096)
            try client.sendRaw(header.bytes + pattern(100))
            try await server.waitForSessions { $0.first?.inFlight == 1 }
            async let stopped: Void = server.server.stop()
            #expect(try client.readEvent() == .draining(seconds: 0, target: ""))
            #expect(client.isClosedByServer())
            client.disconnect()
            await stopped
            #expect(server.driver.executed.isEmpty)
        }
    }
}
