/// A run of bytes of a resource, in bytes from its start; its end never overflows.
@frozen
public struct ByteRange: Hashable, Sendable, CustomStringConvertible {
    /// The first byte.
    public let offset: UInt64
    /// How many bytes.
    public let length: UInt64

    /// A range; nil when `offset + length` does not fit 64 bits.
    @inlinable
    public init?(offset: UInt64, length: UInt64) {
        guard !offset.addingReportingOverflow(length).overflow else { return nil }
        self.offset = offset
        self.length = length
    }

    /// The byte after the last.
    @inlinable
    public var end: UInt64 { offset &+ length }

    /// Whether a request for `length` bytes at `offset` lies inside; false where their sum overflows.
    @inlinable
    public func contains(offset: UInt64, length: UInt64) -> Bool {
        let (end, overflow) = offset.addingReportingOverflow(length)
        return !overflow && offset >= self.offset && end <= self.end
    }

    /// Whether all of `other` lies inside.
    @inlinable
    public func contains(_ other: ByteRange) -> Bool {
        contains(offset: other.offset, length: other.length)
    }

    /// `offset..<end`.
    public var description: String { "\(offset)..<\(end)" }
}
