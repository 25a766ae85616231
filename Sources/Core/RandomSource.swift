/// A source of unpredictable bytes.
public protocol RandomSource: Sendable {
    /// Exactly `count` bytes.
    func bytes(_ count: Int) -> [UInt8]
}
