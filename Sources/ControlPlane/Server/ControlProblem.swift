import HTTP2
import HTTPTypes

/// The answers that the server gives before a request reaches the handler: problem documents (RFC 9457).
enum ControlProblem: CaseIterable {
    case badTarget
    case headTooLarge
    case bodyTooLarge
    case busy

    private var parts: (status: Int, title: String, code: String, detail: String) {
        switch self {
        case .badTarget:
            (
                400, "The request is wrong", "INVALID_REQUEST",
                "The request's path is no path, or holds an escape that cannot be decoded."
            )
        case .headTooLarge:
            (
                431, "The header is too large", "HEADER_TOO_LARGE",
                "The request's header is larger than this server takes."
            )
        case .bodyTooLarge:
            (
                413, "The body is too large", "BODY_TOO_LARGE",
                "The request's body is larger than this server takes."
            )
        case .busy:
            (503, "The server is busy", "BUSY", "Too many requests are under way; try again in a second.")
        }
    }

    /// The body.
    var json: [UInt8] {
        let parts = parts
        let text =
            #"{"code":"\#(parts.code)","detail":"\#(parts.detail)","status":\#(parts.status),"#
            + #""title":"\#(parts.title)","type":"urn:sluice:problem:\#(parts.code)"}"# + "\n"
        return Array(text.utf8)
    }

    /// The head.
    var head: HTTP2HeadBlock {
        var head = HTTP2HeadBlock(status: parts.status)
        head.append(name: "content-type", value: "application/problem+json")
        if self == .busy { head.append(name: "retry-after", value: "1") }
        return head
    }

    /// The problem that a limit of the connection comes to.
    init(_ rejection: HTTP2Rejection) {
        switch rejection {
        case .headTooLarge: self = .headTooLarge
        case .bodyTooLarge: self = .bodyTooLarge
        case .connectionBusy: self = .busy
        }
    }
}

/// What a client that speaks plain text to the TLS port is told.
let plainTextRefusal: [UInt8] = {
    let text = "This port speaks HTTPS only. Ask with https:// instead of http://.\n"
    let head = [
        "HTTP/1.1 400 Bad Request", "content-type: text/plain; charset=utf-8",
        "content-length: \(text.utf8.count)", "connection: close", "", text,
    ]
    return Array(head.joined(separator: "\r\n").utf8)
}()
