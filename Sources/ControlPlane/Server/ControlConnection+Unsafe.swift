import Core
import Glibc
import HTTP2
import HTTPTypes
import Reactor
import TLS

/// One control connection: socket, TLS, HTTP/2 and the requests under way. Confined to the reactor's thread.
final class ControlConnection: CompletionTarget, BatchTarget {
    private enum Phase {
        case handshaking
        case open
        /// Ends when what is to be sent has been sent.
        case flushing
        /// All was sent; waits for the peer to close, so that it reads the last bytes.
        case lingering(since: UInt64)
        case closed
    }

    private enum Token {
        static let receive: UInt32 = 1
        static let send: UInt32 = 2
        static let close: UInt32 = 3
    }

    let id: UInt64
    /// When the last thing happened that a useful client does: a handshake, a request, an answer.
    private(set) var activeAt: UInt64

    private let fd: Int32
    private unowned let loop: ControlLoop
    private let reactor: Reactor
    private let tls: TLSConnection
    private var target: TargetID?
    private var http: HTTP2Server?
    private var peer = PeerIdentity.anonymous
    private var remoteAddress: SocketAddress?
    private var phase = Phase.handshaking
    private var sawBytes = false
    private var isTLSClosed = false
    private var isDirty = false
    private var sending: OutputBuffer?
    private var sendingSince: UInt64 = 0
    private let openedAt: UInt64
    private var tasks: [Int32: Task<Void, Never>] = [:]
    /// Requests that wait for their turn.
    private var queued: Set<Int32> = []
    /// Who is at the other end; nil before that is known, and without a certificate.
    private(set) var caller: ControlCaller?
    /// Bytes of answers that wait to be read, as the loop knows them.
    private var unread = 0
    private var requestsInFlight = 0
    private var waiters: [Int32: CheckedContinuation<Bool, Never>] = [:]
    /// Of the streaming answers that want one: the heartbeat, and when something was written last.
    private var heartbeats: [Int32: (bytes: [UInt8], since: UInt64)] = [:]

    init(id: UInt64, fd: Int32, loop: ControlLoop) throws(TLSError) {
        self.id = id
        self.fd = fd
        self.loop = loop
        reactor = loop.reactor
        openedAt = loop.reactor.now
        activeAt = openedAt
        tls = try TLSConnection(context: loop.tls, buffers: loop.buffers)
        remoteAddress = try? Sockets.peerAddress(fd: fd)
    }

    func start() {
        Sockets.setNoDelay(fd: fd)
        let target = reactor.register(self)
        self.target = target
        reactor.receiveMultishot(fd: fd, target: target, token: Token.receive)
    }

    /// Whether it has no certificate and nothing under way: such go first when connections run out.
    var isExpendable: Bool {
        switch phase {
        case .handshaking, .lingering: true
        case .open: peer.certificate == nil && requestsInFlight == 0
        case .flushing, .closed: false
        }
    }

    /// Whether it has requests under way.
    var isBusy: Bool { requestsInFlight > 0 }
    /// Whose it is, for the log.
    var account: String { caller.map { "\($0)" } ?? remote }

    // MARK: Completions

    func completed(token: UInt32, result: Int32, flags: CompletionFlags) {
        if token == Token.send { return sendCompleted(result) }
        if token == Token.close { return }
        if flags.hasBuffer {
            if case .closed = phase {
            } else if result > 0 {
                unsafe received(reactor.receiveBuffer(flags, count: Int(result)))
            }
            reactor.recycle(flags)
        }
        if case .closed = phase { return }
        if result <= 0 { return end() }
        if !flags.more, let target {
            reactor.receiveMultishot(fd: fd, target: target, token: Token.receive)
        }
    }

    func batchEnded() {
        isDirty = false
        flush()
    }

    private func markDirty() {
        guard !isDirty else { return }
        isDirty = true
        reactor.atBatchEnd(self)
    }

    // MARK: Bytes in

