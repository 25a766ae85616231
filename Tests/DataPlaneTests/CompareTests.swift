import Core
import DriverKit
import Reactor
import Services
import TLS
import TestSupport
import Testing
import Wire

@testable import DataPlane

/// COMPARE_AND_WRITE over the wire, with a driver whose requests are held back.
@Suite(.timeLimit(.minutes(1)), .serialized, .blocking)
struct CompareTests {
    /// A server with two reactors and a shared volume, and two clients on different reactors.
    private func withClients(
        _ body: (TestServer, (client: TestClient, handle: UInt32), (client: TestClient, handle: UInt32))
            async throws -> Void
    ) async throws {
        var options = DataServerOptions()
        options.reactors = 2
        try await withServer(options: options, accessMode: .shared) { server async throws in
            let key = PrivateKey.generateP256()
            let token = try server.mint(server.claims(for: key)).bytes
            let first = try server.client(key)
            let second = try server.client(key)
            try await body(server, (first, try first.open(token)), (second, try second.open(token)))
        }
    }

    private func zeroes(_ count: Int) -> [UInt8] { [UInt8](repeating: 0, count: count) }

    @Test func whatIsAsExpectedIsReplacedAndAnythingElseIsLeftAndSaid() async throws {
        try await withClients { server, first, second async throws in
            let new = pattern(1024)
            let client = first.client
            let done = try client.request(
                .compareAndWrite, handle: first.handle, offset: 4096, count: 1024,
                payload: zeroes(1024) + new)
            #expect(done.status == .ok && done.header.value == 1024 && done.payload.isEmpty)
            #expect(try second.client.read(second.handle, at: 4096, 1024).payload == new)
            for place in [0, 1, 7, 8, 511, 512, 1023] {
                var wrong = new
                wrong[place] ^= 0x10
                let refused = try client.request(
                    .compareAndWrite, handle: first.handle, offset: 4096, count: 1024,
                    payload: wrong + zeroes(1024))
                #expect(refused.status == .miscompare && refused.header.value == UInt64(place))
            }
            #expect(try client.read(first.handle, at: 4096, 1024).payload == new)
            #expect(server.driver.executed.filter { $0 == .write }.count == 1)
        }
    }

