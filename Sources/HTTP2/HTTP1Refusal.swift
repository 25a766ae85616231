/// The twenty-four bytes that every HTTP/2 client sends first (RFC 9113 §3.4).
let connectionPreface: [UInt8] = Array("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".utf8)

/// Most bytes of a foreign request that are looked at.
let refusalLookAheadBytes = 16

/// A readable refusal for a client whose first bytes look like an HTTP/1 request line; nil when they do not.
///
/// - Parameter firstBytes: what the client has sent so far; the first sixteen bytes are enough.
public func nonHTTP2Refusal(_ firstBytes: [UInt8]) -> [UInt8]? {
    guard looksLikeHTTP1(firstBytes) else { return nil }
    let text = """
        This server speaks HTTP/2 only, and this client asked in HTTP/1.
        With curl: add --http2 (over https every curl built with HTTP/2 does it by itself).

        """
    let head = """
        HTTP/1.1 505 HTTP Version Not Supported\r
        content-type: text/plain; charset=utf-8\r
        content-length: \(text.utf8.count)\r
        connection: close\r
        \r

        """
    return Array(head.utf8) + Array(text.utf8)
}

/// Whether the bytes are an upper-case method of at most nine letters and a space, or the start of one.
private func looksLikeHTTP1(_ bytes: [UInt8]) -> Bool {
    var letters = 0
    for byte in bytes.prefix(refusalLookAheadBytes) {
        if byte == UInt8(ascii: " ") { return letters > 0 }
        guard byte >= UInt8(ascii: "A"), byte <= UInt8(ascii: "Z"), letters < 9 else { return false }
        letters += 1
    }
    return letters >= 3
}
