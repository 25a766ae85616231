import Core
import DriverKit
import Foundation
import Logging
import Services
import TLS
import TestSupport
import Testing
import Wire

@testable import DataPlane

/// What was changed since a marker, over the wire.
@Suite(.timeLimit(.minutes(2)), .serialized, .blocking)
struct MarkerTests {
    private static let unit: UInt64 = 64 << 10
    private static let second = Identifier(high: 0xC0, low: 2)
    private let first = Identifier(high: 0xA, low: 1)
    private let later = Identifier(high: 0xA, low: 2)

    /// A server of two reactors that keeps markers, and a client that may do everything.
    private func withMarkers(
        accessMode: AccessMode = .shared, _ body: (TestServer, TestClient, UInt32) async throws -> Void
    ) async throws {
        let path = FileManager.default.temporaryDirectory.appending(path: "marks-\(UUID().uuidString)").path
        defer { try? FileManager.default.removeItem(atPath: path) }
        var logger = Logger(label: "test")
        logger.logLevel = .critical
        var options = DataServerOptions()
        options.reactors = 2
        try await withServer(options: options, accessMode: accessMode) { configuration in
            configuration.markers = MarkerFolder(
                path: path, boot: Identifier(high: 1, low: 1), logger: logger)
        } _: { server async throws in
            server.driver.map(true)
            let key = PrivateKey.generateP256()
            let client = try server.client(key, slots: 32)
            let handle = try client.open(try server.mint(server.claims(for: key)).bytes)
            try await body(server, client, handle)
        }
    }

    /// A further client, which has the next reactor.
    private func another(_ server: TestServer) throws -> (TestClient, UInt32) {
        let key = PrivateKey.generateP256()
        let client = try server.client(key, slots: 32)
        return (client, try client.open(try server.mint(server.claims(for: key)).bytes))
    }

    private func mark(_ server: TestServer, _ marker: Identifier) async throws -> MarkerInfo {
        try await server.services.perform(.createMarker(marker, volume: server.volume))
    }

    /// The units of the volume that count as changed.
    private func changed(
        _ client: TestClient, _ handle: UInt32, since marker: Identifier, slot: UInt16 = 31
    ) throws -> [UInt64] {
        var units: Set<UInt64> = []
        var at: UInt64 = 0
        while at < TestServer.volumeBytes {
            let reply = try client.request(
                .blockStatus, slot: slot, handle: handle, offset: at,
                count: UInt32(TestServer.volumeBytes - at),
                payload: marker.bytes)
            guard reply.status == .ok else { throw TestClientError.refused(reply.status, reply.message) }
            for extent in try BlockMap(bytes: reply.payload, covered: reply.header.value).extents {
                if extent.flags.contains(.changed) {
                    units.formUnion(at / Self.unit...(at + extent.length - 1) / Self.unit)
                }
                at += extent.length
            }
        }
        return units.sorted()
    }

