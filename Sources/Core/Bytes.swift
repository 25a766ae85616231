/// Reads little-endian fields from bytes that a peer sent; every read is bounds-checked.
public struct ByteReader: Sendable {
    private let bytes: [UInt8]
    private var position: Int
    private let end: Int

    /// A reader over all of `bytes`.
    public init(_ bytes: [UInt8]) {
        self.bytes = bytes
        position = 0
        end = bytes.count
    }

    /// The bytes that are not read yet.
    public var remaining: Int { end - position }

    /// The next fixed-width integer, little-endian; nil when fewer bytes remain.
    public mutating func read<T: FixedWidthInteger & UnsignedInteger>(_ type: T.Type) -> T? {
        let count = T.bitWidth / 8
        guard remaining >= count else { return nil }
        var value: T = 0
        for index in (0..<count).reversed() {
            value = value << 8 | T(truncatingIfNeeded: bytes[position + index])
        }
        position += count
        return value
    }

    /// The next `count` bytes; nil when fewer remain or `count` is negative.
    public mutating func read(count: Int) -> [UInt8]? {
        guard count >= 0, remaining >= count else { return nil }
        defer { position += count }
        return Array(bytes[position..<position + count])
    }

    /// The next sixteen bytes.
    public mutating func readIdentifier() -> Identifier? {
        read(count: Identifier.byteCount).flatMap { Identifier(bytes: $0) }
    }

    /// A 16-bit length and that many bytes; nil when fewer remain or the length exceeds `maximum`.
    public mutating func readCounted(maximum: Int) -> [UInt8]? {
        guard let count = read(UInt16.self), Int(count) <= maximum else { return nil }
        return read(count: Int(count))
    }

    /// A 16-bit length and that many bytes of valid UTF-8; nil otherwise.
    public mutating func readText(maximum: Int) -> String? {
        readCounted(maximum: maximum).flatMap { String(validating: $0, as: UTF8.self) }
    }
}

/// Appends little-endian fields to a growing array.
public struct ByteWriter: Sendable {
    /// What was written.
    public private(set) var bytes: [UInt8] = []

    /// An empty writer with room for `capacity` bytes.
    public init(capacity: Int = 64) {
        bytes.reserveCapacity(capacity)
    }

    /// Appends an integer, little-endian.
    public mutating func write(_ value: some FixedWidthInteger & UnsignedInteger) {
        var rest = value
        for _ in 0..<value.bitWidth / 8 {
            bytes.append(UInt8(truncatingIfNeeded: rest))
            if value.bitWidth > 8 { rest >>= 8 }
        }
    }

    /// Appends bytes as they are.
    public mutating func write(bytes more: some Sequence<UInt8>) {
        bytes.append(contentsOf: more)
    }

    /// Appends an identifier's sixteen bytes.
    public mutating func write(_ identifier: Identifier) {
        bytes.append(contentsOf: identifier.bytes)
    }

    /// Appends a 16-bit length and the bytes; more than 65,535 bytes is a bug of the caller.
    public mutating func writeCounted(_ more: [UInt8]) {
        precondition(more.count <= Int(UInt16.max), "a counted field is longer than 65,535 bytes")
        write(UInt16(more.count))
        bytes.append(contentsOf: more)
    }

    /// Appends a 16-bit length and the text's UTF-8 bytes.
    public mutating func writeText(_ text: String) {
        writeCounted(Array(text.utf8))
    }
}