    private func received(_ bytes: UnsafeRawBufferPointer) {
        switch phase {
        case .handshaking, .open: break
        case .flushing, .lingering, .closed: return
        }
        if !sawBytes {
            sawBytes = true
            if let first = unsafe bytes.first, (UInt8(ascii: "A")...UInt8(ascii: "Z")).contains(first) {
                return refusePlainText()
            }
        }
        unsafe tls.withInput(bytes) { readAll() }
        markDirty()
    }

    private func readAll() {
        do throws(TLSError) {
            while let count = try unsafe tls.read(into: loop.incoming.memory) {
                if count == 0 {
                    phase = .flushing
                    return
                }
                if http == nil { try establish() }
                guard unsafe takePlaintext(UnsafeRawBufferPointer(rebasing: loop.incoming.memory[..<count]))
                else {
                    return
                }
            }
            if http == nil, try tls.handshake() { try establish() }
        } catch {
            loop.logger.debug("control connection from \(remote): \(error)")
            phase = .flushing
        }
    }

    /// The handshake is done: it is known who asks, and what the connection may cost.
    private func establish() throws(TLSError) {
        if let certificate = tls.peerCertificate { peer = PeerIdentity(certificate: certificate) }
        let limits = peer.certificate == nil ? loop.limits.anonymousHTTP : loop.limits.http
        guard let made = try? HTTP2Server(limits: limits, clock: SystemClock()) else {
            throw .library("out of memory")
        }
        http = made
        phase = .open
        activeAt = reactor.now
        if peer.certificate != nil, caller == nil {
            let known = ControlCaller(peer, address: remoteAddress?.host)
            caller = known
            loop.identified(known)
        }
    }

    /// False when nothing more is to be read.
    private func takePlaintext(_ bytes: UnsafeRawBufferPointer) -> Bool {
        guard let http, case .open = phase else { return false }
        do throws(HTTP2Error) {
            try unsafe http.receive(bytes) { handle($0) }
            return true
        } catch {
            loop.logger.debug("control connection from \(remote): \(error)")
            if case .notHTTP2(let refusal?) = error {
                try? unsafe refusal.withUnsafeBytes { bytes in try unsafe tls.write(bytes) }
                self.http = nil
            }
            phase = .flushing
            return false
        }
    }

    private func refusePlainText() {
        _ = unsafe plainTextRefusal.withUnsafeBytes { bytes in
            unsafe Glibc.send(fd, bytes.baseAddress, bytes.count, Int32(MSG_NOSIGNAL | MSG_DONTWAIT))
        }
        isTLSClosed = true
        phase = .flushing
        markDirty()
    }

    private var remote: String { remoteAddress.map(String.init(describing:)) ?? "an unknown address" }

    // MARK: Bytes out

    private func flush() {
        if case .closed = phase { return }
        guard sending == nil else { return }
        if case .lingering = phase { return }
        produce()
        if tls.output.pendingBytes > 0 { return send() }
        if let http, http.isFinished { phase = .flushing }
        if case .flushing = phase { finish() }
    }

    /// Encrypts what HTTP/2 wants sent, in as few records as it fits.
    private func produce() {
        guard let http else { return }
        loop.outgoing.removeAll(keepingCapacity: true)
        do {
            try http.appendOutput(to: &loop.outgoing, limit: loop.limits.sendBytes)
            if !loop.outgoing.isEmpty {
                try unsafe loop.outgoing.withUnsafeBytes { bytes in try unsafe tls.write(bytes) }
            }
        } catch {
            phase = .flushing
            self.http = nil
        }
        noteUnread()
        http.deliverPendingEvents { handle($0) }
        for (stream, waiter) in waiters
        where http.bufferedBytes(stream: stream) < loop.limits.streamBacklogBytes {
            waiters[stream] = nil
            waiter.resume(returning: true)
        }
    }

