/// A number of bytes as a user writes and reads it, such as `4k`, `512MB` or `1GiB`.
///
/// `k m g t p` and `KiB MiB …` are powers of 1,024; `kB MB …` are powers of 1,000.
public struct ByteCount: Hashable, Sendable, CustomStringConvertible {
    /// The number of bytes.
    public let bytes: UInt64

    /// A count from a number.
    public init(_ bytes: UInt64) {
        self.bytes = bytes
    }

    /// What a wrong text is told.
    public static let rule = "a whole number with an optional unit, such as 4096, 4k, 512MiB, 1GiB or 10GB"

    /// A count from text; nil for anything but a whole number and a known unit, or on overflow.
    public init?(text: String) {
        let digits = text.prefix { $0.isASCII && $0.isNumber }
        guard let number = UInt64(digits), let scale = ByteCount.scale(of: text.dropFirst(digits.count))
        else {
            return nil
        }
        let (product, overflow) = number.multipliedReportingOverflow(by: scale)
        guard !overflow else { return nil }
        bytes = product
    }

    private static func scale(of unit: Substring) -> UInt64? {
        let lower = unit.lowercased()
        if lower.isEmpty || lower == "b" { return 1 }
        guard let letter = lower.first, let power = ["k", "m", "g", "t", "p"].firstIndex(of: String(letter))
        else {
            return nil
        }
        let base: UInt64
        switch lower.dropFirst() {
        case "", "ib": base = 1024
        case "b": base = 1000
        default: return nil
        }
        return (0...power).reduce(1) { scale, _ in scale * base }
    }

    /// The shortest exact text in powers of 1,024, such as `1GiB`; one decimal where it is not exact.
    public var description: String {
        let units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"]
        var scale: UInt64 = 1
        var unit = 0
        while unit < units.count - 1, bytes / scale >= 1024 {
            scale *= 1024
            unit += 1
        }
        if bytes.isMultiple(of: scale) { return "\(bytes / scale)\(units[unit])" }
        let tenths = UInt64((Double(bytes) / Double(scale) * 10).rounded())
        return "\(tenths / 10).\(tenths % 10)\(units[unit])"
    }
}
