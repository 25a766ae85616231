/// What a block device can be asked to do.
public enum BlockOperation: UInt8, Sendable, CaseIterable {
    case read
    case write
    /// The range reads as zero and keeps its space.
    case writeZeroes
    /// The range reads as zero and its space is given back, or nothing is done: `notSupported`.
    case discard
    case flush

    /// Written data may be lost when it fails.
    var writes: Bool {
        switch self {
        case .write, .writeZeroes, .flush: true
        case .read, .discard: false
        }
    }
}

/// The shape of the volume behind a block device.
public struct BlockGeometry: Sendable, Hashable {
    /// Bytes, a multiple of `blockSize`.
    public var size: UInt64
    /// The logical block size in bytes, 512 or 4096.
    public var blockSize: UInt32
    /// The most bytes that one READ or WRITE may carry.
    public var maximumTransfer: UInt32
    /// Writes are refused before they are sent.
    public var isReadOnly: Bool
    /// The server takes discards; otherwise they are refused before they are sent.
    public var allowsDiscard = true
    /// The most bytes that it may have when the volume grows; nil where it grows with it.
    public var sizeMax: UInt64?

    /// A geometry of its parts.
    public init(size: UInt64, blockSize: UInt32, maximumTransfer: UInt32, isReadOnly: Bool) {
        self.size = size
        self.blockSize = blockSize
        self.maximumTransfer = maximumTransfer
        self.isReadOnly = isReadOnly
    }
}

/// One request to the backend: a part of what the kernel asked for, no larger than the backend takes.
@unsafe public struct BlockRequest {
    /// What to do.
    public var operation: BlockOperation
    /// Bytes from the start of the volume.
    public var offset: UInt64
    /// Bytes that the operation covers; 0 for a flush.
    public var count: UInt32
    /// The memory of a read or a write, `count` bytes; it stays valid until the request's completion.
    public var buffer: UnsafeMutableRawPointer?
    /// Given back with the completion.
    public var tag: UInt64

    /// A request of its parts.
    public init(
        operation: BlockOperation, offset: UInt64, count: UInt32, buffer: UnsafeMutableRawPointer?,
        tag: UInt64
    ) {
        unsafe self.operation = operation
        unsafe self.offset = offset
        unsafe self.count = count
        unsafe self.buffer = unsafe buffer
        unsafe self.tag = tag
    }
}

/// Where the requests of a block device go, such as a volume on an I/O server.
///
/// Everything happens on one thread, that of the reactor that serves the device. Each accepted request is
/// answered exactly once, by a call of `FuseVolume.completed(tag:status:)`, which may come before `submit`
/// returns.
public protocol BlockBackend: AnyObject {
    /// Takes a request; false when it has no free slot now, after which `FuseVolume.slotsFreed()` or a
    /// completion says when to try again.
    func submit(_ request: BlockRequest) -> Bool
    /// Completes the accepted requests with this tag soon, with `timedOut`; their memory is not touched from
    /// now on.
    func giveUp(tag: UInt64)
}
