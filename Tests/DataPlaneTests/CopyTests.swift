import Core
import DriverKit
import Reactor
import Services
import TLS
import TestSupport
import Testing
import Wire

@testable import DataPlane

/// COPY_RANGE and BLOCK_STATUS over the wire.
@Suite(.timeLimit(.minutes(1)), .serialized, .blocking)
struct CopyTests {
    private static let second = Identifier(high: 0xC0, low: 2)

    /// A server with a second volume in the same pool, and a client that has both open.
    private func withVolumes(
        _ body: (TestServer, TestClient, _ first: UInt32, _ second: UInt32) async throws -> Void
    ) async throws {
        try await withServer { server async throws in
            _ = try await server.services.perform(
                .createVolume(
                    VolumeDescriptor(
                        id: Self.second, name: "second", pool: "default", size: TestServer.volumeBytes,
                        accessMode: .singleWriter, epoch: TestServer.volumeEpoch)))
            let key = PrivateKey.generateP256()
            let client = try server.client(key)
            let first = try client.open(try server.mint(server.claims(for: key)).bytes)
            var claims = server.claims(for: key)
            claims.resource = Self.second
            let second = try client.open(try server.mint(claims).bytes)
            try await body(server, client, first, second)
        }
    }

    private func copy(
        _ client: TestClient, to handle: UInt32, at offset: UInt64, _ count: UInt32, from source: UInt32,
        at sourceOffset: UInt64, slot: UInt16 = 0
    ) throws -> TestClient.Reply {
        try client.request(
            .copyRange, slot: slot, handle: handle, offset: offset, count: count,
            payload: CopySource(handle: source, offset: sourceOffset).bytes)
    }

    private func zeroes(_ count: Int) -> [UInt8] { [UInt8](repeating: 0, count: count) }

