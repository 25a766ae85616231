import Core
import Foundation
import Glibc
import Reactor
import Synchronization
import TLS
import Wire

/// What a peer's script ran into; it ends the connection.
struct PeerEnded: Error {}

/// A server that does what a script says, right or wrong, on a thread of its own for each connection.
final class ScriptedPeer: Sendable {
    typealias Script = @Sendable (PeerConnection) throws -> Void

    /// The authority, and the identities of both sides.
    struct Identities: Sendable {
        let caPEM: [UInt8]
        let server: TLSContext.Identity
        let client: TLSContext.Identity

        init() throws {
            let authority = try CertificateAuthority.create(commonName: "Sluice test CA", validDays: 2)
            let key = PrivateKey.generateP256()
            let certificate = try authority.issueServer(
                key: key, names: ["localhost"], addresses: ["127.0.0.1"], days: 1)
            server = TLSContext.Identity(chainPEM: certificate.pem, key: key)
            let clientKey = PrivateKey.generateP256()
            let clientCertificate = try authority.issueClient(
                key: clientKey, commonName: "node-1", role: "node", uris: [], validSeconds: 3600)
            client = TLSContext.Identity(chainPEM: clientCertificate.pem, key: clientKey)
            caPEM = authority.certificate.pem
        }

        func clientContext() throws -> TLSContext {
            try .client(identity: client, trust: .authority(caPEM: caPEM), alpn: ["sluice/1"])
        }
    }

    let address: SocketAddress
    private let listener: Int32

    /// Listens; `script` runs for each connection, after the handshake unless `handshakes` is false.
    init(
        _ identities: Identities, alpn: [String] = ["sluice/1"], handshakes: Bool = true,
        script: @escaping Script
    ) throws {
        let context = try TLSContext.server(
            chainPEM: identities.server.chainPEM, key: identities.server.key, clients: .anyKey, alpn: alpn)
        let socket = try Sockets.listen(try SocketAddress(text: "127.0.0.1:0"))
        address = try Sockets.localAddress(fd: socket.raw)
        let fd = socket.take()
        listener = fd
        Thread.detachNewThread {
            var index = 0
            while true {
                let client = accept(fd, nil, nil)
                guard client >= 0 else { return }
                let number = index
                index += 1
                Thread.detachNewThread {
                    defer { _ = Glibc.close(client) }
                    guard let connection = try? PeerConnection(fd: client, index: number, context: context)
                    else { return }
                    try? connection.run(handshakes: handshakes, script)
                }
            }
        }
    }

    deinit {
        // Ends accept in the listening thread.
        Sockets.shutdown(fd: listener)
        _ = Glibc.close(listener)
    }
}

/// The peer's end of one connection; blocking.
final class PeerConnection {
    /// The number of the connection, from 0.
    let index: Int
    /// How many bytes of ciphertext each receive brought.
    private(set) var receives: [Int] = []
    /// Bytes of plaintext after which the peer cuts the connection, each way.
    var sendsAtMost = Int.max
    var receivesAtMost = Int.max
    private(set) var sent = 0
    private(set) var taken = 0
    private let fd: Int32
    private let tls: TLSConnection
    private var received: [UInt8] = []

    init(fd: Int32, index: Int, context: TLSContext) throws {
        self.fd = fd
        self.index = index
        tls = try TLSConnection(context: context)
        Sockets.setNoDelay(fd: fd)
    }

    func run(handshakes: Bool, _ script: ScriptedPeer.Script) throws {
        if handshakes {
            while !(try tls.handshake()) { try feed() }
            try flush()
        }
        try script(self)
        tls.close()
        try flush()
    }

    // MARK: Bytes

    private func feed() throws {
        try flush()
        var buffer = [UInt8](repeating: 0, count: 1 << 16)
        let count = unsafe buffer.withUnsafeMutableBytes { unsafe recv(fd, $0.baseAddress, $0.count, 0) }
        if count < 0, errno == EINTR { return }
        guard count > 0 else { throw PeerEnded() }
        receives.append(count)
        unsafe buffer.withUnsafeBytes { bytes in
            unsafe tls.feed(UnsafeRawBufferPointer(rebasing: bytes[..<count]))
            tls.endInput()
        }
    }

    private func flush() throws {
        while tls.output.pendingBytes > 0 {
            let count = unsafe tls.output.withPending { bytes in
                unsafe Glibc.send(fd, bytes.baseAddress, bytes.count, Int32(MSG_NOSIGNAL))
            }
            guard count > 0 else { throw PeerEnded() }
            tls.output.consumed(count)
        }
    }

    func take(_ count: Int) throws -> [UInt8] {
        if count > receivesAtMost - taken {
            _ = try waitFor(receivesAtMost - taken)
            try cut()
        }
        return try waitFor(count)
    }

