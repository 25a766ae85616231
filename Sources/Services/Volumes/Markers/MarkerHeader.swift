import Core

/// The first block of a marker's file; the bits follow.
///
/// | bytes | field |
/// |---|---|
/// | 0..<8 | `SLMARKER` |
/// | 8..<12 | version, 1 |
/// | 12..<16 | 1: closed in order, and the checksum of the bits counts; 0: in use |
/// | 16..<32 | volume |
/// | 32..<48 | marker |
/// | 48..<56 | the volume's size when it was marked |
/// | 56..<64 | base-2 logarithm of the granule |
/// | 64..<80 | run of the machine in which it was opened last |
/// | 80..<88 | checksum of the bits |
/// | 88..<96 | checksum of what comes before |
struct MarkerHeader: Sendable, Hashable {
    static let byteCount = 96
    /// Where the bits begin.
    static let blockBytes = 4096
    private static let magic: [UInt8] = Array("SLMARKER".utf8)
    private static let version: UInt32 = 1

    var isClosed = false
    let volume: Identifier
    let marker: Identifier
    /// Bytes.
    let size: UInt64
    let shift: UInt8
    var boot: Identifier
    var bitsChecksum: UInt64 = 0

    init(volume: Identifier, marker: Identifier, size: UInt64, boot: Identifier) {
        self.volume = volume
        self.marker = marker
        self.size = size
        self.boot = boot
        shift = MarkerBits.shift(for: size)
    }

    /// A header that was read; nil when it is none, or damaged.
    init?(bytes: [UInt8]) {
        var reader = ByteReader(bytes)
        guard bytes.count == MarkerHeader.byteCount, reader.read(count: 8) == MarkerHeader.magic,
            reader.read(UInt32.self) == MarkerHeader.version, let closed = reader.read(UInt32.self),
            closed <= 1, let volume = reader.readIdentifier(), let marker = reader.readIdentifier(),
            let size = reader.read(UInt64.self), size > 0, size <= Limits.volumeBytesMax,
            let shift = reader.read(UInt64.self), shift == UInt64(MarkerBits.shift(for: size)),
            let boot = reader.readIdentifier(), let bitsChecksum = reader.read(UInt64.self),
            reader.read(UInt64.self) == MarkerHeader.checksum(of: bytes.dropLast(8))
        else { return nil }
        isClosed = closed == 1
        self.volume = volume
        self.marker = marker
        self.size = size
        self.shift = UInt8(shift)
        self.boot = boot
        self.bitsChecksum = bitsChecksum
    }

    var bytes: [UInt8] {
        var writer = ByteWriter(capacity: MarkerHeader.byteCount)
        writer.write(bytes: MarkerHeader.magic)
        writer.write(MarkerHeader.version)
        writer.write(UInt32(isClosed ? 1 : 0))
        writer.write(volume)
        writer.write(marker)
        writer.write(size)
        writer.write(UInt64(shift))
        writer.write(boot)
        writer.write(bitsChecksum)
        writer.write(MarkerHeader.checksum(of: writer.bytes[...]))
        return writer.bytes
    }

    /// The whole file's length, in bytes.
    var fileBytes: Int { MarkerHeader.blockBytes + 8 * MarkerBits.wordCount(size: size, shift: shift) }

    // MARK: Checksums

    /// FNV-1a over words: a damaged word always shows, which is all that is asked of it.
    static let checksumStart: UInt64 = 0xcbf2_9ce4_8422_2325

    @inline(__always)
    static func checksum(_ sum: UInt64, _ word: UInt64) -> UInt64 { (sum ^ word) &* 0x100_0000_01b3 }

    private static func checksum(of bytes: ArraySlice<UInt8>) -> UInt64 {
        bytes.reduce(checksumStart) { checksum($0, UInt64($1)) }
    }
}
