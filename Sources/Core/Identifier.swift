/// Sixteen random bytes that name a cluster, node, volume, capability or session.
///
/// Held as two words so that comparing and hashing touch no heap. Text form: 32 lower-case hex digits.
@frozen
public struct Identifier: Hashable, Sendable, CustomStringConvertible, Comparable {
    /// Bytes 0..<8, big-endian.
    public let high: UInt64
    /// Bytes 8..<16, big-endian.
    public let low: UInt64

    /// The number of bytes.
    public static let byteCount = 16
    /// All bytes zero; used where a field means "none".
    public static let zero = Identifier(high: 0, low: 0)

    /// An identifier from its two words.
    @inlinable
    public init(high: UInt64, low: UInt64) {
        self.high = high
        self.low = low
    }

    /// An identifier from exactly 16 bytes; nil for any other count.
    public init?(bytes: some Collection<UInt8>) {
        guard bytes.count == Identifier.byteCount else { return nil }
        // Other modules call this unspecialised, where each element of a collection costs as much as a copy of all.
        let bytes = Array(bytes)
        func word(_ range: Range<Int>) -> UInt64 {
            var word: UInt64 = 0
            for index in range { word = word << 8 | UInt64(bytes[index]) }
            return word
        }
        self.init(high: word(0..<8), low: word(8..<16))
    }

    /// An identifier from 32 hex digits; nil for anything else.
    public init?(hex: String) {
        guard let bytes = Hex.decode(hex) else { return nil }
        self.init(bytes: bytes)
    }

    /// A fresh identifier.
    public static func random(using source: some RandomSource) -> Identifier {
        guard let identifier = Identifier(bytes: source.bytes(byteCount)) else {
            preconditionFailure("a random source returned the wrong number of bytes")
        }
        return identifier
    }

    /// The sixteen bytes.
    public var bytes: [UInt8] {
        var result: [UInt8] = []
        result.reserveCapacity(Identifier.byteCount)
        for word in [high, low] {
            for shift in stride(from: UInt64(56), through: 0, by: -8) {
                result.append(UInt8(truncatingIfNeeded: word >> shift))
            }
        }
        return result
    }

    /// 32 lower-case hex digits.
    public var hex: String { Hex.encode(bytes) }

    /// The hex text.
    public var description: String { hex }

    /// Orders by bytes.
    public static func < (left: Identifier, right: Identifier) -> Bool {
        (left.high, left.low) < (right.high, right.low)
    }
}

/// A SHA-256 value: a key's or a certificate's thumbprint. Text form: 64 lower-case hex digits.
@frozen
public struct Digest32: Hashable, Sendable, CustomStringConvertible {
    /// The first sixteen bytes.
    public let first: Identifier
    /// The last sixteen bytes.
    public let second: Identifier

    /// The number of bytes.
    public static let byteCount = 32

    /// A digest from its halves.
    @inlinable
    public init(first: Identifier, second: Identifier) {
        self.first = first
        self.second = second
    }

    /// A digest from exactly 32 bytes; nil for any other count.
    public init?(bytes: some Collection<UInt8>) {
        guard bytes.count == Digest32.byteCount, let first = Identifier(bytes: bytes.prefix(16)),
            let second = Identifier(bytes: bytes.suffix(16))
        else { return nil }
        self.init(first: first, second: second)
    }

    /// A digest from 64 hex digits; nil for anything else.
    public init?(hex: String) {
        guard let bytes = Hex.decode(hex) else { return nil }
        self.init(bytes: bytes)
    }

    /// The 32 bytes.
    public var bytes: [UInt8] { first.bytes + second.bytes }
    /// 64 lower-case hex digits.
    public var hex: String { Hex.encode(bytes) }
    /// The hex text.
    public var description: String { hex }
}
