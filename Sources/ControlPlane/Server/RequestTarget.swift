/// Path and query of a request line, taken apart once (RFC 3986 §3.3, §3.4).
struct RequestTarget {
    let path: String
    let segments: [String]
    let query: [ControlRequest.QueryItem]

    /// Nil when the text is not a path with an optional query, or cannot be decoded.
    init?(_ target: String) {
        guard target.utf8.first == UInt8(ascii: "/") else { return nil }
        let parts = target.utf8.split(
            separator: UInt8(ascii: "?"), maxSplits: 1, omittingEmptySubsequences: false)
        guard let first = parts.first, let path = String(Substring(first).utf8) else { return nil }
        guard !path.utf8.contains(UInt8(ascii: "#")) else { return nil }
        guard let segments = Self.segments(of: path) else { return nil }
        guard let query = parts.count > 1 ? Self.items(of: parts[1]) : [] else { return nil }
        self.path = path
        self.segments = segments
        self.query = query
    }

    // Bytes are split, not characters: a mark that follows a slash would join itself to it, and hide it.
    private static func segments(of path: String) -> [String]? {
        var result: [String] = []
        var parts = path.utf8.dropFirst().split(
            separator: UInt8(ascii: "/"), omittingEmptySubsequences: false)
        if parts.last?.isEmpty == true { parts.removeLast() }
        for part in parts {
            guard let segment = decode(part, plusIsSpace: false) else { return nil }
            result.append(segment)
        }
        return result
    }

    private static func items(of query: Substring.UTF8View) -> [ControlRequest.QueryItem]? {
        var result: [ControlRequest.QueryItem] = []
        for part in query.split(separator: UInt8(ascii: "&")) {
            let sides = part.split(
                separator: UInt8(ascii: "="), maxSplits: 1, omittingEmptySubsequences: false)
            guard let name = decode(sides[0], plusIsSpace: true) else { return nil }
            guard let value = sides.count > 1 ? decode(sides[1], plusIsSpace: true) : "" else { return nil }
            result.append(ControlRequest.QueryItem(name: name, value: value))
        }
        return result
    }

    private static func decode(_ text: Substring.UTF8View, plusIsSpace: Bool) -> String? {
        var bytes: [UInt8] = []
        bytes.reserveCapacity(text.count)
        var rest = text
        while let byte = rest.popFirst() {
            switch byte {
            case UInt8(ascii: "%"):
                guard let high = rest.popFirst().flatMap(hexDigit),
                    let low = rest.popFirst().flatMap(hexDigit)
                else { return nil }
                guard high << 4 | low != 0 else { return nil }
                bytes.append(high << 4 | low)
            case UInt8(ascii: "+") where plusIsSpace: bytes.append(UInt8(ascii: " "))
            case 0: return nil
            default: bytes.append(byte)
            }
        }
        return String(validating: bytes, as: UTF8.self)
    }

    private static func hexDigit(_ byte: UInt8) -> UInt8? {
        switch byte {
        case UInt8(ascii: "0")...UInt8(ascii: "9"): byte - UInt8(ascii: "0")
        case UInt8(ascii: "a")...UInt8(ascii: "f"): byte - UInt8(ascii: "a") + 10
        case UInt8(ascii: "A")...UInt8(ascii: "F"): byte - UInt8(ascii: "A") + 10
        default: nil
        }
    }
}
