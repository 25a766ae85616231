import Catalog
import Core
import HTTPTypes
import Services

/// A refusal or a failure of the control API, answered as `application/problem+json` (RFC 9457).
public struct Problem: Error, Sendable, Hashable {
    /// The stable code.
    public let code: ProblemCode
    /// One sentence about this very case, with what to do next where that is known.
    public let detail: String
    /// The field, parameter or header that is wrong, such as `labels.rack`.
    public var field: String?
    /// What would be right.
    public var expected: String?
    /// The methods that the path allows; only with `methodNotAllowed`.
    public var allow: String?

    /// A problem.
    public init(_ code: ProblemCode, _ detail: String, field: String? = nil, expected: String? = nil) {
        self.code = code
        self.detail = detail
        self.field = field
        self.expected = expected
    }

    /// What a field must be instead.
    static func invalid(_ field: String, _ detail: String, expected: String) -> Problem {
        Problem(.invalidField, "\(field) \(detail)", field: field, expected: expected)
    }

    /// There is no resource of that kind with that name.
    static func notFound(_ kind: String, _ name: String) -> Problem {
        Problem(.notFound, "there is no \(kind) \(name.prefix(80))")
    }

    /// The name is taken.
    static func exists(_ kind: String, _ name: String) -> Problem {
        Problem(.alreadyExists, "there is a \(kind) \(name) already", field: "name", expected: "another name")
    }

    /// What a service action failed with.
    init(_ error: StatusError) {
        self.init(ProblemCode.of(error.status), error.message)
    }

    /// What the catalog failed with.
    init(_ error: CatalogError) {
        switch error {
        case .conflict: self.init(.conflict, "another change came first: read it again, then repeat")
        case .full: self.init(.noSpace, error.description)
        case .tooLarge: self.init(.limitReached, error.description)
        default: self.init(.catalogFailed, error.description)
        }
    }

    /// The answer.
    var response: ControlResponse {
        var members: [String: JSONValue] = [
            "type": .string("urn:sluice:problem:\(code.rawValue)"), "title": .string(code.title),
            "status": .integer(UInt64(code.httpStatus)), "code": .string(code.rawValue),
            "detail": .string(detail),
        ]
        members["field"] = field.map(JSONValue.string)
        members["expected"] = expected.map(JSONValue.string)
        var headers: HTTPFields = [.contentType: "application/problem+json"]
        if let allow { headers[.allow] = allow }
        if code == .unauthenticated { headers[.wwwAuthenticate] = "Mutual" }
        if code == .busy || code == .notReady { headers[.retryAfter] = "1" }
        return ControlResponse(
            status: HTTPResponse.Status(code: code.httpStatus), headers: headers,
            body: JSONValue.object(members).text)
    }
}