    private func send() {
        guard let target else { return }
        let buffer = tls.takeOutput()
        let bytes = unsafe buffer.bytes
        sending = consume buffer
        sendingSince = reactor.now
        // SAFETY: `sending` keeps the memory until the completion, and the reactor keeps this object until
        // then.
        unsafe reactor.send(fd: fd, bytes, target: target, token: Token.send)
    }

    private func sendCompleted(_ result: Int32) {
        guard let buffer = sending.take() else { return }
        let isWhole = Int(result) == buffer.count
        tls.giveBack(buffer)
        if case .closed = phase { return }
        if isWhole { flush() } else { end() }
    }

    /// Everything was sent: says goodbye and waits for the peer to hang up.
    private func finish() {
        if !isTLSClosed {
            isTLSClosed = true
            tls.close()
            if tls.output.pendingBytes > 0 { return send() }
        }
        cancelRequests()
        if loop.isStopping { return end() }
        phase = .lingering(since: reactor.now)
        _ = Glibc.shutdown(fd, Int32(SHUT_WR))
    }

    // MARK: Requests

    private func handle(_ event: HTTP2ServerEvent) {
        activeAt = reactor.now
        switch event {
        case .request(let stream, let request, let body): begin(stream, request, body)
        case .rejected(let stream, let reason, _): refuse(stream, ControlProblem(reason))
        case .aborted(let stream): cancel(stream)
        }
    }

    private func begin(_ stream: Int32, _ request: HTTPRequest, _ body: [UInt8]) {
        let parsed = ControlRequest(
            method: request.method, target: request.path ?? "", headers: request.headerFields,
            authority: request.authority, body: body, peer: peer, remoteAddress: remoteAddress)
        guard let parsed else { return refuse(stream, .badTarget) }
        let id = ControlRequestID(connection: id, stream: stream)
        guard requestsInFlight < loop.limits.requestsInFlightPerConnection else {
            return refuse(stream, .busy)
        }
        requestsInFlight += 1
        queued.insert(stream)
        guard loop.dispatch(parsed, id: id) else {
            requestsInFlight -= 1
            queued.remove(stream)
            return refuse(stream, .busy)
        }
    }

    /// Whether a request whose turn has come is still wanted.
    func takesTurn(_ stream: Int32) -> Bool { queued.remove(stream) != nil }

    /// The handler has a request.
    func begun(_ stream: Int32, _ task: Task<Void, Never>) { tasks[stream] = task }

    private func refuse(_ stream: Int32, _ problem: ControlProblem) {
        http?.respond(stream: stream, problem.head, body: problem.json)
        markDirty()
    }

    /// Sends an answer, or the head of a streaming one; true when its body is to be written.
    func answer(_ stream: Int32, _ response: ControlResponse) -> Bool {
        guard let http else { return false }
        activeAt = reactor.now
        markDirty()
        let head = HTTPResponse(status: response.status, headerFields: response.headers)
        switch response.body {
        case .bytes(let body):
            http.respond(stream: stream, head, body: body)
            noteUnread()
            return false
        case .stream:
            guard http.respondStreaming(stream: stream, head) else { return false }
            heartbeats[stream] = response.heartbeat.map { ($0, reactor.now) }
            return true
        }
    }

    func write(_ stream: Int32, _ bytes: [UInt8], end: Bool) -> Bool {
        guard let http, http.write(stream: stream, bytes, end: end) else { return false }
        activeAt = reactor.now
        heartbeats[stream]?.since = reactor.now
        markDirty()
        noteUnread()
        return true
    }

    /// Tells the loop how much waits to be read. A caller with too much of it loses the connection that adds to it:
    /// what it does not read is memory of the server.
    private func noteUnread() {
        let now = http?.bufferedOutputBytes ?? 0
        let more = now - unread
        unread = now
        let owner = caller ?? ControlCaller(peer, address: remoteAddress?.host)
        guard !loop.holds(owner, more: more) else { return }
        loop.logger.notice(
            "a control connection is ended: its caller reads too few of its answers",
            metadata: ["caller": "\(account)", "peer": "\(remote)", "bytes": "\(now)"])
        end()
    }

