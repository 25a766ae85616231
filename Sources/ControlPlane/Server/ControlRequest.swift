import HTTPTypes
import Reactor

/// One request to the control API, whole and within the limits.
public struct ControlRequest: Sendable {
    /// One `name=value` of the query, decoded.
    public struct QueryItem: Sendable, Hashable {
        /// The part before `=`.
        public var name: String
        /// The part after `=`; empty when there is none.
        public var value: String

        /// An item of its two parts.
        public init(name: String, value: String) {
            self.name = name
            self.value = value
        }
    }

    /// The method, such as `GET`.
    public var method: HTTPRequest.Method
    /// The path as it was sent, without the query; begins with `/`.
    public var path: String
    /// The parts of the path between slashes, decoded; `/v1/volumes/a` has three. A slash at the end adds
    /// none.
    public var segments: [String]
    /// The query in the order in which it was sent.
    public var query: [QueryItem]
    /// The fields of the head, without the pseudo fields.
    public var headers: HTTPFields
    /// Host and port as the client wrote them; nil when it sent none.
    public var authority: String?
    /// The body; empty when there is none.
    public var body: [UInt8]
    /// Who asks.
    public var peer: PeerIdentity
    /// Where the request came from.
    public var remoteAddress: SocketAddress?

    /// A request of its parts, for tests as well.
    ///
    /// - Parameter target: path and query as in the request line, such as `/v1/volumes?limit=2`.
    /// - Returns: nil when the target is not a path, holds a bad percent-escape, a zero byte or text that is
    ///   not UTF-8.
    public init?(
        method: HTTPRequest.Method, target: String, headers: HTTPFields = HTTPFields(),
        authority: String? = nil,
        body: [UInt8] = [], peer: PeerIdentity = .anonymous, remoteAddress: SocketAddress? = nil
    ) {
        guard let parsed = RequestTarget(target) else { return nil }
        self.method = method
        self.path = parsed.path
        self.segments = parsed.segments
        self.query = parsed.query
        self.headers = headers
        self.authority = authority
        self.body = body
        self.peer = peer
        self.remoteAddress = remoteAddress
    }

    /// The first value that the query has for a name.
    public func queryValue(_ name: String) -> String? { query.first { $0.name == name }?.value }
}
