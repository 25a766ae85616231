import Core
import HTTPTypes
import TLS

/// Asks the control API, one request after another, on one connection that is kept.
///
/// Blocks the calling thread, with a deadline for every wait; not for a reactor's thread. Confined to one
/// thread.
public final class ControlClient {
    /// The server that is asked.
    public let server: ServerAddress
    /// How long it waits.
    public var timeouts: ControlTimeouts

    private let context: TLSContext
    private var connection: BlockingConnection?

    /// A client of a server, with the certificate of `credentials`. Connects with the first request.
    ///
    /// - Parameter server: `https://HOST[:PORT]`; nil takes the one that the credentials name.
    public convenience init(
        server: String? = nil, credentials: Credentials, timeouts: ControlTimeouts = ControlTimeouts()
    ) throws(ClientError) {
        guard let text = server ?? credentials.config.server else {
            throw .credentials(
                "the credentials in \(credentials.folder) name no server",
                "Name it by --server https://HOST:\(ServerAddress.defaultPort) or SLUICE_SERVER.")
        }
        try self.init(
            server: ServerAddress(text: text), identity: credentials.identity,
            trust: .authority(caPEM: credentials.authorityPEM), timeouts: timeouts)
    }

    /// A client with a trust and an identity of its own; without an identity only the open routes answer.
    public init(
        server: ServerAddress, identity: TLSContext.Identity?, trust: ServerTrust,
        timeouts: ControlTimeouts = ControlTimeouts()
    ) throws(ClientError) {
        self.server = server
        self.timeouts = timeouts
        do {
            context = try TLSContext.client(identity: identity, trust: trust, alpn: ["h2"])
        } catch {
            throw .credentials("\(error)", "Are ca.pem, cert.pem and key.pem of one cluster and one key?")
        }
    }

    /// Sends one request and returns its answer, when its status is below 400.
    ///
    /// When a kept connection turns out to be dead, the client sends a request once more on a new one if the server has
    /// certainly not acted on it, or if it may be repeated (GET, HEAD, PUT, DELETE, or one with an `idempotency-key`).
    /// - Parameter path: begins with `/`; already percent-escaped.
    /// - Parameter query: names and values as they are; they are escaped here.
    /// - Throws: `ClientError`; with `status` when the server answered with 400 or more.
    public func request(
        _ method: HTTPRequest.Method, _ path: String, query: [(String, String)] = [],
        headers: HTTPFields = HTTPFields(), body: [UInt8]? = nil
    ) throws(ClientError) -> ControlAnswer {
        var request = head(method, path, query: query, headers: headers)
        if body != nil, headers[.contentType] == nil {
            request.headerFields[.contentType] = "application/json"
        }
        let answer = try send(request, body ?? [])
        guard answer.status < 400 else { throw .of(status: answer.status, body: answer.body) }
        return answer
    }

    /// Follows server-sent events (WHATWG HTML, §9.2) on a connection of its own, until the server ends the stream.
    ///
    /// - Parameter lastEventID: of the last event that is known; nil for new ones only.
    /// - Parameter silenceSeconds: how long the server may say nothing, not even a comment.
    /// - Parameter onEvent: false to hear no more.
    /// - Throws: `ClientError`; with `status` when the server answered with 400 or more.
    public func follow(
        _ path: String, query: [(String, String)] = [], lastEventID: String? = nil, silenceSeconds: Int = 60,
        onEvent: (EventStreamParser.Event) -> Bool
    ) throws(ClientError) {
        var headers: HTTPFields = [.accept: "text/event-stream"]
        if let lastEventID, let name = HTTPField.Name("last-event-id") { headers[name] = lastEventID }
        let fresh = try BlockingConnection(server: server, context: context, timeouts: timeouts)
        var parser = EventStreamParser()
        var isTooLong = false
        let answer = try fresh.follow(
            head(.get, path, query: query, headers: headers), silenceSeconds: silenceSeconds
        ) { bytes in
            guard let events = parser.take(bytes) else {
                isTooLong = true
                return false
            }
            return events.allSatisfy(onEvent)
        }
        guard answer.status < 400 else { throw .of(status: answer.status, body: answer.body) }
        if isTooLong {
            throw .broken(server, "an event is longer than \(EventStreamParser.eventBytesMax) bytes")
        }
    }

    private func head(
        _ method: HTTPRequest.Method, _ path: String, query: [(String, String)], headers: HTTPFields
    ) -> HTTPRequest {
        var request = HTTPRequest(
            method: method, scheme: "https", authority: server.authority,
            path: path + QueryText.encode(query), headerFields: headers)
        request.headerFields[.accept] = headers[.accept] ?? "application/json"
        request.headerFields[.userAgent] = "sluice"
        return request
    }

    /// Where the server that answered last may send its clients; nil where none has.
    public var serverNames: ServerNames? {
        connection.flatMap { connection in
            connection.peerAddress.map {
                ServerNames(certificate: connection.serverCertificate, connected: $0)
            }
        }
    }

    /// Ends the kept connection.
    public func close() { connection = nil }

    private func send(_ request: HTTPRequest, _ body: [UInt8]) throws(ClientError) -> ControlAnswer {
        if let kept = connection, kept.isUsable() {
            switch kept.perform(request, body: body, seconds: timeouts.answerSeconds) {
            case .answered(let answer): return answer
            case .failed(let error, let mayRepeat):
                connection = nil
                guard error.code != "TIMED_OUT", mayRepeat || Self.isRepeatable(request) else { throw error }
            }
        }
        connection = nil
        let fresh = try BlockingConnection(server: server, context: context, timeouts: timeouts)
        switch fresh.perform(request, body: body, seconds: timeouts.answerSeconds) {
        case .answered(let answer):
            connection = fresh
            return answer
        case .failed(let error, _): throw error
        }
    }

    private static func isRepeatable(_ request: HTTPRequest) -> Bool {
        switch request.method {
        case .get, .head, .put, .delete, .options: true
        default: HTTPField.Name("idempotency-key").map(request.headerFields.contains) ?? false
        }
    }
}

/// Writes a query (RFC 3986 §3.4).
enum QueryText {
    static func encode(_ items: [(String, String)]) -> String {
        guard !items.isEmpty else { return "" }
        return "?" + items.map { escape($0) + "=" + escape($1) }.joined(separator: "&")
    }

    /// Percent-escapes everything that is not unreserved.
    static func escape(_ text: String) -> String {
        var result = ""
        for byte in text.utf8 {
            switch byte {
            case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"),
                UInt8(ascii: "0")...UInt8(ascii: "9"), UInt8(ascii: "-"), UInt8(ascii: "."),
                UInt8(ascii: "_"),
                UInt8(ascii: "~"):
                result.unicodeScalars.append(Unicode.Scalar(byte))
            default: result += "%" + Hex.encode([byte]).uppercased()
            }
        }
        return result
    }
}
