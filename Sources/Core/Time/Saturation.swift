// Sums and products of numbers that somebody else chose: what does not fit is the largest number, never a trap.

extension FixedWidthInteger where Self: UnsignedInteger {
    /// The sum, or the largest number where it does not fit.
    @inlinable
    public func addingSaturated(_ other: Self) -> Self {
        let (sum, overflow) = addingReportingOverflow(other)
        return overflow ? .max : sum
    }

    /// The difference, or 0 where it is negative.
    @inlinable
    public func subtractingSaturated(_ other: Self) -> Self { self > other ? self - other : 0 }

    /// The product, or the largest number where it does not fit.
    @inlinable
    public func multipliedSaturated(by other: Self) -> Self {
        let (product, overflow) = multipliedReportingOverflow(by: other)
        return overflow ? .max : product
    }
}

/// Lengths of time in nanoseconds, of lengths that somebody else may have chosen.
public enum Nanoseconds {
    /// So many seconds; the largest number, 584 years, where that is more.
    @inlinable
    public static func seconds(_ count: UInt64) -> UInt64 { count.multipliedSaturated(by: 1_000_000_000) }

    /// So many milliseconds; the largest number where that is more.
    @inlinable
    public static func milliseconds(_ count: UInt64) -> UInt64 { count.multipliedSaturated(by: 1_000_000) }
}
