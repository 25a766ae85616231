import Core

extension Limits {
    /// How often a pool's lock is tried.
    static let poolLockAttemptsMax = 100
    /// How long to wait before it is tried again, in milliseconds.
    static let poolLockAttemptMilliseconds: Int32 = 20
    /// The longest read or write of the drivers here, in bytes.
    static let driverTransferBytesMax: UInt32 = 1 << 20
    /// The most requests of one reactor that the `file` driver has in the kernel at a time.
    static let fileOperationsMax = 1024
    /// The piece in which the `file` driver writes zeroes where the file system has no better way, in bytes.
    static let fileZeroPieceBytes = 1 << 20
    /// The piece in which a file system zeroes by its own means, in bytes.
    static let fileZeroRangeBytes: UInt64 = 4 << 20
    /// The piece in which space is given back, in bytes: a fragmented file stands for as long as the kernel works at one.
    static let filePunchBytes: UInt64 = 64 << 20
    /// What the `file` driver pins of an arena at a time, in bytes.
    static let filePinnedPieceBytes = 2 << 20
    /// The part of a file system that a pool in a folder leaves to others: one so-manieth, within these bytes, and beyond
    /// the least of them one so-manieth and at most so many bytes of a small one.
    static let poolMarginShare: UInt64 = 64
    static let poolMarginSmallShare: UInt64 = 16
    static let poolMarginSmallBytes: UInt64 = 16 << 20
    static let poolMarginBytes: ClosedRange<UInt64> = 1 << 20...256 << 20
    /// How much is written between two looks at the space that is left: one so-manieth of that, within these bytes.
    static let spaceLookShare: UInt64 = 64
    static let spaceLookBytes: ClosedRange<UInt64> = 256 << 10...1 << 30
    /// The piece in which a device is zeroed, in bytes.
    static let deviceZeroPieceBytes: UInt64 = 16 << 20
    /// How long a device is zeroed before others have their turn, in nanoseconds.
    static let deviceZeroNanoseconds: UInt64 = 1_000_000_000
    /// How many places of a device are looked at before it counts as blank, and how much of each, in bytes.
    static let blankPlaces: UInt64 = 62
    static let blankPlaceBytes = 64 << 10
    /// The most names of a folder that a note tells.
    static let strangeNamesTold = 3
    /// What the `memory` driver takes and gives back at a time, in bytes.
    static let memoryChunkBytes = 2 << 20
    /// The largest volume of the `memory` driver, in bytes: address space, not memory.
    static let memoryVolumeBytesMax: UInt64 = 16 << 40
    /// What a `memory` pool holds where its settings do not say, in bytes.
    static let memoryPoolBytesDefault: UInt64 = 1 << 30
    /// The most requests of one reactor that the `fault` driver has under way, held back or hung at a time.
    static let faultOperationsMax = 1024
    /// The piece in which the `fault` driver prepares a device slowly, in bytes.
    static let faultPreparationBytes: UInt64 = 16 << 20
    /// The most pieces that the `fault` driver puts back at a time after a power cut.
    static let faultRestoresMax = 64
    /// How much of what unflushed writes replaced the `fault` driver keeps for a power cut, in bytes.
    static let faultUnflushedBytesMax = 64 << 20
    /// The longest text of rules, in bytes.
    static let faultRulesBytesMax = 4096
    /// The most rules of a pool.
    static let faultRulesMax = 64
    /// The longest delay that a rule can ask for, in nanoseconds.
    static let faultDelayNanosecondsMax: UInt64 = 600_000_000_000
}
