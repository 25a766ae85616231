import Core
import Glibc
import HTTP2
import HTTPTypes
import Reactor
import TLS

/// One connection to the control API that blocks its thread, with a deadline for every wait.
@safe
final class BlockingConnection {
    /// What became of a request.
    enum Outcome {
        case answered(ControlAnswer)
        /// `mayRepeat`: the server has certainly not acted on it.
        case failed(ClientError, mayRepeat: Bool)
    }

    let server: ServerAddress
    private let descriptor: FileDescriptor
    private let tls: TLSConnection
    private let http: HTTP2Client
    private let memory = UnsafeMutableRawBufferPointer.allocate(byteCount: 2 * chunkBytes, alignment: 16)
    private var outgoing: [UInt8] = []

    private static let chunkBytes = 16 * 1024
    /// Reads of what came between two requests: settings, pings.
    private static let unaskedReadsMax = 64
    /// The client takes no more of a refusal's body.
    private static let problemBytesMax = 64 * 1024

    /// Connects and completes the TLS handshake.
    init(server: ServerAddress, context: TLSContext, timeouts: ControlTimeouts) throws(ClientError) {
        self.server = server
        descriptor = try SocketConnector.connect(to: server, seconds: timeouts.connectSeconds)
        do {
            tls = try TLSConnection(context: context, serverName: server.host)
            var limits = HTTP2Limits()
            limits.bodyBytes = 64 * 1024 * 1024
            limits.headerBytes = 64 * 1024
            limits.streamWindowBytes = 1024 * 1024
            limits.connectionWindowBytes = 1024 * 1024
            http = try HTTP2Client(limits: limits)
        } catch {
            throw .broken(server, "\(error)")
        }
        try handshake(Deadline(seconds: timeouts.connectSeconds))
    }

    deinit {
        tls.close()
        _ = unsafe tls.output.withPending { bytes in
            unsafe Glibc.send(
                descriptor.raw, bytes.baseAddress, bytes.count, Int32(MSG_NOSIGNAL | MSG_DONTWAIT))
        }
        unsafe memory.deallocate()
    }

    /// What the server's certificate says.
    var serverCertificate: Certificate? { tls.peerCertificate }

    /// The address at the other end.
    var peerAddress: SocketAddress? { try? Sockets.peerAddress(fd: descriptor.raw) }

    /// Whether another request may be sent: takes in what the server sent meanwhile, without waiting. The client
    /// listens no longer to a server that has too much to say unasked.
    func isUsable() -> Bool {
        let now = Deadline(seconds: 0)
        for _ in 0..<Self.unaskedReadsMax {
            guard !http.isDraining, tls.isOpen, wait(for: POLLIN, now) else {
                return !http.isDraining && tls.isOpen
            }
            do throws(ClientError) {
                guard try receive({ _ in }) else { return false }
                try send(now)
            } catch { return false }
        }
        return false
    }

    /// Sends a request and waits for its whole answer.
    func perform(_ request: HTTPRequest, body: [UInt8], seconds: Int) -> Outcome {
        guard let stream = http.request(request, body: body) else {
            return .failed(.broken(server, "the server takes no more requests on it"), mayRepeat: true)
        }
        let deadline = Deadline(seconds: seconds)
        var outcome: Outcome?
        do throws(ClientError) {
            while outcome == nil {
                try send(deadline)
                // A server that keeps saying something has no more time than one that is silent.
                guard !deadline.isOver, wait(for: POLLIN, deadline) else {
                    http.cancel(stream: stream)
                    return .failed(.timedOut(server, "answer", seconds: seconds), mayRepeat: false)
                }
                let isOpen = try receive { outcome = outcome ?? self.outcome($0, stream) }
                guard isOpen || outcome != nil else {
                    return .failed(.broken(server, "the server hung up"), mayRepeat: false)
                }
            }
        } catch {
            return .failed(error, mayRepeat: false)
        }
        return outcome ?? .failed(.broken(server, "no answer came"), mayRepeat: false)
    }

    private func outcome(_ event: HTTP2ClientEvent, _ stream: Int32) -> Outcome? {
        switch event {
        case .response(stream, let response, let body):
            let status = response.status.code
            return .answered(ControlAnswer(status: status, headers: response.headerFields, body: body))
        case .failed(stream, let failure):
            return .failed(.broken(server, failure.description), mayRepeat: failure.isUnprocessed)
        default: return nil
        }
    }

