import Core

extension Limits {
    /// The longest key, in bytes of UTF-8.
    public static let catalogKeyBytesMax = 512
    /// The largest value, in bytes.
    public static let catalogValueBytesMax = 1 << 18
    /// The most puts, deletes and conditions of one transaction, each.
    public static let catalogOperationsMax = 10_000
    /// What is kept for the day on which the file system is full, in bytes: one so-manieth of it, and at most so much.
    static let catalogReserveBytes: UInt64 = 16 << 20
    static let catalogReserveShare: UInt64 = 16
    /// With less than this left at the start, in bytes, what is kept is let go of at once.
    static let catalogFreeBytesMin: UInt64 = 2 << 20
    /// The most entries that one `list` returns.
    public static let catalogPageEntriesMax = 1000
}
