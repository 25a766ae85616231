import Core
import Glibc
import Reactor
import TLS
import Wire

/// What a test client ran into.
enum TestClientError: Error, Equatable {
    case closed
    case refused(Status?, String)
    case timedOut
    case system(Int32)
}

/// A blocking client of the data channel that can also do everything wrong.
final class TestClient {
    let fd: Int32
    let tls: TLSConnection
    private var received: [UInt8] = []
    private(set) var events: [ChannelEvent] = []
    private var sequences: [UInt16: UInt32] = [:]
    private(set) var session: HelloReply?
    /// The secret of the session.
    private(set) var secret: [UInt8] = []
    private var isOpen = true

    struct Reply: Equatable {
        let header: ReplyHeader
        let payload: [UInt8]
        var status: Status? { Status(rawValue: header.status) }
        var message: String { ErrorMessage.decode(payload) }
    }

    /// Connects; the handshake is done when `context` is given.
    init(address: SocketAddress, context: TLSContext) throws {
        fd = try Sockets.connect(address).take()
        Sockets.setNoDelay(fd: fd)
        var timeout = timeval(tv_sec: 20, tv_usec: 0)
        _ = unsafe setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &timeout, socklen_t(MemoryLayout<timeval>.size))
        tls = try TLSConnection(context: context, serverName: "127.0.0.1")
        var isDone = try tls.handshake()
        try flush()
        while !isDone {
            try feed()
            isDone = try tls.handshake()
            try flush()
        }
    }

    deinit {
        disconnect()
    }

    func disconnect() {
        guard isOpen else { return }
        isOpen = false
        _ = Glibc.close(fd)
    }

    // MARK: Bytes

    private func flush() throws {
        while tls.output.pendingBytes > 0 {
            let count = unsafe tls.output.withPending { bytes in
                unsafe Glibc.send(fd, bytes.baseAddress, bytes.count, Int32(MSG_NOSIGNAL))
            }
            if count < 0, errno == EINTR { continue }
            guard count > 0 else { throw TestClientError.system(errno) }
            tls.output.consumed(count)
        }
    }

    private func feed() throws {
        var buffer = [UInt8](repeating: 0, count: 65536)
        let count = unsafe buffer.withUnsafeMutableBytes { unsafe recv(fd, $0.baseAddress, $0.count, 0) }
        if count < 0, errno == EINTR { return }
        if count < 0, errno == EAGAIN { throw TestClientError.timedOut }
        if count < 0 { throw TestClientError.system(errno) }
        guard count > 0 else { throw TestClientError.closed }
        unsafe buffer.withUnsafeBytes { bytes in
            unsafe tls.feed(UnsafeRawBufferPointer(rebasing: bytes[..<count]))
            tls.endInput()
        }
    }

    /// Sends plaintext bytes as they are.
    func sendRaw(_ bytes: [UInt8]) throws {
        unsafe try bytes.withUnsafeBytes { unsafe try tls.write($0) }
        try flush()
    }

    /// Encrypts plaintext and returns the records without sending them.
    func encrypt(_ bytes: [UInt8]) throws -> [UInt8] {
        unsafe try bytes.withUnsafeBytes { unsafe try tls.write($0) }
        let records = unsafe tls.output.withPending { unsafe Array($0) }
        tls.output.consumed(records.count)
        return records
    }

    /// Sends bytes below TLS; false when the connection is gone.
    func sendCiphertext(_ bytes: [UInt8]) -> Bool {
        unsafe bytes.withUnsafeBytes {
            unsafe Glibc.send(fd, $0.baseAddress, $0.count, Int32(MSG_NOSIGNAL)) == $0.count
        }
    }

    private func read(_ count: Int) throws -> [UInt8] {
        var buffer = [UInt8](repeating: 0, count: 65536)
        while received.count < count {
            guard let got = unsafe try buffer.withUnsafeMutableBytes({ unsafe try tls.read(into: $0) }) else {
                try feed()
                continue
            }
            guard got > 0 else { throw TestClientError.closed }
            received.append(contentsOf: buffer[..<got])
        }
        defer { received.removeFirst(count) }
        return Array(received[..<count])
    }

    // MARK: Frames

    /// The next reply or event frame, whichever it is.
    func readFrame() throws -> Reply {
        guard let header = ReplyHeader(bytes: try read(32)) else { throw TestClientError.closed }
        return Reply(header: header, payload: try read(Int(header.length)))
    }

    /// Reads the next reply's payload a little at a time, in about so many seconds; events before it go to `events`.
    func readReplySlowly(seconds: Int) throws {
        while true {
            guard let header = ReplyHeader(bytes: try read(32)) else { throw TestClientError.closed }
            let pieces = seconds * 10
            for piece in 0..<pieces {
                let length = Int(header.length)
                _ = try read(length * (piece + 1) / pieces - length * piece / pieces)
                if !header.isEvent { _ = poll(nil, 0, 100) }
            }
            if !header.isEvent { return }
        }
    }

    /// The next reply; events before it go to `events`.
    func readReply() throws -> Reply {
        while true {
            let frame = try readFrame()
            guard frame.header.isEvent else { return frame }
            if let event = try ChannelEvent.decode(frame.header, payload: frame.payload) {
                events.append(event)
            }
        }
    }

    /// The next event; nothing but an event may come.
    func readEvent() throws -> ChannelEvent? {
        if !events.isEmpty { return events.removeFirst() }
        let frame = try readFrame()
        guard frame.header.isEvent else { return nil }
        return try ChannelEvent.decode(frame.header, payload: frame.payload)
    }

    /// Whether the server closes the connection, after at most what it still had to say.
    func isClosedByServer() -> Bool {
        do {
            while true { _ = try read(1) }
        } catch TestClientError.timedOut {
            return false
        } catch {
            return true
        }
    }

    /// Sends one request with the next sequence of its slot.
    func send(
        _ opcode: Opcode, slot: UInt16 = 0, handle: UInt32 = 0, offset: UInt64 = 0, count: UInt32 = 0,
        flags: RequestFlags = [], payload: [UInt8] = []
    ) throws {
        let header = nextHeader(
            opcode, slot: slot, handle: handle, offset: offset, count: count, flags: flags,
            length: payload.count)
        try sendRaw(header.bytes + payload)
    }

    func nextHeader(
        _ opcode: Opcode, slot: UInt16 = 0, handle: UInt32 = 0, offset: UInt64 = 0, count: UInt32 = 0,
        flags: RequestFlags = [], length: Int = 0
    ) -> RequestHeader {
        let sequence = RequestHeader.successor(of: sequences[slot, default: 0])
        sequences[slot] = sequence
        return RequestHeader(
            length: UInt32(length), opcode: opcode.rawValue, flags: flags, slot: slot, sequence: sequence,
            handle: handle, count: count, offset: offset)
    }

    /// Has the system take as little for it as it can, so that the server notices at once that it does not read.
    func takesLittle(bytes: Int32 = 4096) {
        var bytes = bytes
        _ = unsafe setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &bytes, socklen_t(MemoryLayout<Int32>.size))
    }

    /// Sends requests without payload in one write.
    func sendTogether(_ requests: [(opcode: Opcode, slot: UInt16, handle: UInt32, count: UInt32)]) throws {
        try sendRaw(
            requests.flatMap {
                nextHeader($0.opcode, slot: $0.slot, handle: $0.handle, count: $0.count).bytes
            })
    }

    /// Forgets that the last request on `slot` was sent: its sequence was not used up.
    func takeBackSequence(slot: UInt16 = 0) {
        sequences[slot, default: 1] -= 1
    }

    func request(
        _ opcode: Opcode, slot: UInt16 = 0, handle: UInt32 = 0, offset: UInt64 = 0, count: UInt32 = 0,
        flags: RequestFlags = [], payload: [UInt8] = []
    ) throws -> Reply {
        try send(
            opcode, slot: slot, handle: handle, offset: offset, count: count, flags: flags, payload: payload)
        return try readReply()
    }

    func hello(joining: TestClient? = nil, slots: UInt16 = 0, features: Features = []) throws {
        let hello = Hello(
            features: features, slots: slots, session: joining?.session?.session ?? .zero,
            secret: joining?.secret,
            clientName: "test client")
        let reply = try helloReply(hello)
        guard reply.status == .ok else { throw TestClientError.refused(reply.status, reply.message) }
        session = try HelloReply(bytes: reply.payload)
        secret = joining?.secret ?? session?.secret ?? []
    }

    /// Goes on with the channel of a client whose connection is gone, or will be: with its session and sequences.
    func resume(_ old: TestClient) throws -> HelloReply {
        let reply = try resumeReply(old)
        guard reply.status == .ok else { throw TestClientError.refused(reply.status, reply.message) }
        return try takeOver(old, reply)
    }

    func resumeReply(_ old: TestClient) throws -> Reply {
        guard let session = old.session else { throw TestClientError.closed }
        return try helloReply(resumption(of: session, secret: old.secret))
    }

    /// The HELLO that goes on with a channel.
    func resumption(of session: HelloReply, secret: [UInt8]) -> Hello {
        Hello(
            features: .resume, slots: session.slots, session: session.session, secret: secret,
            resumes: session.channel)
    }

    /// Goes on as `old` did, after a resumption that was answered by `reply`.
    func takeOver(_ old: TestClient, _ reply: Reply) throws -> HelloReply {
        let granted = try HelloReply(bytes: reply.payload)
        session = granted
        secret = old.secret
        sequences = old.sequences
        return granted
    }

    /// Sends a request with a sequence of the test's choice.
    func send(
        sequence: UInt32, _ opcode: Opcode, slot: UInt16 = 0, handle: UInt32 = 0, offset: UInt64 = 0,
        payload: [UInt8] = [], count: UInt32 = 0
    ) throws {
        sequences[slot] = sequence
        let header = RequestHeader(
            length: UInt32(payload.count), opcode: opcode.rawValue, slot: slot, sequence: sequence,
            handle: handle, count: count, offset: offset)
        try sendRaw(header.bytes + payload)
    }

    /// The sequence of the last request on a slot.
    func lastSequence(slot: UInt16 = 0) -> UInt32 { sequences[slot, default: 0] }

    /// Says that it closes the connection, and closes it.
    func closeInOrder() throws {
        tls.close()
        try flush()
        disconnect()
    }

    func helloReply(_ hello: Hello) throws -> Reply {
        try sendHello(hello)
        return try readReply()
    }

    func sendHello(_ hello: Hello) throws {
        let header = RequestHeader(length: UInt32(hello.bytes.count), opcode: Opcode.hello.rawValue)
        try sendRaw(header.bytes + hello.bytes)
    }

    func openReply(
        _ capability: [UInt8], rights: Rights = [], slot: UInt16 = 0, takesOver: Bool = false
    ) throws -> Reply {
        let body = OpenRequest(kind: .volume, rights: rights, takesOver: takesOver, capability: capability)
        return try request(.open, slot: slot, payload: body.bytes)
    }

    /// Opens, or throws what the status says.
    func open(_ capability: [UInt8], rights: Rights = []) throws -> UInt32 {
        let reply = try openReply(capability, rights: rights)
        guard reply.status == .ok, let handle = UInt32(exactly: reply.header.value) else {
            throw TestClientError.refused(reply.status, reply.message)
        }
        return handle
    }

    func write(_ handle: UInt32, at offset: UInt64, _ bytes: [UInt8], slot: UInt16 = 0) throws -> Status? {
        try request(
            .write, slot: slot, handle: handle, offset: offset, count: UInt32(bytes.count), payload: bytes
        ).status
    }

    func read(_ handle: UInt32, at offset: UInt64, _ count: UInt32, slot: UInt16 = 0) throws -> Reply {
        try request(.read, slot: slot, handle: handle, offset: offset, count: count)
    }
}
