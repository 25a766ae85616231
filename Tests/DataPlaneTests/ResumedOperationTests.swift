import Core
import DriverKit
import Reactor
import Services
import TLS
import TestSupport
import Testing
import Wire

@testable import DataPlane

/// COMPARE_AND_WRITE and COPY_RANGE whose connection is lost on the way.
@Suite(.timeLimit(.minutes(1)), .serialized, .blocking)
struct ResumedOperationTests {
    private func zeroes(_ count: Int) -> [UInt8] { [UInt8](repeating: 0, count: count) }

    /// A server with a shared volume, and two clients that have it open, on two reactors.
    private func withClients(
        _ body: (
            TestServer, PrivateKey, (client: TestClient, handle: UInt32), (client: TestClient, handle: UInt32)
        ) async throws -> Void
    ) async throws {
        var options = DataServerOptions()
        options.reactors = 2
        try await withServer(options: options, accessMode: .shared) { server async throws in
            let key = PrivateKey.generateP256()
            let token = try server.mint(server.claims(for: key)).bytes
            let first = try server.client(key, features: .resume)
            let second = try server.client(key, features: .resume)
            try await body(server, key, (first, try first.open(token)), (second, try second.open(token)))
        }
    }

    private func token(_ server: TestServer, _ key: PrivateKey) throws -> [UInt8] {
        try server.mint(server.claims(for: key)).bytes
    }

