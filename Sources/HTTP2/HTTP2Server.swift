import Core
import HTTPTypes

/// What a client asked of the server side of a connection.
public enum HTTP2ServerEvent: Sendable {
    /// A whole request within the limits; it awaits `respond` or `respondStreaming`.
    case request(stream: Int32, HTTPRequest, body: [UInt8])
    /// A request beyond a limit; it awaits an answer that says so. Its body is not gathered.
    case rejected(stream: Int32, HTTP2Rejection, HTTPRequest?)
    /// A request that was reported before is over without its answer; nothing is to be sent for it.
    case aborted(stream: Int32)
}

/// Which limit a request went beyond.
public enum HTTP2Rejection: Sendable, Hashable {
    /// Its head is larger than `HTTP2Limits.headerBytes`: answer 431.
    case headTooLarge
    /// Its body is larger than `HTTP2Limits.bodyBytes`: answer 413.
    case bodyTooLarge
    /// All bodies under way on this connection are larger than `HTTP2Limits.connectionBodyBytes`: answer 503.
    case connectionBusy
}

/// What a client takes too long for.
public enum HTTP2Overdue: Sendable, Hashable {
    /// To send a whole request.
    case request
    /// To take a whole answer, or any of the bytes that wait for it.
    case answer
}

/// The server side of one HTTP/2 connection: bytes in, events out; answers in, bytes out. It owns no socket
/// and no
/// clock, and is confined to one thread.
///
/// After every call, `appendOutput` gives what is to be sent; when `isFinished` is true and all output has
/// been
/// sent, the connection is to be closed.
public final class HTTP2Server {
    private let limits: HTTP2Limits
    private let clock: any MonotonicClock
    private let session: Session

    private var streams: [Int32: ServerStream] = [:]
    /// Streams with something to report, in order; what became of them is looked up when they are reported.
    private var news: [Int32] = []
    private var aborted: [Int32] = []
    private var requests = 0
    private var gatheredBodyBytes = 0
    private var resets: TokenBucket
    private var controlFrames: TokenBucket
    private var preface = PrefaceCheck()
    private var isGivenUp = false

    /// Bytes of answer bodies that wait to be sent.
    public private(set) var bufferedOutputBytes = 0

    /// A connection that has seen no bytes yet.
    ///
    /// - Parameter clock: paces the budgets for resets and control frames.
    public init(limits: HTTP2Limits, clock: any MonotonicClock) throws(HTTP2Error) {
        self.limits = limits
        self.clock = clock
        let now = clock.now()
        resets = TokenBucket(
            capacity: limits.resetBurst, tokensPerSecond: limits.resetsPerSecond, now: now)
        controlFrames = TokenBucket(
            capacity: limits.controlFrameBurst, tokensPerSecond: limits.controlFramesPerSecond, now: now)
        session = try Session(role: .server, limits: limits)
        session.handler = self
    }

    // MARK: Bytes

    /// Takes in what the client sent and reports what it means.
    ///
    /// The events are delivered before the call returns, and their receiver may answer at once.
    /// - Throws: `HTTP2Error`; the connection is to be closed after the output that is left.
    public func receive(
        _ bytes: UnsafeRawBufferPointer, events: (HTTP2ServerEvent) -> Void
    ) throws(HTTP2Error) {
        defer { deliver(events) }
        switch unsafe try preface.check(bytes) {
        case .needsMore: return
        case .passed: unsafe try feed(bytes)
        case .passedWith(let whole):
            unsafe try whole.withBytes { (bytes) throws(HTTP2Error) in unsafe try feed(bytes) }
        }
    }

    /// Appends what is to be sent until `output` holds at least `limit` bytes; nothing before the client has
    /// shown
    /// that it speaks HTTP/2.
    ///
    /// - Returns: true when more is waiting that flow control allows.
    @discardableResult
    public func appendOutput(to output: inout [UInt8], limit: Int = 256 * 1024) throws(HTTP2Error) -> Bool {
        guard preface.isDone else { return false }
        return try session.appendOutput(to: &output, limit: limit)
    }

    /// Reports what came about while output was made, such as streams that ended by an error.
    public func deliverPendingEvents(_ events: (HTTP2ServerEvent) -> Void) { deliver(events) }

    /// True when nothing is left to be read or sent on this connection.
    public var isFinished: Bool { !session.isActive }

    /// What the client takes longer for than the limits allow; nil when it keeps up. For a look every second
    /// or so.
    public func overdue(now: UInt64) -> HTTP2Overdue? {
        for stream in streams.values {
            if let overdue = stream.overdue(now: now, limits: limits) { return overdue }
        }
        return nil
    }

