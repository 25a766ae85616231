import Core

extension Limits {
    /// The longest key, in bytes of UTF-8.
    public static let catalogKeyBytesMax = 512
    /// The largest value, in bytes.
    public static let catalogValueBytesMax = 1 << 18
    /// The most puts, deletes and conditions of one transaction, each.
    public static let catalogOperationsMax = 10_000
    /// The most entries that one `list` returns.
    public static let catalogPageEntriesMax = 1000
}
