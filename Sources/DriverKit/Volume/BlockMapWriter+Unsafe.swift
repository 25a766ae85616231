import Core

/// Writes the answer to a block status: extents one after the other, neighbours of which the same is known as one.
@unsafe
public struct BlockMapWriter {
    private let buffer: UnsafeMutableRawPointer
    private let length: UInt64
    private var last: BlockExtent?
    /// How many bytes of extents stand in the buffer.
    public private(set) var bytes = 0
    /// How many bytes of the volume they cover.
    public private(set) var covered: UInt64 = 0

    /// A writer for a request of `length` bytes.
    ///
    /// - Safety: `buffer` points at `Limits.blockStatusBytesMax` writable bytes for as long as the writer is used.
    public init(buffer: UnsafeMutableRawPointer, length: UInt64) {
        unsafe self.buffer = unsafe buffer
        unsafe self.length = length
    }

    /// Whether there is more to say, and room for it.
    public var goesOn: Bool { unsafe covered < length && bytes < Limits.blockStatusBytesMax }

    /// Adds what follows, cut where the request ends. Nothing when `goesOn` is false.
    public mutating func append(_ count: UInt64, _ flags: BlockFlags) {
        let count = unsafe min(count, length - covered)
        guard unsafe goesOn, count > 0 else { return }
        var extent = BlockExtent(length: count, flags: flags)
        if let last = unsafe last, last.flags == flags {
            extent.length += last.length
            unsafe bytes -= BlockExtent.byteCount
        }
        unsafe extent.store(buffer + bytes)
        unsafe last = extent
        unsafe bytes += BlockExtent.byteCount
        unsafe covered += count
    }
}