    /// Streams that are open now.
    public var openStreams: Int { streams.count }

    private func feed(_ bytes: UnsafeRawBufferPointer) throws(HTTP2Error) {
        unsafe try session.receive(bytes) { [self] in
            if session.outputFrames > limits.outputFrames { giveUp() }
            return !isGivenUp
        }
    }

    /// Ends the connection because the client makes more work than it is worth.
    private func giveUp() {
        guard !isGivenUp else { return }
        isGivenUp = true
        session.terminate(code: .enhanceYourCalm)
    }

    private func deliver(_ events: (HTTP2ServerEvent) -> Void) {
        guard !news.isEmpty || !aborted.isEmpty else { return }
        let (freshNews, freshAborted) = (news, aborted)
        news.removeAll(keepingCapacity: true)
        aborted.removeAll(keepingCapacity: true)
        for stream in freshAborted { events(.aborted(stream: stream)) }
        for id in freshNews {
            guard let stream = streams[id], let event = stream.takeNews(id) else { continue }
            if case .request(_, _, let body) = event { gatheredBodyBytes -= body.count }
            events(event)
        }
    }

    // MARK: Answers

    /// Sends a whole answer. A `content-length` is added; the body of an answer to HEAD is left out.
    ///
    /// - Returns: false when the stream is gone, already answered, or the connection's output is full (then
    ///   the
    ///   stream is reset).
    @discardableResult
    public func respond(stream: Int32, _ response: HTTPResponse, body: [UInt8]) -> Bool {
        respond(stream: stream, HTTP2HeadBlock(response), body: body)
    }

    /// As `respond(stream:_:body:)`, with a head that was laid out before.
    @discardableResult
    public func respond(stream id: Int32, _ head: HTTP2HeadBlock, body: [UInt8]) -> Bool {
        guard let stream = streams[id], stream.beginAnswer() else { return false }
        var head = head
        if !head.hasContentLength, head.mayHaveBody {
            head.append(name: "content-length", value: String(body.count))
        }
        let sendsBody = !body.isEmpty && !stream.isHead
        guard !sendsBody || reserveOutput(id, body.count) else { return false }
        if sendsBody { stream.enqueue(body, isLast: true, now: clock.now()) }
        return session.respond(stream: id, head: head, hasBody: sendsBody)
    }

    /// Starts an answer whose body follows in pieces by `write`.
    ///
    /// - Returns: false when the stream is gone or already answered.
    @discardableResult
    public func respondStreaming(stream id: Int32, _ response: HTTPResponse) -> Bool {
        guard let stream = streams[id], stream.beginAnswer() else { return false }
        stream.isStreaming = true
        let sent = session.respond(stream: id, head: HTTP2HeadBlock(response), hasBody: !stream.isHead)
        return sent && !stream.isHead
    }

    /// Adds a piece to a streaming answer; `end`: it is the last.
    ///
    /// - Returns: false when the stream is gone or the connection's output is full (then the stream is
    ///   reset).
    @discardableResult
    public func write(stream id: Int32, _ bytes: [UInt8], end: Bool) -> Bool {
        guard let stream = streams[id], stream.isAnswering, !stream.outgoing.isComplete else { return false }
        guard reserveOutput(id, bytes.count) else { return false }
        stream.enqueue(bytes, isLast: end, now: clock.now())
        session.resumeBody(stream: id)
        return true
    }

    /// Ends a stream without an answer, or in the middle of one.
    public func reset(stream: Int32, code: HTTP2ErrorCode) {
        guard let state = streams[stream] else { return }
        state.isResetHere = true
        session.reset(stream: stream, code: code)
    }

    /// Bytes of one streaming answer that wait to be sent; 0 when the stream is gone.
    public func bufferedBytes(stream: Int32) -> Int { streams[stream]?.outgoing.count ?? 0 }

    /// Tells the client that no further stream is served; those under way go on.
    public func shutdown() { session.goAway(code: .noError) }

    /// Tells the client why, and ends the connection and every stream.
    public func terminate(code: HTTP2ErrorCode) {
        isGivenUp = true
        session.terminate(code: code)
    }

    private func reserveOutput(_ stream: Int32, _ count: Int) -> Bool {
        guard bufferedOutputBytes + count <= limits.outputBytes else {
            reset(stream: stream, code: .enhanceYourCalm)
            return false
        }
        bufferedOutputBytes += count
        return true
    }
}

// MARK: - What the session reports