    @Test(arguments: [true, false])
    func aComparisonUnderWayIsFinishedAndAnsweredOnce(isEqual: Bool) async throws {
        try await withClients { server, key, first, second async throws in
            var expected = zeroes(512)
            if !isEqual { expected[77] = 1 }
            server.driver.hold([.read])
            try first.client.send(
                .compareAndWrite, slot: 3, handle: first.handle, count: 512, payload: expected + pattern(512))
            await server.driver.waitUntilHeld(1)
            first.client.disconnect()
            server.driver.letGo()
            let new = try server.connect(key)
            #expect(try new.resume(first.client).resumption == .slots)
            // By now somebody else has changed the bytes.
            #expect(try second.client.write(second.handle, at: 0, pattern(512, seed: 7)) == .ok)
            let before = server.driver.executed
            try new.send(
                sequence: 1, .compareAndWrite, slot: 3, handle: 0x999, payload: expected + pattern(512),
                count: 512)
            let reply = try new.readReply()
            #expect(reply.status == (isEqual ? .ok : .miscompare))
            #expect(reply.header.value == (isEqual ? 512 : 77))
            #expect(server.driver.executed == before)
            #expect(
                try second.client.read(second.handle, at: 0, 512).payload == pattern(512, seed: 7))
        }
    }

    @Test func aComparisonThatWaitsIsDroppedAndMayComeAgain() async throws {
        try await withClients { server, key, first, second async throws in
            server.driver.hold([.write])
            try second.client.send(.write, handle: second.handle, count: 512, payload: pattern(512))
            await server.driver.waitUntilHeld(1)
            try first.client.send(
                .compareAndWrite, slot: 3, handle: first.handle, count: 512,
                payload: pattern(512) + zeroes(512))
            #expect(try first.client.request(.flush, slot: 1, handle: first.handle).status == .ok)
            first.client.disconnect()
            // It waits for nobody: what never began is gone with its connection.
            let new = try server.connect(key)
            #expect(try new.resume(first.client).resumption == .slots)
            server.driver.letGo()
            #expect(try second.client.readReply().status == .ok)
            #expect(try second.client.read(second.handle, at: 0, 512).payload == pattern(512))
            let handle = try new.open(try token(server, key))
            try new.send(
                sequence: 1, .compareAndWrite, slot: 3, handle: handle, payload: pattern(512) + zeroes(512),
                count: 512)
            #expect(try new.readReply().status == .ok)
            #expect(try second.client.read(second.handle, at: 0, 512).payload == zeroes(512))
        }
    }

    @Test func aComparisonGoesOnWhenWhatItWaitsForIsDropped() async throws {
        try await withClients { server, key, first, second async throws in
            server.driver.stall(true)
            try second.client.send(.write, handle: second.handle, count: 512, payload: pattern(512))
            try await server.waitForSessions { $0.contains { $0.inFlight == 1 } }
            try first.client.send(
                .compareAndWrite, slot: 3, handle: first.handle, count: 512,
                payload: zeroes(512) + pattern(512, seed: 2))
            try await server.waitForSessions { $0.allSatisfy { $0.inFlight == 1 } }
            second.client.disconnect()
            let new = try server.connect(key)
            #expect(try new.resume(second.client).resumption == .slots)
            server.driver.stall(false)
            #expect(try first.client.request(.flush, slot: 1, handle: first.handle).status == .ok)
            #expect(try first.client.readReply().status == .ok)
            #expect(
                try first.client.read(first.handle, at: 0, 512).payload == pattern(512, seed: 2))
            #expect(server.driver.executed.filter { $0 == .write }.count == 1)
        }
    }

    @Test func aComparisonThatNoDriverHasBegunHoldsNobodyUpForGood() async throws {
        try await withClients { server, key, first, second async throws in
            server.driver.stall(true)
            try first.client.send(
                .compareAndWrite, slot: 3, handle: first.handle, count: 512,
                payload: zeroes(512) + pattern(512))
            try await server.waitForSessions { $0.contains { $0.inFlight == 1 } }
            // Every reactor has said that nothing else runs: its read waits for the driver.
            for _ in 0..<2 { _ = try await server.services.perform(.statistics) }
            first.client.disconnect()
            let new = try server.connect(key)
            try new.sendHello(
                new.resumption(of: try #require(first.client.session), secret: first.client.secret))
            #expect(!new.hasInput(withinMilliseconds: 100), "it is still to be done")
            try second.client.send(.read, handle: second.handle, count: 512)
            server.driver.stall(false)
            #expect(try second.client.readReply().payload == pattern(512))
            #expect(try new.takeOver(first.client, try new.readReply()).resumption == .slots)
            let handle = try new.open(try token(server, key))
            try new.send(
                sequence: 1, .compareAndWrite, slot: 3, handle: handle, payload: zeroes(512) + pattern(512),
                count: 512)
            #expect(try new.readReply().status == .ok)
            #expect(try second.client.read(second.handle, at: 0, 512).payload == pattern(512))
            #expect(server.driver.executed.filter { $0 == .write }.count == 1)
        }
    }

    @Test func aCopyUnderWayIsFinishedAndAnsweredOnce() async throws {
        try await withClients { server, key, first, second async throws in
            let data = pattern(600 << 10)
            #expect(try second.client.write(second.handle, at: 0, data) == .ok)
            server.driver.hold([.read])
            let source = CopySource(handle: first.handle, offset: 0).bytes
            try first.client.send(
                .copyRange, slot: 3, handle: first.handle, offset: 1 << 20, count: 600 << 10, payload: source)
            await server.driver.waitUntilHeld(1)
            first.client.disconnect()
            let new = try server.connect(key)
            try new.sendHello(
                new.resumption(of: try #require(first.client.session), secret: first.client.secret))
            #expect(!new.hasInput(withinMilliseconds: 100))
            server.driver.letGo()
            _ = try new.takeOver(first.client, try new.readReply())
            let before = server.driver.executed
            try new.send(
                sequence: 1, .copyRange, slot: 3, handle: 0x999, payload: source, count: 600 << 10)
            let reply = try new.readReply()
            #expect(reply.status == .ok && reply.header.value == 600 << 10)
            #expect(server.driver.executed == before)
            #expect(
                try second.client.read(second.handle, at: 1 << 20, 600 << 10).payload == data)
        }
    }
}
