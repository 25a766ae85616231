import Core
import DriverKit
import Reactor
import Services
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
