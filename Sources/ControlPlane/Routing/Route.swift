import Core
import HTTPTypes

/// One operation of the control API: where it is, who may use it, which query parameters it knows, what it does.
struct Route: Sendable {
    /// Answers a request that was matched, authenticated and authorised.
    typealias Handler = @Sendable (ControlPlane) -> (RequestContext) async throws(Problem) -> ControlResponse

    let method: HTTPRequest.Method
    /// The path with parameters in braces, exactly as in `API/openapi.yaml`.
    let template: String
    /// The roles that may use it; empty for everybody, also without a certificate.
    let roles: Set<PeerRole>
    /// The query parameters that it knows; any other is refused.
    let query: [String]
    let handler: Handler
    /// Whether an `Idempotency-Key` counts here.
    let isIdempotent: Bool
    /// Whether it takes authority away, so that an administrator's goes before all else.
    let isUrgent: Bool
    /// Whether a node may use it whose certificate has ended, for a while.
    let admitsExpired: Bool
    let segments: [Segment]

    /// One part of the path.
    enum Segment: Sendable, Hashable {
        case literal(String)
        case parameter(String)
    }

    init(
        _ method: HTTPRequest.Method, _ template: String, _ roles: Set<PeerRole>, query: [String] = [],
        idempotent: Bool = false, urgent: Bool = false, admitsExpired: Bool = false,
        _ handler: @escaping Handler
    ) {
        self.method = method
        self.template = template
        self.roles = roles
        self.query = query
        self.handler = handler
        isIdempotent = idempotent
        isUrgent = urgent
        self.admitsExpired = admitsExpired
        segments = template.split(separator: "/").map { part in
            part.hasPrefix("{") ? .parameter(String(part.dropFirst().dropLast())) : .literal(String(part))
        }
    }

    /// The values of the parameters when the path is this route's; nil when it is not.
    func match(_ path: [String]) -> [String: String]? {
        guard path.count == segments.count else { return nil }
        var parameters: [String: String] = [:]
        for (segment, part) in zip(segments, path) {
            switch segment {
            case .literal(let text): guard text == part else { return nil }
            case .parameter(let name): parameters[name] = part
            }
        }
        return parameters
    }
}