extension HTTP2Server: SessionHandler {
    func sessionBeganFrame(_ head: FrameHead) {
        switch head.kind {
        case .headers:
            // One more than may be open is refused by the library, unseen by the other calls.
            let isRefused = streams.count >= limits.concurrentStreams && streams[head.stream] == nil
            if isRefused, !resets.take(now: clock.now()) { giveUp() }
        case .data where head.length > 0 && !head.isPadded, .data where head.endsStream: return
        case .resetStream where streams[head.stream] != nil: return  // counted when the stream closes
        default: if !controlFrames.take(now: clock.now()) { giveUp() }
        }
    }

    func sessionBeganHeaders(stream id: Int32) {
        if let stream = streams[id] {
            stream.beganTrailers()
            return
        }
        guard !isGivenUp else { return }
        streams[id] = ServerStream(now: clock.now())
        requests += 1
        controlFrames.credit(2)
        if requests == limits.requestsPerConnection { session.goAway(code: .noError) }
    }

    func sessionReceivedField(stream: Int32, name: UnsafeRawBufferPointer, value: UnsafeRawBufferPointer) {
        unsafe streams[stream]?.appendField(name: name, value: value, maximum: limits.headerBytes)
    }

    func sessionEndedHeaders(stream id: Int32, endsStream: Bool) {
        guard let stream = streams[id] else { return }
        switch stream.endedHead(bodyBytesMax: limits.bodyBytes) {
        case .nothing: break
        case .malformed:
            session.reset(stream: id, code: .protocolError)
            return
        case .tooLarge: news.append(id)
        case .announcesTooMuch:
            reject(id, stream, .bodyTooLarge)
            return
        case .wantsContinue: _ = session.respondInterim(stream: id, head: HTTP2HeadBlock(status: 100))
        }
        if endsStream { sessionEndedBody(stream: id) }
    }

    func sessionReceivedBody(stream id: Int32, bytes: UnsafeRawBufferPointer) {
        guard let stream = streams[id] else { return }
        guard stream.gathersBody else {
            if stream.isDraining, !stream.drain(bytes.count, limit: limits.drainBytes) {
                session.reset(stream: id, code: .noError)
            }
            return
        }
        if stream.body.count + bytes.count > limits.bodyBytes {
            reject(id, stream, .bodyTooLarge)
        } else if gatheredBodyBytes + bytes.count > limits.connectionBodyBytes {
            reject(id, stream, .connectionBusy)
        } else {
            gatheredBodyBytes += bytes.count
            unsafe stream.body.append(contentsOf: bytes)
        }
    }

    private func reject(_ id: Int32, _ stream: ServerStream, _ reason: HTTP2Rejection) {
        gatheredBodyBytes -= stream.body.count
        stream.reject(reason)
        news.append(id)
    }

    func sessionEndedBody(stream id: Int32) {
        guard let stream = streams[id] else { return }
        stream.isDraining = false
        guard stream.endedRequest() else { return }
        news.append(id)
    }

    func sessionReceivedGoAway(lastStream: Int32, code: UInt32, message: [UInt8]) {}

    func sessionClosedStream(_ id: Int32, code: UInt32) {
        guard let stream = streams.removeValue(forKey: id) else { return }
        gatheredBodyBytes -= stream.undeliveredBodyBytes
        bufferedOutputBytes -= stream.outgoing.count
        if stream.awaitsAnswerer { aborted.append(id) }
        guard code != HTTP2ErrorCode.noError.rawValue, !stream.isResetHere else { return }
        if !resets.take(now: clock.now()) { giveUp() }
    }

    func sessionReadsBody(stream id: Int32, into buffer: UnsafeMutableRawBufferPointer) -> BodyRead {
        guard let stream = streams[id] else { return .gone }
        let read = unsafe stream.read(into: buffer, now: clock.now())
        if case .bytes(let count, _) = read { bufferedOutputBytes -= count }
        return read
    }

    func sessionSentFrame(stream id: Int32, kind: FrameKind?, endsStream: Bool) {
        guard kind == .data || kind == .headers, let stream = streams[id] else { return }
        if kind == .data { controlFrames.credit(2) }
        guard endsStream else { return }
        stream.endedAnswer()
        // The rest of a request that was answered early is not wanted (RFC 9113 §8.1).
        // A client that is still sending what is too large reads the answer only when it may finish a while longer: many
        // take a reset in the middle of their body for a broken connection.
        if !session.isRemoteClosed(stream: id), !stream.isDraining {
            session.reset(stream: id, code: .noError)
        }
    }
}