    @Test func everyRequestThatChangesSomethingIsNoted() async throws {
        try await withMarkers { server, client, handle async throws in
            #expect(try client.write(handle, at: 0, pattern(4096)) == .ok)
            let info = try await mark(server, first)
            #expect(info.isComplete && info.changedBytes == 0 && info.granularity == Self.unit)
            #expect(try changed(client, handle, since: first).isEmpty)

            #expect(try client.write(handle, at: 2 * Self.unit + 512, pattern(512)) == .ok)
            #expect(try changed(client, handle, since: first) == [2])
            #expect(
                try client.request(.writeZeroes, handle: handle, offset: 5 * Self.unit - 512, count: 1024)
                    .status == .ok)
            #expect(
                try client.request(.discard, handle: handle, offset: 9 * Self.unit, count: 512).status == .ok)
            #expect(
                try client.request(
                    .copyRange, handle: handle, offset: 20 * Self.unit, count: UInt32(6 * Self.unit),
                    payload: CopySource(handle: handle, offset: 0).bytes
                ).status == .ok)
            let swap = pattern(512) + pattern(512, seed: 8)
            #expect(
                try client.request(.compareAndWrite, handle: handle, offset: 0, count: 512, payload: swap)
                    .status
                    == .ok)
            #expect(
                try changed(client, handle, since: first) == [0, 2, 4, 5, 9, 20, 21, 22, 23, 24, 25])
            // What changes nothing is not.
            let wrong = pattern(512, seed: 3) + pattern(512)
            #expect(
                try client.request(
                    .compareAndWrite, handle: handle, offset: 60 * Self.unit, count: 512, payload: wrong
                ).status == .miscompare)
            #expect(try client.read(handle, at: 61 * Self.unit, 512).status == .ok)
            #expect(try client.request(.flush, handle: handle).status == .ok)
            #expect(
                try changed(client, handle, since: first) == [0, 2, 4, 5, 9, 20, 21, 22, 23, 24, 25])
            let all = try await server.services.perform(.volumeMarkers(server.volume))
            #expect(all.map(\.changedBytes) == [11 * Self.unit])
        }
    }

    @Test func allReactorsNoteAndALaterMarkerBeginsAnew() async throws {
        try await withMarkers { server, client, handle async throws in
            let (other, otherHandle) = try another(server)
            _ = try await mark(server, first)
            #expect(try client.write(handle, at: 0, pattern(512)) == .ok)
            #expect(try other.write(otherHandle, at: 3 * Self.unit, pattern(512)) == .ok)
            _ = try await mark(server, later)
            #expect(try other.write(otherHandle, at: 7 * Self.unit, pattern(512)) == .ok)
            // Who comes later notes, too.
            let (third, thirdHandle) = try another(server)
            #expect(try third.write(thirdHandle, at: 8 * Self.unit, pattern(512)) == .ok)
            #expect(try changed(client, handle, since: first) == [0, 3, 7, 8])
            #expect(try changed(other, otherHandle, since: later) == [7, 8])
            _ = try await server.services.perform(.deleteMarker(first, volume: server.volume))
            #expect(throws: TestClientError.self) { try changed(client, handle, since: first) }
            #expect(try client.write(handle, at: 9 * Self.unit, pattern(512)) == .ok)
            #expect(try changed(client, handle, since: later) == [7, 8, 9])
        }
    }

    /// What a driver has and has not done when a marker is set may land after the earlier marker's map was read.
    @Test(arguments: [Opcode.write, .writeZeroes, .discard, .copyRange, .compareAndWrite])
    func whatIsUnderWayWhenAMarkerIsSetCountsAsChangedSince(opcode: Opcode) async throws {
        try await withMarkers { server, client, handle async throws in
            let (other, otherHandle) = try another(server)
            #expect(try client.write(handle, at: 0, pattern(512)) == .ok)
            _ = try await mark(server, first)
            let isZero = opcode == .writeZeroes || opcode == .discard
            server.driver.hold([isZero ? (opcode == .discard ? .discard : .writeZeroes) : .write])
            let payload: [UInt8] =
                switch opcode {
                case .write: pattern(512)
                case .copyRange: CopySource(handle: handle, offset: 0).bytes
                case .compareAndWrite: [UInt8](repeating: 0, count: 512) + pattern(512)
                default: []
                }
            try client.send(
                opcode, slot: 1, handle: handle, offset: 4 * Self.unit, count: 512, payload: payload)
            await server.driver.waitUntilHeld(1)
            _ = try await mark(server, later)
            // An incremental backup reads the map and the bytes now, before the write lands.
            #expect(try changed(other, otherHandle, since: first) == [4])
            // (Nobody reads what a COMPARE_AND_WRITE has.)
            let isRead = opcode != .compareAndWrite
            let before = isRead ? try other.read(otherHandle, at: 4 * Self.unit, 512).payload : []
            server.driver.letGo()
            #expect(try client.readReply().status == .ok)
            let after = try other.read(otherHandle, at: 4 * Self.unit, 512).payload
            if !isZero { #expect(before != after) }
            // The next one has it.
            #expect(try changed(other, otherHandle, since: later) == [4])
        }
    }

    @Test func whatALostConnectionLeftUnderWayCountsToo() async throws {
        try await withMarkers { server, client, handle async throws in
            let (other, otherHandle) = try another(server)
            server.driver.hold([.write])
            try client.send(
                .write, slot: 1, handle: handle, offset: 4 * Self.unit, count: 512, payload: pattern(512))
            await server.driver.waitUntilHeld(1)
            client.disconnect()
            try await server.waitForSessions { $0.count == 1 || $0.contains { $0.channels == 0 } }
            _ = try await mark(server, later)
            server.driver.letGo()
            #expect(try changed(other, otherHandle, since: later) == [4])
        }
    }

    @Test func whatWasAcknowledgedBeforeAMarkerIsDurable() async throws {
        try await withMarkers { server, client, handle async throws in
            #expect(try client.write(handle, at: 0, pattern(512)) == .ok)
            #expect(!server.driver.executed.contains(.flush))
            _ = try await mark(server, first)
            #expect(server.driver.executed.filter { $0 == .flush }.count == 1)
            server.driver.state.withLock { $0.failure = .ioError }
            await #expect(throws: StatusError.self) { try await mark(server, later) }
            server.driver.state.withLock { $0.failure = nil }
            let all = try await server.services.perform(.volumeMarkers(server.volume))
            #expect(all.map(\.id) == [first])
        }
    }

    @Test func extentsAreThoseOfBothMaps() async throws {
        try await withMarkers { server, client, handle async throws in
            #expect(try client.write(handle, at: Self.unit - 1024, pattern(2048)) == .ok)
            _ = try await mark(server, first)
            #expect(try client.write(handle, at: Self.unit, pattern(512)) == .ok)
            let reply = try client.request(
                .blockStatus, handle: handle, offset: Self.unit - 2048, count: UInt32(2 * Self.unit),
                payload: first.bytes)
            let map = try BlockMap(bytes: reply.payload, covered: reply.header.value)
            #expect(
                map.extents == [
                    BlockExtent(length: 1024, flags: .zero), BlockExtent(length: 1024, flags: .allocated),
                    BlockExtent(length: 1024, flags: [.allocated, .changed]),
                    BlockExtent(length: Self.unit - 1024, flags: [.zero, .changed]),
                    BlockExtent(length: Self.unit - 2048, flags: .zero),
                ])
            // Where the device knows nothing, it is still known what was changed.
            server.driver.map(false)
            let blind = try client.request(
                .blockStatus, handle: handle, offset: 0, count: UInt32(4 * Self.unit), payload: first.bytes)
            #expect(
                try BlockMap(bytes: blind.payload, covered: blind.header.value).extents == [
                    BlockExtent(length: Self.unit, flags: .allocated),
                    BlockExtent(length: Self.unit, flags: [.allocated, .changed]),
                    BlockExtent(length: 2 * Self.unit, flags: .allocated),
                ])
            for lie in TestDriver.MapLie.allCases {
                server.driver.lie(lie)
                let reply = try client.request(
                    .blockStatus, handle: handle, offset: 0, count: 1 << 20, payload: first.bytes)
                #expect(reply.status == .driverFailed, "\(lie)")
            }
        }
    }

    @Test func anAnswerHasNoMoreExtentsThanFit() async throws {
        try await withMarkers { server, client, handle async throws in
            _ = try await mark(server, first)
            // 64 changed units and as many between them, each cut in two by the device.
            for unit in stride(from: 0, to: 128, by: 2) as StrideTo<UInt64> {
                #expect(try client.write(handle, at: unit * Self.unit, pattern(512)) == .ok)
            }
            #expect(try changed(client, handle, since: first) == Array(stride(from: 0, to: 128, by: 2)))
            for block in stride(from: 512, to: UInt64(200 << 10), by: 1024) {
                #expect(try client.write(handle, at: block, pattern(512)) == .ok)
            }
            let reply = try client.request(
                .blockStatus, handle: handle, offset: 0, count: UInt32(TestServer.volumeBytes),
                payload: first.bytes)
            #expect(reply.payload.count == Limits.blockStatusBytesMax)
            #expect(reply.header.value < 200 << 10)
            #expect(
                try changed(client, handle, since: first)
                    == Array(Set(stride(from: 0, to: 128, by: 2)).union([1, 3])).sorted())
        }
    }

    @Test func whatWasAddedSinceCountsAsChanged() async throws {
        try await withMarkers { server, client, handle async throws in
            _ = try await mark(server, first)
            let size = TestServer.volumeBytes + 4096
            _ = try await server.services.perform(.resizeVolume(server.volume, size))
            #expect(try client.readEvent() == .resized(handle: handle, size: size))
            let reply = try client.request(
                .blockStatus, handle: handle, offset: size - 8192, count: 8192, payload: first.bytes)
            #expect(
                try BlockMap(bytes: reply.payload, covered: reply.header.value).extents == [
                    BlockExtent(length: 4096, flags: .zero),
                    BlockExtent(length: 4096, flags: [.zero, .changed]),
                ])
            let all = try await server.services.perform(.volumeMarkers(server.volume))
            #expect(all.map(\.changedBytes) == [4096] && all.map(\.isComplete) == [true])
        }
    }

    // MARK: What is refused

    @Test func onlyAMarkerOfTheVolumeIsOne() async throws {
        try await withMarkers { server, client, handle async throws in
            _ = try await server.services.perform(
                .createVolume(
                    VolumeDescriptor(
                        id: Self.second, name: "second", pool: "default", size: TestServer.volumeBytes,
                        accessMode: .shared, epoch: TestServer.volumeEpoch)))
            _ = try await server.services.perform(.createMarker(later, volume: Self.second))
            func status(_ payload: [UInt8]) throws -> Status? {
                try client.request(.blockStatus, handle: handle, count: 512, payload: payload).status
            }
            #expect(try status(later.bytes) == .notFound)
            #expect(try status(first.bytes) == .notFound)
            #expect(try status(Identifier.zero.bytes) == .notFound)
            #expect(try status([UInt8](repeating: 1, count: 15)) == .badLength)
            #expect(try status([UInt8](repeating: 1, count: 17)) == .badLength)
            #expect(try status([]) == .ok)
            #expect(server.driver.executed.filter { $0 == .blockStatus }.count == 1)
        }
    }

    @Test func aHandleOfAPartSeesNoMore() async throws {
        try await withMarkers { server, client, handle async throws in
            _ = try await mark(server, first)
            #expect(try client.write(handle, at: 0, pattern(512)) == .ok)
            let key = PrivateKey.generateP256()
            var claims = server.claims(for: key, rights: .read)
            claims.range = ByteRange(offset: 4096, length: Self.unit)
            let part = try server.client(key)
            let own = try part.open(try server.mint(claims).bytes)
            func request(_ offset: UInt64, _ count: UInt32) throws -> TestClient.Reply {
                try part.request(
                    .blockStatus, handle: own, offset: offset, count: count, payload: first.bytes)
            }
            #expect(try request(0, 8192).status == .denied)
            #expect(try request(4096, UInt32(Self.unit) + 512).status == .denied)
            let reply = try request(4096, UInt32(Self.unit))
            #expect(
                try BlockMap(bytes: reply.payload, covered: reply.header.value).extents == [
                    BlockExtent(length: Self.unit - 4096, flags: [.zero, .changed]),
                    BlockExtent(length: 4096, flags: .zero),
                ])
        }
    }

    @Test func aVolumeHasNoMoreThanItsMostMarkers() async throws {
        try await withMarkers { server, _, _ async throws in
            for number in 0..<UInt64(Limits.markersPerVolumeMax) {
                _ = try await mark(server, Identifier(high: 0xB, low: number))
            }
            await #expect(throws: StatusError.self) { try await mark(server, first) }
            _ = try await server.services.perform(
                .deleteMarker(Identifier(high: 0xB, low: 3), volume: server.volume))
            _ = try await mark(server, first)
        }
    }

    @Test func aDeletedVolumeLeavesNothingForTheNext() async throws {
        try await withMarkers { server, client, handle async throws in
            _ = try await mark(server, first)
            _ = try await server.services.perform(.deleteVolume(server.volume, pool: "default"))
            // The same number at the driver.
            _ = try await server.services.perform(
                .createVolume(
                    VolumeDescriptor(
                        id: Self.second, name: "second", pool: "default", size: TestServer.volumeBytes,
                        accessMode: .shared, epoch: TestServer.volumeEpoch)))
            let key = PrivateKey.generateP256()
            let next = try server.client(key)
            var claims = server.claims(for: key)
            claims.resource = Self.second
            let own = try next.open(try server.mint(claims).bytes)
            #expect(
                try next.request(.blockStatus, handle: own, count: 512, payload: first.bytes).status
                    == .notFound)
            await #expect(throws: StatusError.self) {
                try await server.services.perform(.volumeMarkers(server.volume))
            }
        }
    }
}
