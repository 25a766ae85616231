import Core
import TLS
import TestSupport
import Testing
import Wire

@testable import DataPlane

/// Many requests of one size, and of two in turn, that leave and arrive together: the answers' headers and payloads end at
/// every place of a record, before, at and behind its edge.
@Suite(.timeLimit(.minutes(10)), .serialized, .blocking)
struct EverySizeTests {
    private static let depth = 33

    /// Reads as many as `sizes` has in one send; the bytes of each, as the volume has them.
    private func read(_ sizes: [Int], _ client: TestClient, _ handle: UInt32, _ content: [UInt8]) throws {
        var frames: [UInt8] = []
        var places: [Int] = []
        for (slot, size) in sizes.enumerated() {
            places.append(slot * 512)
            frames +=
                client.nextHeader(
                    .read, slot: UInt16(slot), handle: handle, offset: UInt64(slot * 512), count: UInt32(size)
                ).bytes
        }
        try client.sendRaw(frames)
        for _ in sizes {
            let reply = try client.readReply()
            let slot = Int(reply.header.slot)
            let expected = content[places[slot]..<places[slot] + sizes[slot]]
            #expect(
                reply.status == .ok && reply.payload.elementsEqual(expected),
                "\(sizes[slot]) bytes in slot \(slot)")
        }
    }

    @Test func readsOfEverySizeArriveWhateverEndsWhereARecordDoes() async throws {
        try await withServer { server async throws in
            let key = PrivateKey.generateP256()
            let client = try server.client(key, slots: UInt16(Self.depth))
            let handle = try client.open(try server.mint(server.claims(for: key)).bytes)
            let content = pattern(1 << 20)
            #expect(try client.write(handle, at: 0, content) == .ok)
            for size in stride(from: 512, through: 8 << 10, by: 512) {
                try read([Int](repeating: size, count: Self.depth), client, handle, content)
            }
            for size in stride(from: 8 << 10, through: 33 << 10, by: 1536) {
                try read([Int](repeating: size, count: 9), client, handle, content)
            }
            let edges = [512, 1024, 15 << 10, (16 << 10) - 512, 16 << 10, (16 << 10) + 512, 48 << 10]
            for first in edges {
                for second in edges where first != second {
                    try read((0..<8).map { $0 % 2 == 0 ? first : second }, client, handle, content)
                }
            }
        }
    }

    @Test func writesOfEverySizeArriveInOneSend() async throws {
        try await withServer { server async throws in
            let key = PrivateKey.generateP256()
            let client = try server.client(key, slots: UInt16(Self.depth))
            let handle = try client.open(try server.mint(server.claims(for: key)).bytes)
            let content = pattern(64 << 10, seed: 9)
            for size in stride(from: 512, through: 33 << 10, by: 1536) {
                var frames: [UInt8] = []
                let count = min(Self.depth, (1 << 20) / size)
                for slot in 0..<count {
                    frames +=
                        client.nextHeader(
                            .write, slot: UInt16(slot), handle: handle, offset: UInt64(slot * size),
                            count: UInt32(size), length: size
                        ).bytes + content[slot * 16..<slot * 16 + size]
                }
                try client.sendRaw(frames)
                for _ in 0..<count { #expect(try client.readReply().status == .ok) }
                for slot in [0, count / 2, count - 1] {
                    let reply = try client.read(handle, at: UInt64(slot * size), UInt32(size))
                    #expect(
                        reply.payload.elementsEqual(content[slot * 16..<slot * 16 + size]), "\(size) bytes")
                }
            }
        }
    }
}