    @Test(arguments: [true, false])
    func bytesArriveWhereTheyAreWanted(isMapped: Bool) async throws {
        try await withVolumes { server, client, first, second async throws in
            server.driver.map(isMapped)
            // More than two pieces, with a hole in the middle and an edge on both sides.
            let data = pattern(600 << 10)
            #expect(try client.write(first, at: 512, data) == .ok)
            let hole = UInt64(512 + (100 << 10))
            #expect(
                try client.request(.writeZeroes, handle: first, offset: hole, count: 200 << 10).status == .ok)
            var expected = data
            expected.replaceSubrange((100 << 10)..<(300 << 10), with: zeroes(200 << 10))
            // What is there must go, also where a hole comes.
            for at in stride(from: 0, to: UInt64(1 << 20), by: 256 << 10) {
                #expect(try client.write(second, at: 4096 + at, pattern(256 << 10, seed: 9)) == .ok)
            }
            let reply = try copy(client, to: second, at: 8192, UInt32(data.count), from: first, at: 512)
            #expect(reply.status == .ok && reply.header.value == UInt64(data.count))
            var read: [UInt8] = []
            for at in stride(from: 0, to: data.count, by: 200 << 10) {
                read += try client.read(second, at: 8192 + UInt64(at), 200 << 10).payload
            }
            #expect(read == expected)
            #expect(
                try client.read(second, at: 4096, 4096).payload == Array(pattern(256 << 10, seed: 9)[..<4096])
            )
            let after = try client.read(second, at: 8192 + UInt64(data.count), 512).payload
            #expect(after != zeroes(512) && after != Array(data.suffix(512)))
            // What is known to be a hole was not read.
            #expect(server.driver.executed.contains(.writeZeroes))
            #expect(server.driver.executed.filter { $0 == .writeZeroes }.count == (isMapped ? 2 : 1))
        }
    }

    @Test func aCopyWithinAVolumeMustNotOverlapItself() async throws {
        try await withVolumes { _, client, first, _ async throws in
            #expect(try client.write(first, at: 0, pattern(4096)) == .ok)
            #expect(try copy(client, to: first, at: 512, 4096, from: first, at: 0).status == .badRequest)
            #expect(try copy(client, to: first, at: 0, 4096, from: first, at: 3584).status == .badRequest)
            #expect(try copy(client, to: first, at: 0, 4096, from: first, at: 0).status == .badRequest)
            #expect(try copy(client, to: first, at: 4096, 4096, from: first, at: 0).status == .ok)
            #expect(try client.read(first, at: 4096, 4096).payload == pattern(4096))
        }
    }

    @Test func bothHandlesAreChecked() async throws {
        try await withVolumes { server, client, first, second async throws in
            let end = TestServer.volumeBytes
            func status(
                _ target: UInt32, _ offset: UInt64, _ source: UInt32, _ sourceOffset: UInt64,
                _ count: UInt32 = 4096
            ) throws -> Status? {
                try copy(client, to: target, at: offset, count, from: source, at: sourceOffset).status
            }
            #expect(try status(second, end, first, 0) == .outOfRange)
            #expect(try status(second, 0, first, end) == .outOfRange)
            #expect(try status(second, 0, first, .max) == .outOfRange)
            #expect(try status(second, 256, first, 0) == .unaligned)
            #expect(try status(second, 0, first, 256) == .unaligned)
            #expect(try status(second, 0, 77, 0) == .badHandle)
            #expect(try status(77, 0, first, 0) == .badHandle)
            #expect(try status(second, 0, first, 0, (64 << 20) + 512) == .tooLarge)
            let malformed = try client.request(
                .copyRange, handle: second, count: 512, payload: [0, 0, 0, 0, 1] + zeroes(11))
            #expect(malformed.status == .badFrame)
            let short = try client.request(.copyRange, handle: second, count: 512, payload: zeroes(15))
            #expect(short.status == .badLength)
            #expect(server.driver.executed.isEmpty)
        }
    }

    @Test func theSourceIsReadAndTheTargetWritten() async throws {
        try await withServer { server async throws in
            let key = PrivateKey.generateP256()
            let client = try server.client(key)
            let token = try server.mint(server.claims(for: key)).bytes
            let reads = try client.open(token, rights: .read)
            let writes = try client.open(token, rights: .write)
            #expect(try copy(client, to: reads, at: 0, 512, from: reads, at: 512).status == .denied)
            #expect(try copy(client, to: writes, at: 0, 512, from: writes, at: 512).status == .denied)
            #expect(server.driver.executed.isEmpty)
            #expect(try copy(client, to: writes, at: 0, 512, from: reads, at: 512).status == .ok)
        }
    }

    @Test func closingTheSourceWaitsForTheCopy() async throws {
        try await withVolumes { server, client, first, second async throws in
            server.driver.hold([.write])
            try client.send(
                .copyRange, handle: second, count: 4096, payload: CopySource(handle: first, offset: 0).bytes)
            await server.driver.waitUntilHeld(1)
            try client.send(.close, slot: 1, handle: first)
            #expect(try client.request(.ping, slot: 2).status == .ok)
            server.driver.letGo()
            let replies = [try client.readReply(), try client.readReply()]
            #expect(Set(replies.map(\.header.opcode)) == [Opcode.copyRange.rawValue, Opcode.close.rawValue])
            #expect(replies.allSatisfy { $0.status == .ok })
            #expect(try copy(client, to: second, at: 0, 512, from: first, at: 0).status == .badHandle)
        }
    }

    @Test(arguments: [true, false])
    func whoIsFencedCopiesNoFurtherPiece(isSource: Bool) async throws {
        try await withVolumes { server, client, first, second async throws in
            server.driver.hold([.read])
            try client.send(
                .copyRange, handle: second, count: 4 << 20,
                payload: CopySource(handle: first, offset: 0).bytes)
            await server.driver.waitUntilHeld(1)
            let volume = isSource ? server.volume : Self.second
            let descriptor = VolumeDescriptor(
                id: volume, name: "fenced", pool: "default", size: TestServer.volumeBytes,
                accessMode: .singleWriter, epoch: TestServer.volumeEpoch + 1)
            let fencing = Task {
                _ = try await server.services.perform(.fenceVolume(descriptor, reason: "test"))
                return server.driver.executed
            }
            #expect(
                try client.readEvent()
                    == .revoked(handle: isSource ? first : second, status: .fenced, reason: "test"))
            server.driver.letGo()
            #expect(try client.readReply().status == .fenced)
            // The piece that was being read may still be written; nothing comes after it.
            let executed = try await fencing.value
            #expect(executed.filter { $0 == .read }.count == 1)
            #expect(executed.filter { $0 == .write }.count <= 1)
        }
    }

    @Test func aCopyKeepsItsBytesFromAComparison() async throws {
        try await withVolumes { server, client, first, second async throws in
            server.driver.hold([.write])
            try client.send(
                .copyRange, handle: second, count: 4096, payload: CopySource(handle: first, offset: 0).bytes)
            await server.driver.waitUntilHeld(1)
            // One compares what is being read, the other what is being written.
            try client.send(.compareAndWrite, slot: 1, handle: first, count: 512, payload: zeroes(1024))
            try client.send(.compareAndWrite, slot: 2, handle: second, count: 512, payload: zeroes(1024))
            #expect(try client.request(.flush, slot: 3, handle: first).status == .ok)
            #expect(server.driver.executed.filter { $0 == .read }.count == 1)
            server.driver.letGo()
            for _ in 0..<3 { #expect(try client.readReply().status == .ok) }
            #expect(server.driver.executed.filter { $0 == .read }.count == 3)
        }
    }

    // MARK: BLOCK_STATUS

    @Test func extentsArePassedOnWhereTheyAreSound() async throws {
        try await withVolumes { server, client, first, _ async throws in
            server.driver.map(true)
            #expect(try client.write(first, at: 4096, pattern(8192)) == .ok)
            let reply = try client.request(.blockStatus, handle: first, offset: 0, count: 1 << 20)
            #expect(reply.status == .ok)
            let map = try BlockMap(bytes: reply.payload, covered: reply.header.value)
            #expect(
                map.extents == [
                    BlockExtent(length: 4096, flags: .zero), BlockExtent(length: 8192, flags: .allocated),
                    BlockExtent(length: (1 << 20) - 12288, flags: .zero),
                ])
            #expect(
                try client.request(.blockStatus, handle: first, offset: 1, count: 512).status == .unaligned)
            let end = TestServer.volumeBytes
            #expect(
                try client.request(.blockStatus, handle: first, offset: end - 512, count: 1024).status
                    == .outOfRange)
            server.driver.map(false)
            #expect(
                try client.request(.blockStatus, handle: first, offset: 0, count: 512).status == .notSupported
            )
            for lie in TestDriver.MapLie.allCases {
                server.driver.lie(lie)
                let reply = try client.request(.blockStatus, handle: first, offset: 0, count: 1 << 20)
                #expect(reply.status == .driverFailed, "\(lie)")
                // A copy goes on without.
                #expect(try copy(client, to: first, at: 2 << 20, 16384, from: first, at: 0).status == .ok)
                #expect(try client.read(first, at: (2 << 20) + 4096, 8192).payload == pattern(8192))
                #expect(
                    try client.request(.writeZeroes, handle: first, offset: 2 << 20, count: 16384).status
                        == .ok)
            }
        }
    }

    @Test func itNeedsTheRightToRead() async throws {
        try await withServer { server async throws in
            let key = PrivateKey.generateP256()
            let client = try server.client(key)
            let handle = try client.open(try server.mint(server.claims(for: key)).bytes, rights: .write)
            #expect(try client.request(.blockStatus, handle: handle, count: 512).status == .denied)
            #expect(server.driver.executed.isEmpty)
        }
    }
}
