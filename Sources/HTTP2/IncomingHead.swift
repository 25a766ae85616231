import HTTPTypes

/// A message head while its fields arrive, held to a maximum.
struct IncomingHead {
    var method = ""
    var scheme = ""
    var authority = ""
    var path: String?
    var status = 0
    var fields = HTTPFields()
    /// Bytes so far, counted as RFC 9113 §6.5.2 does.
    private(set) var countedBytes = 0
    private(set) var isTooLarge = false
    /// A field that the library let through and that cannot be represented.
    private(set) var isMalformed = false

    private static let overheadBytes = 32

    mutating func append(name: UnsafeRawBufferPointer, value: UnsafeRawBufferPointer, maximum: Int) {
        countedBytes += name.count + value.count + Self.overheadBytes
        guard countedBytes <= maximum, !isTooLarge else {
            isTooLarge = true
            fields = HTTPFields()
            return
        }
        let nameText = unsafe String(decoding: name, as: UTF8.self)
        if unsafe name.first == UInt8(ascii: ":") {
            unsafe setPseudoField(nameText, String(decoding: value, as: UTF8.self))
        } else if let fieldName = HTTPField.Name(parsed: nameText) {
            unsafe fields.append(HTTPField(name: fieldName, value: value))
        } else {
            isMalformed = true
        }
    }

    private mutating func setPseudoField(_ name: String, _ value: String) {
        switch name {
        case ":method": method = value
        case ":scheme": scheme = value
        case ":authority": authority = value
        case ":path": path = value
        case ":status": status = Int(value) ?? 0
        default: isMalformed = true
        }
    }

    /// The request, or nil when the method is no token.
    func request() -> HTTPRequest? {
        guard !isMalformed, let method = HTTPRequest.Method(method) else { return nil }
        let scheme = scheme.isEmpty ? nil : scheme
        let authority = authority.isEmpty ? nil : authority
        return HTTPRequest(
            method: method, scheme: scheme, authority: authority, path: path, headerFields: fields)
    }

    /// The response, or nil when there is no proper status.
    func response() -> HTTPResponse? {
        guard !isMalformed, (100...599).contains(status) else { return nil }
        return HTTPResponse(status: HTTPResponse.Status(code: status), headerFields: fields)
    }
}
