import Core

extension Limits {
    /// The longest read or write of the drivers here, in bytes.
    static let driverTransferBytesMax: UInt32 = 1 << 20
    /// The most requests of one reactor that the `file` driver has in the kernel at a time.
    static let fileOperationsMax = 1024
    /// The piece in which the `file` driver writes zeroes where the file system has no better way, in bytes.
    static let fileZeroPieceBytes = 1 << 20
    /// What the `memory` driver takes and gives back at a time, in bytes.
    static let memoryChunkBytes = 2 << 20
    /// The largest volume of the `memory` driver, in bytes: address space, not memory.
    static let memoryVolumeBytesMax: UInt64 = 16 << 40
    /// What a `memory` pool holds where its settings do not say, in bytes.
    static let memoryPoolBytesDefault: UInt64 = 1 << 30
}
