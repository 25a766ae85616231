/// Where a control API is: host and port, written as a URL.
public struct ServerAddress: Sendable, Hashable, CustomStringConvertible {
    /// A DNS name or an IP address, without brackets.
    public let host: String
    /// The TCP port.
    public let port: UInt16

    /// The control API's port where none is given.
    public static let defaultPort: UInt16 = 7480

    /// Reads `https://HOST[:PORT]`, or the same without `https://`; an IPv6 address is in brackets.
    public init(text: String) throws(ClientError) {
        guard let (host, port) = Self.parse(text) else {
            throw ClientError(
                kind: .caller, code: "BAD_SERVER", detail: "'\(text)' is no server address",
                advice:
                    "Write it as https://HOST:PORT, such as https://io1.example:7480 or https://[::1]:7480.")
        }
        self.host = host
        self.port = port
    }

    private static func parse(_ text: String) -> (String, UInt16)? {
        var rest = Substring(text)
        if let scheme = rest.range(of: "://") {
            guard rest[..<scheme.lowerBound] == "https" else { return nil }
            rest = rest[scheme.upperBound...]
        }
        if rest.hasSuffix("/") { rest = rest.dropLast() }
        var port = Substring(String(defaultPort))
        var host = rest
        if rest.hasPrefix("[") {
            guard let end = rest.firstIndex(of: "]") else { return nil }
            host = rest[rest.index(after: rest.startIndex)..<end]
            let after = rest[rest.index(after: end)...]
            guard after.isEmpty || after.hasPrefix(":") else { return nil }
            if !after.isEmpty { port = after.dropFirst() }
        } else if let colon = rest.lastIndex(of: ":") {
            host = rest[..<colon]
            port = rest[rest.index(after: colon)...]
            guard !host.contains(":") else { return nil }
        }
        let isHost =
            !host.isEmpty && host.utf8.count <= 253
            && host.utf8.allSatisfy(isHostByte)
        guard isHost, let number = UInt16(port), number > 0 else { return nil }
        return (String(host), number)
    }

    /// What names and addresses have, zones included: nothing that a shell understands, where one is printed to be
    /// copied.
    private static func isHostByte(_ byte: UInt8) -> Bool {
        switch byte {
        case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"),
            UInt8(ascii: "0")...UInt8(ascii: "9"):
            true
        default: ".-_:%".utf8.contains(byte)
        }
    }

    /// Host and port as they stand in an authority.
    public var authority: String { host.contains(":") ? "[\(host)]:\(port)" : "\(host):\(port)" }

    /// The URL.
    public var description: String { "https://\(authority)" }
}

extension Substring {
    fileprivate func range(of text: String) -> Range<Index>? { ranges(of: text).first }
}
