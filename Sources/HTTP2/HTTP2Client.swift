import HTTPTypes

/// What a server answered on the client side of a connection.
public enum HTTP2ClientEvent: Sendable {
    /// A whole answer within the limits.
    case response(stream: Int32, HTTPResponse, body: [UInt8])
    /// The head of an answer to a request that was made with `streaming`.
    case head(stream: Int32, HTTPResponse)
    /// A piece of the body of such an answer.
    case data(stream: Int32, [UInt8])
    /// Such an answer is complete.
    case end(stream: Int32)
    /// There will be no (further) answer.
    case failed(stream: Int32, HTTP2StreamFailure)
    /// The server takes no new requests on this connection.
    case goAway(code: HTTP2ErrorCode, message: String)
}

/// Why a request got no answer.
public struct HTTP2StreamFailure: Error, Sendable, Hashable, CustomStringConvertible {
    /// The code that ended the stream.
    public var code: HTTP2ErrorCode
    /// True when the server has certainly not looked at the request, so that it may be sent again.
    public var isUnprocessed: Bool
    /// What went wrong, in a few words.
    public var reason: String

    /// One sentence for the user.
    public var description: String { "\(reason) (\(code))" }
}

/// The client side of one HTTP/2 connection: requests in, bytes out; bytes in, answers out. It owns no
/// socket, and
/// is confined to one thread.
public final class HTTP2Client {
    private final class Request {
        var head = IncomingHead()
        var response: HTTPResponse?
        var body: [UInt8] = []
        var outgoing = OutgoingBody()
        var isStreaming = false
        var failure: String?
        var isDone = false
    }

    private let limits: HTTP2Limits
    private let session: Session
    private var requests: [Int32: Request] = [:]
    private var events: [HTTP2ClientEvent] = []
    private var lastStreamServed = Int32.max

    /// True once the server has said that it takes no new requests here.
    public private(set) var isDraining = false

    /// A connection on which nothing was sent yet.
    ///
    /// - Parameter limits: `headerBytes` and `bodyBytes` hold for answers.
    public init(limits: HTTP2Limits) throws(HTTP2Error) {
        self.limits = limits
        session = try Session(role: .client, limits: limits)
        session.handler = self
    }

    /// Starts a request.
    ///
    /// - Parameter streaming: the answer is reported in pieces and is not gathered.
    /// - Returns: the stream, or nil when this connection takes no more requests.
    public func request(_ request: HTTPRequest, body: [UInt8], streaming: Bool = false) -> Int32? {
        guard !isDraining else { return nil }
        var head = HTTP2HeadBlock(request)
        if !body.isEmpty, !head.hasContentLength {
            head.append(name: "content-length", value: String(body.count))
        }
        guard let stream = session.request(head: head, hasBody: !body.isEmpty) else { return nil }
        let state = Request()
        state.isStreaming = streaming
        state.outgoing.append(body, isLast: true)
        requests[stream] = state
        return stream
    }

    /// Gives up a request; no event follows for it.
    public func cancel(stream: Int32) {
        guard requests.removeValue(forKey: stream) != nil else { return }
        session.reset(stream: stream, code: .cancel)
    }

    /// Takes in what the server sent and reports what it means, before the call returns.
    ///
    /// - Throws: `HTTP2Error`; the connection cannot go on.
    public func receive(
        _ bytes: UnsafeRawBufferPointer, events report: (HTTP2ClientEvent) -> Void
    ) throws(HTTP2Error) {
        defer {
            let fresh = events
            events.removeAll(keepingCapacity: true)
            for event in fresh { report(event) }
        }
        unsafe try session.receive(bytes) { session.outputFrames <= limits.outputFrames }
    }

    /// Appends what is to be sent until `output` holds at least `limit` bytes; true when more is waiting.
    @discardableResult
    public func appendOutput(to output: inout [UInt8], limit: Int = 256 * 1024) throws(HTTP2Error) -> Bool {
        try session.appendOutput(to: &output, limit: limit)
    }

    /// True when nothing is left to be read or sent on this connection.
    public var isFinished: Bool { !session.isActive }

    /// Says goodbye; requests under way go on.
    public func shutdown() {
        isDraining = true
        session.goAway(code: .noError)
    }

    private func fail(_ id: Int32, _ request: Request, _ reason: String) {
        guard request.failure == nil else { return }
        request.failure = reason
        session.reset(stream: id, code: .cancel)
    }
}

// MARK: - What the session reports

extension HTTP2Client: SessionHandler {
    func sessionBeganFrame(_ head: FrameHead) {}

    func sessionBeganHeaders(stream: Int32) { requests[stream]?.head = IncomingHead() }

    func sessionReceivedField(stream: Int32, name: UnsafeRawBufferPointer, value: UnsafeRawBufferPointer) {
        unsafe requests[stream]?.head.append(name: name, value: value, maximum: limits.headerBytes)
    }

    func sessionEndedHeaders(stream id: Int32, endsStream: Bool) {
        guard let request = requests[id] else { return }
        if request.response == nil {
            if request.head.isTooLarge {
                return fail(id, request, "the answer's header is larger than \(limits.headerBytes) bytes")
            }
            guard let response = request.head.response() else {
                return fail(id, request, "the answer has no proper status")
            }
            if response.status.kind == .informational { return }
            request.response = response
            if request.isStreaming { events.append(.head(stream: id, response)) }
        }
        if endsStream { sessionEndedBody(stream: id) }
    }

    func sessionReceivedBody(stream id: Int32, bytes: UnsafeRawBufferPointer) {
        guard let request = requests[id], request.failure == nil else { return }
        if request.isStreaming {
            unsafe events.append(.data(stream: id, Array(bytes)))
        } else if request.body.count + bytes.count > limits.bodyBytes {
            request.body = []
            fail(id, request, "the answer is larger than \(limits.bodyBytes) bytes")
        } else {
            unsafe request.body.append(contentsOf: bytes)
        }
    }

    func sessionEndedBody(stream id: Int32) {
        guard let request = requests[id], let response = request.response, request.failure == nil else {
            return
        }
        request.isDone = true
        events.append(
            request.isStreaming ? .end(stream: id) : .response(stream: id, response, body: request.body))
        request.body = []
    }

    func sessionReceivedGoAway(lastStream: Int32, code: UInt32, message: [UInt8]) {
        isDraining = true
        lastStreamServed = min(lastStreamServed, lastStream)
        let text = String(decoding: message, as: UTF8.self)
        events.append(.goAway(code: HTTP2ErrorCode(rawValue: code), message: text))
    }

    func sessionClosedStream(_ id: Int32, code: UInt32) {
        guard let request = requests.removeValue(forKey: id), !request.isDone else { return }
        let code = HTTP2ErrorCode(rawValue: code)
        let isUnprocessed = code == .refusedStream || id > lastStreamServed
        let reason = request.failure ?? "the server ended the request without an answer"
        events.append(
            .failed(stream: id, HTTP2StreamFailure(code: code, isUnprocessed: isUnprocessed, reason: reason)))
    }

    func sessionReadsBody(stream: Int32, into buffer: UnsafeMutableRawBufferPointer) -> BodyRead {
        unsafe requests[stream]?.outgoing.read(into: buffer) ?? .gone
    }

    func sessionSentFrame(stream: Int32, kind: FrameKind?, endsStream: Bool) {}
}