    @Test(arguments: [512, 4096, 4608, 65024, 65536] as [Int])
    func everySizeIsComparedAndWrittenWhole(count: Int) async throws {
        try await withClients { _, first, _ async throws in
            let new = pattern(count)
            for (expected, written) in [(zeroes(count), new), (new, zeroes(count))] {
                let reply = try first.client.request(
                    .compareAndWrite, handle: first.handle, offset: 512, count: UInt32(count), flags: .fua,
                    payload: expected + written)
                #expect(reply.status == .ok)
                #expect(
                    try first.client.read(first.handle, at: 512, UInt32(count)).payload == written)
            }
            #expect(try first.client.read(first.handle, at: 0, 512).payload == zeroes(512))
            #expect(
                try first.client.read(first.handle, at: UInt64(512 + count), 512).payload == zeroes(512))
        }
    }

    @Test func itNeedsBothRightsItsPlaceAndItsShape() async throws {
        try await withServer { server async throws in
            let key = PrivateKey.generateP256()
            let payload = zeroes(1024)
            for rights in [Rights.read, .write] {
                let client = try server.client(key)
                let handle = try client.open(try server.mint(server.claims(for: key)).bytes, rights: rights)
                let reply = try client.request(
                    .compareAndWrite, handle: handle, count: 512, payload: payload)
                #expect(reply.status == .denied)
                client.disconnect()
                try await server.waitForSessions { $0.isEmpty }
            }
            let client = try server.client(key)
            let handle = try client.open(try server.mint(server.claims(for: key)).bytes)
            func status(_ offset: UInt64, _ count: UInt32, _ bytes: Int) throws -> Status? {
                try client.request(
                    .compareAndWrite, handle: handle, offset: offset, count: count, payload: zeroes(bytes)
                ).status
            }
            #expect(try status(TestServer.volumeBytes, 512, 1024) == .outOfRange)
            #expect(try status(256, 512, 1024) == .unaligned)
            #expect(try status(0, 512, 512) == .badLength)
            #expect(try status(0, 66048, 132_096) == .tooLarge)
            #expect(try status(0, 512, 1024) == .ok)
            #expect(server.driver.executed == [.read, .write])
        }
    }

    @Test func nothingElseTouchesTheBytesBetweenComparisonAndWriteOnAnyReactor() async throws {
        try await withClients { server, first, second async throws in
            server.driver.hold([.read])
            try first.client.send(
                .compareAndWrite, handle: first.handle, offset: 4096, count: 8192,
                payload: zeroes(8192) + pattern(8192))
            await server.driver.waitUntilHeld(1)
            // Both reactors hold these back; what lies beside goes on.
            try first.client.send(
                .write, slot: 1, handle: first.handle, offset: 8192, count: 4096, payload: zeroes(4096))
            try second.client.send(
                .writeZeroes, slot: 1, handle: second.handle, offset: 0, count: 4608)
            try second.client.send(.discard, slot: 2, handle: second.handle, offset: 11776, count: 512)
            #expect(try first.client.write(first.handle, at: 12288, pattern(512), slot: 2) == .ok)
            #expect(try second.client.write(second.handle, at: 3584, pattern(512), slot: 3) == .ok)
            #expect(server.driver.executed == [.write, .write])
            server.driver.letGo()
            var statuses: [Status?] = []
            for _ in 0..<2 { statuses.append(try first.client.readReply().status) }
            for _ in 0..<2 { statuses.append(try second.client.readReply().status) }
            #expect(statuses == [.ok, .ok, .ok, .ok])
            let executed = server.driver.executed
            #expect(executed.prefix(4) == [.write, .write, .read, .write], "\(executed)")
            #expect(executed.contains(.writeZeroes) && executed.contains(.discard) && executed.count == 7)
        }
    }

    @Test func itWaitsForWhatIsRunningOnEveryReactor() async throws {
        try await withClients { server, first, second async throws in
            server.driver.hold([.write])
            try second.client.send(
                .write, handle: second.handle, offset: 4096, count: 512, payload: pattern(512))
            try first.client.send(
                .write, handle: first.handle, offset: 4608, count: 512, payload: pattern(512))
            await server.driver.waitUntilHeld(2)
            try first.client.send(
                .compareAndWrite, slot: 1, handle: first.handle, offset: 4096, count: 1024,
                payload: pattern(512) + pattern(512) + zeroes(1024))
            #expect(try first.client.request(.flush, slot: 2, handle: first.handle).status == .ok)
            // What goes through every reactor shows that both have heard of it, and have answered.
            for _ in 0..<2 { _ = try await server.services.perform(.statistics) }
            #expect(server.driver.executed == [.flush])
            server.driver.letGo()
            #expect(try second.client.readReply().status == .ok)
            let replies = [try first.client.readReply(), try first.client.readReply()]
            #expect(replies.map(\.status) == [.ok, .ok])
            #expect(replies.map(\.header.slot) == [0, 1])
            #expect(try first.client.read(first.handle, at: 4096, 1024).payload == zeroes(1024))
        }
    }

    @Test func whatOverlapsIsDoneOneAfterTheOther() async throws {
        try await withClients { _, first, second async throws in
            let rounds = 200
            var expected = (UInt64(0), UInt64(0))
            var successes: UInt64 = 0
            func block(_ value: UInt64) -> [UInt8] {
                (0..<8).map { UInt8(truncatingIfNeeded: value >> (8 * $0)) } + zeroes(504)
            }
            // Both ask at once, from two reactors, and only one can be right.
            for _ in 0..<rounds {
                for (side, value) in [(first, expected.0), (second, expected.1)] {
                    try side.client.send(
                        .compareAndWrite, handle: side.handle, count: 512,
                        payload: block(value) + block(value + 1))
                }
                let replies = (try first.client.readReply().status, try second.client.readReply().status)
                #expect(replies.0 == .ok || replies.0 == .miscompare)
                #expect(replies.1 == .ok || replies.1 == .miscompare)
                #expect(replies.0 == .ok || replies.1 == .ok)
                successes += (replies.0 == .ok ? 1 : 0) + (replies.1 == .ok ? 1 : 0)
                expected = (successes, successes)
            }
            #expect(try first.client.read(first.handle, at: 0, 512).payload == block(successes))
            #expect(successes == UInt64(rounds))
        }
    }

    @Test func thoseThatWaitForTheSameWriteAreDoneOneAfterTheOther() async throws {
        try await withClients { server, first, second async throws in
            server.driver.hold([.write])
            try second.client.send(.write, handle: second.handle, count: 512, payload: zeroes(512))
            await server.driver.waitUntilHeld(1)
            for slot in UInt16(0)..<3 {
                try first.client.send(
                    .compareAndWrite, slot: slot, handle: first.handle, count: 512,
                    payload: zeroes(512) + pattern(512, seed: UInt8(slot) + 2))
            }
            #expect(try first.client.request(.flush, slot: 3, handle: first.handle).status == .ok)
            for _ in 0..<2 { _ = try await server.services.perform(.statistics) }
            server.driver.letGo()
            #expect(try second.client.readReply().status == .ok)
            let replies = try (0..<3).map { _ in try first.client.readReply() }
            #expect(replies.map(\.status) == [.ok, .miscompare, .miscompare])
            let winner = pattern(512, seed: UInt8(replies[0].header.slot) + 2)
            #expect(try second.client.read(second.handle, at: 0, 512).payload == winner)
        }
    }

    @Test func aFenceEndsWhatWaitsForItsTurnAndLetsOthersGoOn() async throws {
        try await withClients { server, first, second async throws in
            server.driver.hold([.write])
            // The write of one client keeps the comparison of the other waiting, and that keeps a read waiting.
            try second.client.send(.write, handle: second.handle, count: 512, payload: pattern(512))
            await server.driver.waitUntilHeld(1)
            try first.client.send(
                .compareAndWrite, handle: first.handle, count: 512, payload: zeroes(1024))
            #expect(try first.client.request(.flush, slot: 1, handle: first.handle).status == .ok)
            try first.client.send(.read, slot: 2, handle: first.handle, count: 512)
            #expect(try first.client.request(.flush, slot: 1, handle: first.handle).status == .ok)
            let session = try #require(first.client.session?.session)
            let ended = Task {
                _ = try await server.services.perform(.endSession(session, reason: "test"))
            }
            try await ended.value
            #expect(first.client.isClosedByServer())
            server.driver.letGo()
            #expect(try second.client.readReply().status == .ok)
            #expect(try second.client.read(second.handle, at: 0, 512).payload == pattern(512))
            #expect(try second.client.write(second.handle, at: 0, zeroes(512)) == .ok)
        }
    }

    @Test func aFenceStopsItBeforeItWrites() async throws {
        try await withClients { server, first, _ async throws in
            server.driver.hold([.read])
            try first.client.send(
                .compareAndWrite, handle: first.handle, count: 512, payload: zeroes(512) + pattern(512))
            await server.driver.waitUntilHeld(1)
            let descriptor = server.descriptor(.shared, epoch: TestServer.volumeEpoch + 1)
            let fencing = Task {
                _ = try await server.services.perform(.fenceVolume(descriptor, reason: "test"))
                return server.driver.executed
            }
            #expect(
                try first.client.readEvent()
                    == .revoked(handle: first.handle, status: .fenced, reason: "test"))
            server.driver.letGo()
            #expect(try first.client.readReply().status == .fenced)
            #expect(try await fencing.value == [.read])
        }
    }

    /// By one reactor, where the next has its turn before the one that gives it is done: one that covers all and seven that
    /// wait for it, on a handle that ends while a READ keeps them waiting; and more than may run at once.
    @Test(arguments: [false, true], [false, true])
    func thoseThatWaitOnOneHandleEndTogether(isRevoked: Bool, overlap: Bool) async throws {
        try await withServer(accessMode: .shared) { server async throws in
            let key = PrivateKey.generateP256()
            let claims = server.claims(for: key)
            let client = try server.client(key, slots: 64)
            let handle = try client.open(try server.mint(claims).bytes)
            server.driver.hold([.read])
            try client.send(.read, slot: 0, handle: handle, count: 32 << 10)
            await server.driver.waitUntilHeld(1)
            for slot in UInt16(1)..<40 {
                let offset = overlap && slot == 1 ? 0 : UInt64(slot) * 512
                let count: UInt32 = overlap && slot == 1 ? 32 << 10 : 512
                try client.send(
                    .compareAndWrite, slot: slot, handle: handle, offset: offset, count: count,
                    payload: zeroes(2 * Int(count)))
            }
            #expect(try client.request(.ping, slot: 50).status == .ok)
            if isRevoked {
                async let revoked: Void = server.services.perform(
                    .revokeCapability(claims.capability, expiry: claims.expiry, reason: "test"))
                for _ in 1..<40 { #expect(try client.readReply().status == .revoked) }
                server.driver.letGo()
                try await revoked
            } else {
                client.disconnect()
                try await server.waitForSessions { $0.allSatisfy { $0.channels == 0 } }
                server.driver.letGo()
            }
            try await server.waitForSessions { $0.allSatisfy { $0.inFlight == 0 } }
            let other = try server.client(PrivateKey.generateP256())
            #expect(try other.request(.ping).status == .ok)
            #expect(server.driver.executed == [.read])
        }
    }
}