    /// Says a word on streaming answers that have been silent for long.
    private func beat(now: UInt64) {
        let silence = UInt64(max(0, loop.limits.heartbeatSeconds)) * 1_000_000_000
        for (stream, heartbeat) in heartbeats where now >= heartbeat.since &+ silence {
            guard let http, http.bufferedBytes(stream: stream) == 0 else { continue }
            if http.write(stream: stream, heartbeat.bytes, end: false) { markDirty() }
            heartbeats[stream]?.since = now
        }
    }

    func isBacklogged(_ stream: Int32) -> Bool {
        (http?.bufferedBytes(stream: stream) ?? 0) >= loop.limits.streamBacklogBytes
    }

    func whenDrained(_ stream: Int32, _ continuation: CheckedContinuation<Bool, Never>) {
        guard tasks[stream] != nil, http != nil else { return continuation.resume(returning: false) }
        waiters.updateValue(continuation, forKey: stream)?.resume(returning: false)
        markDirty()
    }

    func requestCompleted(_ stream: Int32) {
        requestsInFlight -= 1
        tasks[stream] = nil
        heartbeats[stream] = nil
        activeAt = reactor.now
    }

    private func cancel(_ stream: Int32) {
        heartbeats[stream] = nil
        queued.remove(stream)
        tasks.removeValue(forKey: stream)?.cancel()
        waiters.removeValue(forKey: stream)?.resume(returning: false)
    }

    private func cancelRequests() {
        for stream in Array(tasks.keys) { cancel(stream) }
        queued.removeAll()
        for stream in Array(waiters.keys) { cancel(stream) }
    }

    // MARK: The end

    /// Looks whether the peer keeps its deadlines.
    func checkTime(now: UInt64) {
        func isOver(_ start: UInt64, _ seconds: Int) -> Bool {
            now > start && now - start >= UInt64(max(0, seconds)) * 1_000_000_000
        }
        if sending != nil, isOver(sendingSince, loop.limits.sendSeconds) { return end() }
        switch phase {
        case .handshaking:
            if isOver(openedAt, loop.limits.handshakeSeconds) { end() }
        case .open:
            guard let http else { return }
            if let overdue = http.overdue(now: now) {
                loop.logger.debug("control connection from \(remote) is too slow: \(overdue)")
                http.terminate(code: .enhanceYourCalm)
                markDirty()
                return
            }
            beat(now: now)
            let isAnonymous = peer.certificate == nil
            let idle = isAnonymous ? loop.limits.anonymousIdleSeconds : loop.limits.idleSeconds
            let isBusy = requestsInFlight > 0 || http.bufferedOutputBytes > 0
            if !isBusy, isOver(activeAt, idle) { beginShutdown() }
        case .lingering(let since):
            if isOver(since, loop.limits.lingerSeconds) { end() }
        case .flushing, .closed: return
        }
    }

    /// Takes no more requests; ends when those under way are answered.
    func beginShutdown() {
        switch phase {
        case .handshaking: end()
        case .open:
            http?.shutdown()
            if requestsInFlight == 0, http?.bufferedOutputBytes == 0 { phase = .flushing }
            markDirty()
        case .lingering: end()
        case .flushing, .closed: return
        }
    }

    /// Ends the connection at once.
    func end() {
        if case .closed = phase { return }
        phase = .closed
        cancelRequests()
        http = nil
        noteUnread()
        if let target {
            // The descriptor is closed in the ring's order. Were its number free at once, the kernel would do what
            // it has not taken up yet, such as a send, on the next connection that another thread opens.
            reactor.cancel(target: target, token: Token.receive)
            reactor.cancel(target: target, token: Token.send)
            reactor.close(fd: fd, target: target, token: Token.close)
            reactor.unregister(target)
        } else {
            _ = Glibc.close(fd)
        }
        target = nil
        loop.remove(self)
    }
}
