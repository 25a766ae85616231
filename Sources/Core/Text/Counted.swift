extension BinaryInteger {
    /// So many of something in words: `1 request`, `2 requests`; or what they do, such as `1 request waits`.
    ///
    /// - Parameter many: what more than one are called; nil for `one` with an s.
    public func counted(_ one: String, _ many: String? = nil) -> String {
        self == 1 ? "1 \(one)" : "\(self) \(many ?? one + "s")"
    }
}