    /// Sends a request and hands over the pieces of its answer as they come.
    ///
    /// - Parameter silenceSeconds: how long the server may say nothing before it is given up.
    /// - Parameter onPiece: false to hear no more; not called for an answer of 400 or above.
    /// - Returns: the answer, whose body is empty below 400.
    func follow(
        _ request: HTTPRequest, silenceSeconds: Int, onPiece: ([UInt8]) -> Bool
    ) throws(ClientError) -> ControlAnswer {
        guard let stream = http.request(request, body: [], streaming: true) else {
            throw .broken(server, "the server takes no more requests on it")
        }
        var answer: ControlAnswer?
        var isOver = false
        var failure: HTTP2StreamFailure?
        while !isOver {
            let deadline = Deadline(seconds: silenceSeconds)
            try send(deadline)
            guard wait(for: POLLIN, deadline) else {
                throw .timedOut(server, "say anything", seconds: silenceSeconds)
            }
            let isOpen = try receive { event in
                switch event {
                case .head(stream, let response):
                    answer = ControlAnswer(
                        status: response.status.code, headers: response.headerFields, body: [])
                case .data(stream, let bytes):
                    guard let status = answer?.status, !isOver else { return }
                    if status < 400 {
                        isOver = !onPiece(bytes)
                    } else if answer?.body.count ?? 0 < Self.problemBytesMax {
                        answer?.body += bytes
                    }
                case .end(stream): isOver = true
                case .failed(stream, let reason):
                    failure = reason
                    isOver = true
                default: return
                }
            }
            if !isOpen, !isOver { throw .broken(server, "the server hung up") }
        }
        if let failure { throw .broken(server, failure.description) }
        http.cancel(stream: stream)
        guard let answer else { throw .broken(server, "no answer came") }
        return answer
    }

    // MARK: Bytes

    private func handshake(_ deadline: Deadline) throws(ClientError) {
        while true {
            let isDone: Bool
            do {
                isDone = try tls.handshake()
            } catch {
                try? flush(deadline)
                throw TLSAdvice.error(error, server)
            }
            try flush(deadline)
            if isDone { break }
            guard !deadline.isOver, wait(for: POLLIN, deadline) else {
                throw .timedOut(server, "complete the TLS handshake", seconds: deadline.seconds)
            }
            guard try feed() else { throw .broken(server, "the server hung up during the TLS handshake") }
        }
        guard tls.alpn == "h2" else {
            throw .broken(server, "it does not speak HTTP/2 (ALPN: \(tls.alpn ?? "none"))")
        }
    }

    /// Encrypts and sends what HTTP/2 wants sent.
    private func send(_ deadline: Deadline) throws(ClientError) {
        while true {
            outgoing.removeAll(keepingCapacity: true)
            do {
                try http.appendOutput(to: &outgoing, limit: Self.chunkBytes)
                if !outgoing.isEmpty {
                    try unsafe outgoing.withUnsafeBytes { bytes in try unsafe tls.write(bytes) }
                }
            } catch {
                throw .broken(server, "\(error)")
            }
            if outgoing.isEmpty { return try flush(deadline) }
            try flush(deadline)
        }
    }

    /// Writes pending ciphertext to the socket.
    private func flush(_ deadline: Deadline) throws(ClientError) {
        while tls.output.pendingBytes > 0 {
            let count = unsafe tls.output.withPending { bytes in
                unsafe Glibc.send(
                    descriptor.raw, bytes.baseAddress, bytes.count, Int32(MSG_NOSIGNAL | MSG_DONTWAIT))
            }
            if count >= 0 {
                tls.output.consumed(count)
            } else if errno == EAGAIN || errno == EINTR {
                guard !deadline.isOver, wait(for: POLLOUT, deadline) else {
                    throw .timedOut(server, "take the request", seconds: deadline.seconds)
                }
            } else {
                // The server may have said why before it hung up: what it sent is still to be read.
                if wait(for: POLLIN, Deadline(seconds: 0)) {
                    return tls.output.consumed(tls.output.pendingBytes)
                }
                throw .broken(server, ReactorError.text(errno: errno))
            }
        }
    }

