import Core

/// What the users of an open volume must know.
public struct VolumeGeometry: RequestBounds, Sendable, Hashable {
    /// Its size in bytes.
    public var size: UInt64
    /// Offsets and lengths of requests are multiples of this, in bytes; a power of two.
    public var blockSize: UInt32
    /// The longest read or write in bytes; other operations may cover any range.
    public var maximumTransfer: UInt32

    /// A geometry.
    public init(size: UInt64, blockSize: UInt32, maximumTransfer: UInt32) {
        precondition(blockSize.nonzeroBitCount == 1, "a block size is a power of two")
        self.size = size
        self.blockSize = blockSize
        self.maximumTransfer = maximumTransfer
    }

    /// Judges a request as it came out of a ring: `ok` means that its opcode is known, that it lies within
    /// the volume and, where it has a buffer, that this lies within an arena of `arenaBytes`. Nothing
    /// needs checking after that.
    public func check(_ request: DriverRequest, arenaBytes: Int) -> Status {
        guard let opcode = request.opcode else { return .unknownOpcode }
        if opcode == .flush { return .ok }
        if request.length == 0 { return .badLength }
        let (end, overflow) = request.offset.addingReportingOverflow(request.length)
        if overflow || end > size { return .outOfRange }
        if (request.offset | request.length) & UInt64(blockSize - 1) != 0 { return .unaligned }
        if opcode == .read || opcode == .write || opcode == .blockStatus {
            let isMap = opcode == .blockStatus
            if !isMap, request.length > UInt64(maximumTransfer) { return .tooLarge }
            let bufferBytes = isMap ? UInt64(Limits.blockStatusBytesMax) : request.length
            let (bufferEnd, bufferOverflow) = request.buffer.addingReportingOverflow(bufferBytes)
            if bufferOverflow || bufferEnd > UInt64(arenaBytes) { return .badRequest }
            if request.buffer % UInt64(Limits.arenaGranule) != 0 { return .badRequest }
        }
        return .ok
    }
}
