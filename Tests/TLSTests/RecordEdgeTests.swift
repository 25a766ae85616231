import Core
import Glibc
import Simulation
import TestSupport
import Testing

@testable import TLS

/// Every size around the edges of records and buffers goes through as it was, in as many steps as it takes and no more:
/// whatever is written, however it arrives in pieces, and whatever it is read into.
@Suite(.timeLimit(.minutes(10)), .blocking) struct RecordEdgeTests {
    private static let record = RecordLayer.contentBytesMax
    private static let sealed = record + RecordCipher.overheadBytes
    /// Around 512, a record, and some of them.
    static let sizes = [
        1, 2, 511, 512, 513, record - 1, record, record + 1, 2 * record - 1, 2 * record, 2 * record + 1,
        4 * record - 1, 4 * record, 4 * record + 1,
    ]
    private static let rooms = [31, 511, 4096, record - 1, record, record + 1, 4 * record]
    private static let pieces = [7, 511, sealed - 1, sealed, sealed + 1, 3 * sealed, 1 << 20]

    private let pki: TestAuthority

    init() throws { pki = try TestAuthority() }

    @Test(arguments: rooms)
    func everySizeArrivesInEveryPieceAndRoom(_ room: Int) throws {
        let pair = try pki.pair()
        try pair.handshake()
        var random = SplitMix(seed: UInt64(room))
        for size in Self.sizes {
            let bytes = random.bytes(size)
            for piece in Self.pieces where size / piece < 400 {
                let ciphertext = try pair.server.sealed(bytes)
                var arrived: [UInt8] = []
                var reads = 0
                for start in stride(from: 0, to: ciphertext.count, by: piece) {
                    let part = Array(ciphertext[start..<min(start + piece, ciphertext.count)])
                    try pair.client.accept(part) {
                        while let some = try pair.client.readOnce(room) {
                            reads += 1
                            // Each gives something, so that whoever goes on for as long as they do comes to an end.
                            try #require(!some.isEmpty && some.count <= room)
                            arrived += some
                        }
                    }
                }
                #expect(arrived == bytes, "\(size) bytes in pieces of \(piece), read into \(room)")
                #expect(reads <= size / min(room, piece) + ciphertext.count / piece + 2)
                #expect(pair.client.unreadInputBytes == 0)
            }
        }
    }

    @Test func oneRecordTakesAnyContentInAnyPieces() throws {
        let pair = try pki.pair()
        try pair.handshake()
        var random = SplitMix(seed: 7)
        for size in Self.sizes where size <= Self.record {
            for step in [1, 32, 511, 512, 513, 4096, Self.record] where size / step < 600 {
                let bytes = random.bytes(size)
                try unsafe bytes.withUnsafeBytes { memory in
                    let base = unsafe UnsafeMutableRawPointer(mutating: memory.baseAddress!)
                    let vectors = unsafe stride(from: 0, to: size, by: step).map { start in
                        unsafe iovec(iov_base: base + start, iov_len: min(step, size - start))
                    }
                    try unsafe vectors.withUnsafeBufferPointer {
                        try unsafe pair.server.writeRecord($0, count: size)
                    }
                }
                let ciphertext = pair.server.drainOutput()
                #expect(ciphertext.count == size + TLSConnection.recordOverheadBytes)
                #expect(try pair.client.accept(ciphertext) { try pair.client.readAll() } == bytes)
            }
        }
    }
}
