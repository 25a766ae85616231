import Catalog
import Core
import HTTPTypes

/// Who asks, after the certificate was held against the catalog.
enum Caller: Sendable {
    /// Nobody that is known.
    case anonymous
    /// May do everything.
    case admin(AdminRecord)
    /// May look at everything.
    case observer(String)
    /// May see and use what is its own.
    case node(NodeRecord)

    /// Who it is, so that no other is taken for it: a new node or administrator of an old name, or one with a new key, is
    /// another.
    var identity: String {
        switch self {
        case .anonymous, .observer: name
        case .admin(let admin): "admin:\(admin.id.hex):\(admin.keyThumbprint?.hex ?? "")"
        case .node(let node): "node:\(node.id.hex):\(node.keyThumbprint?.hex ?? "")"
        }
    }

    /// The text that logs use, such as `node:compute-1`.
    var name: String {
        switch self {
        case .anonymous: "anonymous"
        case .admin(let admin): "admin:\(admin.name)"
        case .observer(let name): "observer:\(name)"
        case .node(let node): "node:\(node.name)"
        }
    }

    /// The node, when it is one.
    var node: NodeRecord? {
        if case .node(let node) = self { node } else { nil }
    }
}

/// A request that was matched to a route and is allowed.
struct RequestContext: Sendable {
    let request: ControlRequest
    let parameters: [String: String]
    let caller: Caller
    /// Where the answer must be recorded together with the changes; nil without an `Idempotency-Key`.
    var idempotency: IdempotencySlot?

    /// The `{name}` of the path.
    var name: String { parameters["name"] ?? "" }

    /// The `{id}` of the path; nil when it is none.
    var id: Identifier? {
        guard let text = parameters["id"], let id = Identifier(hex: text), id.hex == text else { return nil }
        return id
    }

    /// The body as an object with no member but `known`. An empty body is an empty object, but for a PATCH: there it is
    /// a mistake.
    func fields(known: [String]) throws(Problem) -> Fields {
        guard !request.body.isEmpty else {
            guard request.method != .patch else {
                throw Problem(
                    .invalidJSON, "there is no body, so there is nothing to change",
                    expected: "one JSON object (RFC 7396)")
            }
            return try Fields(.object([:]), known: known)
        }
        let value: JSONValue
        do throws(JSONError) { value = try JSONParser.parse(request.body) } catch {
            throw Problem(
                .invalidJSON, "\(error.reason), at byte \(error.offset)",
                expected: "one JSON object (RFC 8259)")
        }
        return try Fields(value, known: known)
    }

    /// The page that the query asks for.
    func page() throws(Problem) -> PageRequest { try PageRequest(request) }

    /// A boolean query parameter; false when it is not there.
    func flag(_ name: String) throws(Problem) -> Bool {
        try optionalFlag(name) ?? false
    }

    /// A boolean query parameter; nil when it is not there.
    func optionalFlag(_ name: String) throws(Problem) -> Bool? {
        switch request.queryValue(name) {
        case nil: nil
        case "true": true
        case "false": false
        default:
            throw Problem(
                .invalidParameter, "\(name) is not a boolean", field: name, expected: "true or false")
        }
    }

    /// A query parameter that holds a resource name; nil when it is not there.
    func nameFilter(_ name: String) throws(Problem) -> String? {
        guard let text = request.queryValue(name) else { return nil }
        guard ResourceName(text) != nil else {
            throw Problem(
                .invalidParameter, "\(name) is not a name", field: name, expected: ResourceName.rule)
        }
        return text
    }

    /// The query parameter `resource`; nil when it is not there.
    func resourceFilter() throws(Problem) -> (kind: ResourceKind, name: String)? {
        guard let text = request.queryValue("resource") else { return nil }
        guard let resource = Fields.resource(text) else {
            throw Problem(
                .invalidParameter, "resource is not a resource", field: "resource",
                expected: Kinds.reference)
        }
        return resource
    }

    /// Refuses when `If-Match` is there and does not name `tag` (RFC 9110 §13.1.1).
    func checkPrecondition(_ tag: String) throws(Problem) {
        guard let condition = request.headers[.ifMatch] else { return }
        let tags = condition.split(separator: ",").map { part in
            part.drop { $0 == " " || $0 == "\t" }.reversed().drop { $0 == " " || $0 == "\t" }.reversed()
        }.map { String($0) }
        guard tags == ["*"] || tags.contains(tag) else {
            throw Problem(
                .preconditionFailed, "it changed since you read it: read it again, then repeat",
                field: "If-Match",
                expected: tag)
        }
    }
}

/// Which part of a list is asked for.
struct PageRequest: Sendable {
    let limit: Int
    /// The key of the last item of the page before; nil for the first page.
    let after: String?

    init(_ request: ControlRequest) throws(Problem) {
        let range = 1...Limits.pageItemsMax
        if let text = request.queryValue("limit") {
            guard text.utf8.count <= 9, text.utf8.allSatisfy({ (48...57).contains($0) }),
                let number = Int(text), range.contains(number)
            else {
                throw Problem(
                    .invalidParameter, "limit is out of range", field: "limit",
                    expected: "a whole number from \(range.lowerBound) to \(range.upperBound)")
            }
            limit = number
        } else {
            limit = Limits.pageItemsDefault
        }
        guard let cursor = request.queryValue("cursor") else {
            after = nil
            return
        }
        guard cursor.hasPrefix("c1"), cursor.utf8.count <= 256,
            let bytes = Base64URL.decode(cursor.dropFirst(2)),
            let key = String(validating: bytes, as: UTF8.self),
            !key.isEmpty
        else {
            throw Problem(
                .invalidCursor, "the cursor is not one that this server gave", field: "cursor",
                expected: "nextCursor of the page before")
        }
        after = key
    }

    /// The text that asks for what comes after `key`.
    static func cursor(after key: String) -> String { "c1" + Base64URL.encode(Array(key.utf8)) }

    /// The answer with at most `limit` of `items`; callers fetch one more to learn whether there is a next page.
    func answer(_ items: [(key: String, value: JSONValue)]) -> ControlResponse {
        var members: [String: JSONValue] = ["items": .array(items.prefix(limit).map(\.value))]
        if items.count > limit, limit > 0 {
            members["nextCursor"] = .string(PageRequest.cursor(after: items[limit - 1].key))
        }
        return ControlResponse(status: .ok, json: .object(members))
    }
}

extension ControlResponse {
    /// A JSON answer.
    init(status: HTTPResponse.Status, json: JSONValue, tag: String? = nil, location: String? = nil) {
        var headers: HTTPFields = [.contentType: "application/json"]
        headers[.eTag] = tag
        headers[.location] = location
        self.init(status: status, headers: headers, body: json.text)
    }
}

extension NamedRecord {
    /// The entity tag (RFC 9110 §8.8.3): another one after every change, also for a new resource of an old name.
    var entityTag: String { "\"\(id.hex.prefix(8))-\(version)\"" }

    /// Notes a change.
    mutating func touch(_ now: UInt64) {
        version += 1
        updatedAt = now
    }
}