    private func waitFor(_ count: Int) throws -> [UInt8] {
        var buffer = [UInt8](repeating: 0, count: 1 << 16)
        while received.count < count {
            guard let got = unsafe try buffer.withUnsafeMutableBytes({ unsafe try tls.read(into: $0) }) else {
                try feed()
                continue
            }
            guard got > 0 else { throw PeerEnded() }
            received += buffer[..<got]
        }
        defer { received.removeFirst(count) }
        taken += count
        return Array(received[..<count])
    }

    /// Sends plaintext as it is, in one record where it fits.
    func send(_ bytes: [UInt8]) throws {
        let piece = bytes.prefix(max(sendsAtMost - sent, 0))
        sent += piece.count
        unsafe try piece.withUnsafeBytes { unsafe try tls.write($0) }
        try flush()
        if piece.count < bytes.count { try cut() }
    }

    /// Sends bytes below TLS.
    func sendCiphertext(_ bytes: [UInt8]) {
        _ = unsafe bytes.withUnsafeBytes {
            unsafe Glibc.send(fd, $0.baseAddress, $0.count, Int32(MSG_NOSIGNAL))
        }
    }

    /// Waits until the client has gone.
    func waitForEnd() throws {
        while true { _ = try take(1) }
    }

    /// Ends the connection without a close_notify.
    func cut() throws -> Never {
        Sockets.shutdown(fd: fd)
        throw PeerEnded()
    }

    // MARK: Frames

    func nextRequest() throws -> (header: RequestHeader, payload: [UInt8]) {
        guard let header = RequestHeader(bytes: try take(Limits.headerBytes)) else { throw PeerEnded() }
        return (header, try take(Int(header.length)))
    }

    func reply(
        _ request: RequestHeader, _ status: Status = .ok, payload: [UInt8] = [], value: UInt64? = nil
    ) throws {
        try send(
            ReplyHeader(
                to: request, status: status, length: UInt32(payload.count),
                value: value ?? (status == .ok ? UInt64(request.count) : 0)
            ).bytes + payload)
    }

    /// Takes HELLO and answers it as a right server does.
    @discardableResult
    func greet(slots: UInt16 = 9, payloadBytesMax: UInt32 = 1 << 20) throws -> Hello {
        let (header, body) = try nextRequest()
        let hello = try Hello(bytes: body)
        try reply(
            header, payload: PeerConnection.greeting(for: hello, slots: slots, payload: payloadBytesMax).bytes
        )
        return hello
    }

    static func greeting(for hello: Hello, slots: UInt16, payload: UInt32) -> HelloReply {
        HelloReply(
            slots: min(slots, max(hello.slots, 1)), payloadBytesMax: payload,
            session: hello.isJoining ? hello.session : Identifier(high: 1, low: 2),
            secret: hello.isJoining ? nil : Array(1...32), channel: 0, cluster: Identifier(high: 3, low: 4),
            serverName: "peer")
    }

    /// Takes OPEN and answers it with handle 7.
    @discardableResult
    func answerOpen(_ state: ResourceState = PeerConnection.volume()) throws -> OpenRequest {
        let (header, body) = try nextRequest()
        let request = try OpenRequest(bytes: body)
        try reply(header, payload: state.bytes, value: 7)
        return request
    }

    static func volume(size: UInt64 = 1 << 20) -> ResourceState {
        ResourceState(
            size: size, blockSize: 512, transferBytesMax: 1 << 20, rights: [.read, .write, .discard, .flush],
            accessMode: .singleWriter, range: ByteRange(offset: 0, length: size)!,
            expiry: 4_000_000_000,
            resource: Identifier(high: 5, low: 6), capability: Identifier(high: 7, low: 8), epoch: 1)
    }
}

/// A small volume in memory that scripted peers share.
final class PeerVolume: Sendable {
    private let bytes: Mutex<[UInt8]>

    init(size: Int) {
        bytes = Mutex([UInt8](repeating: 0, count: size))
    }

    /// Spoils a byte behind the client's back.
    func spoil(at offset: Int) {
        bytes.withLock { $0[offset] ^= 0xff }
    }

    /// Serves a connection until the client ends it.
    func serve(_ connection: PeerConnection, slots: UInt16 = 256) throws {
        try connection.greet(slots: slots)
        let size = bytes.withLock { UInt64($0.count) }
        while true {
            let (header, payload) = try connection.nextRequest()
            switch header.knownOpcode {
            case .open:
                try connection.reply(header, payload: PeerConnection.volume(size: size).bytes, value: 7)
            case .stat, .renew: try connection.reply(header, payload: PeerConnection.volume(size: size).bytes)
            case .read:
                let range = Int(header.offset)..<Int(header.offset) + Int(header.count)
                let data = bytes.withLock { Array($0[range]) }
                try connection.reply(header, payload: data, value: UInt64(header.count))
            case .write:
                bytes.withLock {
                    $0.replaceSubrange(Int(header.offset)..<Int(header.offset) + payload.count, with: payload)
                }
                try connection.reply(header, value: UInt64(header.count))
            default: try connection.reply(header)
            }
        }
    }
}
