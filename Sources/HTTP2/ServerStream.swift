import HTTPTypes

/// One request on its way in and its answer on its way out.
final class ServerStream {
    private enum State {
        /// The fields of the head arrive.
        case head(IncomingHead)
        /// The body arrives.
        case body(HTTPRequest)
        /// Whole, and not yet reported.
        case whole(HTTPRequest)
        /// Beyond a limit, and not yet reported.
        case rejected(HTTP2Rejection, HTTPRequest?)
        /// Reported; the answer is to come.
        case reported
        /// The answer is being sent.
        case answering
        /// The whole answer has been sent.
        case answered
    }

    /// What follows from the end of a head.
    enum HeadEnd { case nothing, wantsContinue, tooLarge, announcesTooMuch, malformed }

    private var state = State.head(IncomingHead())
    private var trailerBytes = 0
    var body: [UInt8] = []
    private(set) var outgoing = OutgoingBody()
    var isHead = false
    /// The answer is written in pieces, for as long as it takes.
    var isStreaming = false
    /// The client still sends a body that was refused as too large, and nothing of it is kept.
    var isDraining = false
    private var drainedBytes = 0
    private let beganAt: UInt64
    private var answeredAt: UInt64 = 0
    /// When waiting bytes last began to wait, or were last taken.
    private var movedAt: UInt64 = 0

    init(now: UInt64) { beganAt = now }

    func enqueue(_ bytes: [UInt8], isLast: Bool, now: UInt64) {
        if outgoing.count == 0 { movedAt = now }
        if answeredAt == 0 { answeredAt = now }
        outgoing.append(bytes, isLast: isLast)
    }

    func read(into buffer: UnsafeMutableRawBufferPointer, now: UInt64) -> BodyRead {
        movedAt = now
        return unsafe outgoing.read(into: buffer)
    }

    func overdue(now: UInt64, limits: HTTP2Limits) -> HTTP2Overdue? {
        func isOver(_ start: UInt64, _ seconds: Int) -> Bool {
            now > start && now - start > UInt64(max(0, seconds)) * 1_000_000_000
        }
        switch state {
        case .head, .body: return isOver(beganAt, limits.requestSeconds) ? .request : nil
        case .answered where isDraining: return isOver(beganAt, limits.requestSeconds) ? .request : nil
        case .answering where outgoing.count > 0:
            let isLate = !isStreaming && isOver(answeredAt, limits.answerSeconds)
            return isLate || isOver(movedAt, limits.stallSeconds) ? .answer : nil
        default: return nil
        }
    }
    /// This side ended the stream by its own choice: not the client's doing.
    var isResetHere = false

    var gathersBody: Bool { if case .body = state { true } else { false } }
    var isAnswering: Bool { if case .answering = state { true } else { false } }

    /// Whether someone outside is still at work for this stream.
    var awaitsAnswerer: Bool {
        switch state {
        case .reported: true
        case .answering: true
        default: false
        }
    }

    /// Bytes of the body that have not been handed over.
    var undeliveredBodyBytes: Int { body.count }

    func beganTrailers() { trailerBytes = 0 }

    func appendField(name: UnsafeRawBufferPointer, value: UnsafeRawBufferPointer, maximum: Int) {
        guard case .head(var head) = state else {
            return  // Trailers say nothing that is used here.
        }
        state = .reported  // Gives up the second reference, so that the fields are changed in place.
        unsafe head.append(name: name, value: value, maximum: maximum)
        state = .head(head)
    }

    /// - Parameter bodyBytesMax: what a body may have; one that announces more is told so before it is sent.
    func endedHead(bodyBytesMax: Int) -> HeadEnd {
        guard case .head(let head) = state else { return .nothing }
        if head.isTooLarge {
            isHead = head.method == "HEAD"
            state = .rejected(.headTooLarge, nil)
            return .tooLarge
        }
        guard let request = head.request() else { return .malformed }
        isHead = request.method == .head
        state = .body(request)
        if let announced = request.headerFields[.contentLength].flatMap({ Int($0) }), announced > bodyBytesMax
        {
            return .announcesTooMuch
        }
        return request.headerFields[.expect] == "100-continue" ? .wantsContinue : .nothing
    }

    func reject(_ reason: HTTP2Rejection) {
        guard case .body(let request) = state else { return }
        body = []
        isDraining = reason == .bodyTooLarge
        state = .rejected(reason, request)
    }

    /// Counts bytes that are thrown away; false when there were more than a refused body is given.
    func drain(_ count: Int, limit: Int) -> Bool {
        drainedBytes += count
        isDraining = drainedBytes <= limit
        return isDraining
    }

    /// True when the request is now whole and is to be reported.
    func endedRequest() -> Bool {
        guard case .body(let request) = state else { return false }
        state = .whole(request)
        return true
    }

    /// What is to be reported now, once.
    func takeNews(_ id: Int32) -> HTTP2ServerEvent? {
        switch state {
        case .whole(let request):
            state = .reported
            let whole = body
            body = []
            return .request(stream: id, request, body: whole)
        case .rejected(let reason, let request):
            state = .reported
            return .rejected(stream: id, reason, request)
        default: return nil
        }
    }

    /// False when an answer has been begun before, or none is due.
    func beginAnswer() -> Bool {
        guard case .reported = state, !isResetHere else { return false }
        state = .answering
        return true
    }

    func endedAnswer() { state = .answered }
}