    /// Reads from the socket into TLS; false at the end of the stream.
    private func feed() throws(ClientError) -> Bool {
        let room = unsafe UnsafeMutableRawBufferPointer(rebasing: memory[..<Self.chunkBytes])
        let count = unsafe Glibc.recv(descriptor.raw, room.baseAddress, room.count, Int32(MSG_DONTWAIT))
        if count < 0 {
            if errno == EAGAIN || errno == EINTR { return true }
            throw .broken(server, ReactorError.text(errno: errno))
        }
        unsafe tls.feed(UnsafeRawBufferPointer(rebasing: room[..<count]))
        tls.endInput()
        return count > 0
    }

    /// Takes in what has arrived; false when the server has hung up.
    private func receive(_ events: (HTTP2ClientEvent) -> Void) throws(ClientError) -> Bool {
        let isOpen = try feed()
        let room = unsafe UnsafeMutableRawBufferPointer(rebasing: memory[Self.chunkBytes...])
        do {
            while let count = try unsafe tls.read(into: room) {
                if count == 0 { return false }
                try unsafe http.receive(UnsafeRawBufferPointer(rebasing: room[..<count]), events: events)
            }
        } catch let error as TLSError {
            throw TLSAdvice.error(error, server)
        } catch {
            throw .broken(server, "\(error)")
        }
        return isOpen
    }

    /// Waits until the socket is ready; false when the deadline passes first.
    private func wait(for events: Int32, _ deadline: Deadline) -> Bool {
        SocketConnector.wait(descriptor.raw, events, deadline)
    }
}

/// A point in time after which a wait is given up.
struct Deadline {
    let seconds: Int
    private let at: UInt64

    init(seconds: Int) {
        self.seconds = seconds
        at = SystemClock.monotonic().addingSaturated(Nanoseconds.seconds(UInt64(max(0, seconds))))
    }

    /// Whether it has passed.
    var isOver: Bool { SystemClock.monotonic() >= at }

    /// Milliseconds left, as poll(2) takes them.
    var milliseconds: Int32 {
        let now = SystemClock.monotonic()
        return now >= at ? 0 : Int32(clamping: (at - now) / 1_000_000 + 1)
    }
}

/// TCP connections to names and addresses, with a deadline.
enum SocketConnector {
    static func connect(to server: ServerAddress, seconds: Int) throws(ClientError) -> FileDescriptor {
        let deadline = Deadline(seconds: seconds)
        var hints = unsafe addrinfo()
        unsafe hints.ai_socktype = Int32(SOCK_STREAM.rawValue)
        unsafe hints.ai_flags = AI_NUMERICSERV
        var list: UnsafeMutablePointer<addrinfo>?
        let result = unsafe getaddrinfo(server.host, String(server.port), &hints, &list)
        guard result == 0 else {
            throw .unreachable(server, unsafe String(cString: gai_strerror(result)))
        }
        defer { unsafe freeaddrinfo(list) }
        var reason = "its name has no address"
        var next = unsafe list
        while let entry = unsafe next {
            unsafe next = entry.pointee.ai_next
            let fd = unsafe socket(
                entry.pointee.ai_family,
                entry.pointee.ai_socktype | Int32(SOCK_CLOEXEC.rawValue | SOCK_NONBLOCK.rawValue),
                entry.pointee.ai_protocol)
            guard fd >= 0 else { continue }
            let descriptor = FileDescriptor(owning: fd)
            var error =
                unsafe Glibc.connect(fd, entry.pointee.ai_addr, entry.pointee.ai_addrlen) == 0 ? 0 : errno
            if error == EINPROGRESS {
                guard wait(fd, POLLOUT, deadline) else {
                    throw .timedOut(server, "accept a connection", seconds: seconds)
                }
                var length = socklen_t(MemoryLayout<Int32>.size)
                _ = unsafe getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &length)
            }
            if error == 0 {
                Sockets.setNoDelay(fd: fd)
                return descriptor
            }
            reason = ReactorError.text(errno: error)
        }
        throw .unreachable(server, reason)
    }

    static func wait(_ fd: Int32, _ events: Int32, _ deadline: Deadline) -> Bool {
        while true {
            var entry = pollfd(fd: fd, events: Int16(events), revents: 0)
            let result = unsafe poll(&entry, 1, deadline.milliseconds)
            if result > 0 { return true }
            if result == 0 || errno != EINTR { return false }
        }
    }
}
