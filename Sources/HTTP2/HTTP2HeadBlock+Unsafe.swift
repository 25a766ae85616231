import CNGHTTP2
import HTTPTypes

/// The head of a message, laid out for the library: made once, usable for any number of messages.
///
/// A server whose answers share their header fields keeps one block for each kind of answer.
public struct HTTP2HeadBlock: Sendable {
    private struct Field: Sendable {
        var nameOffset: Int
        var nameCount: Int
        var valueCount: Int
        var isSecret: Bool
    }

    private var text: [UInt8] = []
    private var fields: [Field] = []
    /// Whether a `content-length` is among the fields.
    public private(set) var hasContentLength = false
    /// Whether messages with this head may carry a body (RFC 9110 §6.4.1).
    public private(set) var mayHaveBody = true

    /// The head of an answer.
    public init(_ response: HTTPResponse) {
        self.init(status: response.status.code)
        for field in response.headerFields { append(field) }
    }

    /// The head of an answer that has no fields yet.
    ///
    /// - Parameter status: 100...599.
    public init(status: Int) {
        text.reserveCapacity(256)
        fields.reserveCapacity(8)
        mayHaveBody = status >= 200 && status != 204 && status != 304
        append(name: ":status", value: String(status))
    }

    init(_ request: HTTPRequest) {
        text.reserveCapacity(256)
        append(name: ":method", value: request.method.rawValue)
        append(name: ":scheme", value: request.scheme ?? "https")
        if let authority = request.authority { append(name: ":authority", value: authority) }
        append(name: ":path", value: request.path ?? "/")
        for field in request.headerFields { append(field) }
    }

    /// Adds a field. The name must be lower-case, as HTTP/2 wants it.
    public mutating func append(name: String, value: String) {
        append(nameUTF8: name.utf8, valueUTF8: value.utf8, isSecret: false)
        if name == "content-length" { hasContentLength = true }
    }

    mutating func append(_ field: HTTPField) {
        let name = field.name.canonicalName
        append(
            nameUTF8: name.utf8, valueUTF8: field.value.utf8, isSecret: field.indexingStrategy == .disallow)
        if name == "content-length" { hasContentLength = true }
    }

    private mutating func append(nameUTF8: String.UTF8View, valueUTF8: String.UTF8View, isSecret: Bool) {
        let offset = text.count
        text.append(contentsOf: nameUTF8)
        let nameCount = text.count - offset
        text.append(contentsOf: valueUTF8)
        let valueCount = text.count - offset - nameCount
        fields.append(
            Field(nameOffset: offset, nameCount: nameCount, valueCount: valueCount, isSecret: isSecret))
    }

    /// Calls `body` with the fields as the library takes them; the pointers are valid during the call only.
    func withFields<Result>(_ body: (UnsafePointer<nghttp2_nv>?, Int) -> Result) -> Result {
        unsafe text.withUnsafeBufferPointer { text in
            unsafe withUnsafeTemporaryAllocation(of: nghttp2_nv.self, capacity: fields.count) { list in
                // The library takes mutable pointers and does not write through them without its NO_COPY
                // flags.
                let base = unsafe UnsafeMutablePointer(mutating: text.baseAddress)
                for (index, field) in fields.enumerated() {
                    let flags = field.isSecret ? NGHTTP2_NV_FLAG_NO_INDEX : NGHTTP2_NV_FLAG_NONE
                    unsafe list.initializeElement(
                        at: index,
                        to: nghttp2_nv(
                            name: base.map { unsafe $0 + field.nameOffset },
                            value: unsafe base.map { unsafe $0 + field.nameOffset + field.nameCount },
                            namelen: field.nameCount, valuelen: field.valueCount,
                            flags: UInt8(flags.rawValue)))
                }
                return unsafe body(UnsafePointer(list.baseAddress), fields.count)
            }
        }
    }
}
