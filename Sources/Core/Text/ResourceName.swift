/// A name that a user gives to a resource: a DNS label (RFC 1123 §2.1), lower case, 1 to 63 characters.
public struct ResourceName: Hashable, Sendable, CustomStringConvertible, Comparable {
    /// The text.
    public let text: String

    /// The most characters in a name.
    public static let lengthMax = 63
    /// What a wrong name is told.
    public static let rule =
        "1 to 63 characters of a-z, 0-9 and '-', starting and ending with a letter or digit"

    /// A name; nil where the text breaks `rule`.
    public init?(_ text: String) {
        let utf8 = Array(text.utf8)
        guard (1...ResourceName.lengthMax).contains(utf8.count), utf8.allSatisfy(ResourceName.isAllowed),
            let first = utf8.first, let last = utf8.last, first != UInt8(ascii: "-"),
            last != UInt8(ascii: "-")
        else { return nil }
        self.text = text
    }

    private static func isAllowed(_ character: UInt8) -> Bool {
        switch character {
        case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "0")...UInt8(ascii: "9"), UInt8(ascii: "-"):
            true
        default: false
        }
    }

    /// The text.
    public var description: String { text }

    /// Orders by text.
    public static func < (left: ResourceName, right: ResourceName) -> Bool { left.text < right.text }
}
