import Core
import Reactor
import TLS

/// TLS over a TCP connection to the data port of an I/O server.
@safe
public final class SecureLink: ChannelLink, CompletionTarget, BatchTarget {
    /// The application protocol that is offered in the handshake.
    public static let protocolName = "sluice/1"

    private enum Token {
        static let connect: UInt32 = 1
        static let receive: UInt32 = 2
        static let send: UInt32 = 3
        static let linger: UInt32 = 4
    }

    /// Where it connects to.
    public let address: SocketAddress

    private let reactor: Reactor
    private let tls: TLSConnection
    /// Whom it tells what happens; kept alive until the kernel has nothing of either.
    private var channel: DataChannel<SecureLink>?
    /// The same, for every wake-up.
    private var user: Borrowed<DataChannel<SecureLink>>?
    private var target: TargetID?
    private var socket: FileDescriptor?
    /// Operations that the kernel still has: the link's memory and socket are theirs until they end.
    private var operations = 0
    private var sending: OutputBuffer?
    /// How much of `sending` the socket has taken.
    private var sent = 0
    private var isHandshaken = false
    /// The channel has ended it.
    private var isEnded = false
    /// The reactor has called, and the channel may be in the middle of something.
    private var isInside = false

    private static let lingerNanoseconds: UInt64 = 1_000_000_000

    init(
        reactor: Reactor, address: SocketAddress, serverName: String, tls context: TLSContext,
        buffers: TLSBufferPool
    ) throws(ChannelError) {
        self.reactor = reactor
        self.address = address
        do throws(TLSError) {
            tls = try TLSConnection(context: context, serverName: serverName, buffers: buffers)
        } catch {
            throw .tls(error)
        }
    }

    /// What the server is known by.
    public var serverNames: ServerNames {
        ServerNames(certificate: tls.peerCertificate, connected: address)
    }

    // MARK: Opening

    /// For the channel.
    public func connect(for channel: DataChannel<SecureLink>) throws(ChannelError) {
        self.channel = channel
        user = Borrowed(channel)
        let target = reactor.register(self)
        self.target = target
        let socket: FileDescriptor
        do throws(ReactorError) {
            socket = try Sockets.stream(family: address.family)
        } catch {
            throw .unreachable(address: address.description, reason: error.description)
        }
        let fd = socket.raw
        self.socket = consume socket
        Sockets.setNoDelay(fd: fd)
        Sockets.setKeepAlive(fd: fd, idleSeconds: 30, intervalSeconds: 10)
        operations += 1
        reactor.connect(fd: fd, address: address, target: target, token: Token.connect)
    }

    private func connectCompleted(_ result: Int32) {
        operations -= 1
        guard !isEnded, let target, let fd = socket?.raw else { return finish() }
        guard result >= 0 else {
            let reason = ReactorError.text(errno: -result)
            return fail(.unreachable(address: address.description, reason: reason))
        }
        user?.with { $0.linkConnected() }
        operations += 1
        reactor.receiveMultishot(fd: fd, target: target, token: Token.receive)
        do throws(TLSError) {
            _ = try tls.handshake()
        } catch {
            return fail(.tls(error))
        }
        send()
    }

    private func fail(_ error: ChannelError) { user?.with { $0.end(error) } }

    // MARK: Bytes in

    private func receiveCompleted(_ result: Int32, _ flags: CompletionFlags) {
        if !flags.more { operations -= 1 }
        guard !isEnded else {
            if flags.hasBuffer { reactor.recycle(flags) }
            return finish()
        }
        guard result > 0, flags.hasBuffer else {
            if flags.hasBuffer { reactor.recycle(flags) }
            return fail(.lost(result == 0 ? "the server closed it" : ReactorError.text(errno: -result)))
        }
        user?.with { $0.linkHeard() }
        unsafe tls.feed(
            reactor.receiveBuffer(flags, count: Int(result)), headroom: Limits.receiveHeadroomBytes)
        let failure = takeIn()
        tls.endInput()
        reactor.recycle(flags)
        let end = failure ?? (flags.more ? nil : .lost("the server closed it"))
        user?.with { $0.linkHasNoMore(end) }
    }

    /// Has the channel take all that has arrived; what went wrong, if anything did.
    private func takeIn() -> ChannelError? {
        if !isHandshaken {
            do throws(TLSError) {
                guard try tls.handshake() else { return nil }
            } catch {
                return .tls(error)
            }
            isHandshaken = true
            guard tls.alpn == SecureLink.protocolName else {
                return .violation("it does not speak \(SecureLink.protocolName)")
            }
            user?.with { $0.linkSecured() }
        }
        return user?.with { $0.linkHasInput() } ?? nil
    }

    /// For the channel.
    public func read(into room: UnsafeMutableRawBufferPointer) throws(ChannelError) -> Int? {
        do throws(TLSError) {
            return try unsafe tls.read(into: room)
        } catch {
            throw .tls(error)
        }
    }

    // MARK: Bytes out

    /// Ciphertext that waits.
    public var pendingBytes: Int { tls.output.pendingBytes }

    /// Whether the kernel has a send.
    public var isSending: Bool { sending != nil }

    /// Encrypts the bytes.
    public func write(_ bytes: UnsafeRawBufferPointer) throws(ChannelError) {
        do throws(TLSError) {
            unsafe try tls.write(bytes)
        } catch {
            throw .tls(error)
        }
    }

    /// For the channel.
    public func send() {
        guard target != nil, socket != nil, beginSend() else { return }
        sendRest()
    }

    /// What the socket takes at once does not wait for a turn of the reactor, so that more may follow.
    public func sendEarly() {
        guard target != nil, let fd = socket?.raw, beginSend() else { return }
        sent += unsafe Sockets.sendNow(fd: fd, sendingBytes)
        if unsafe sendingBytes.isEmpty {
            _ = endSend(0)
            return
        }
        sendRest()
        reactor.submit()
    }

    /// Takes what is encrypted for a send, unless one is in flight; false when there is nothing to send.
    private func beginSend() -> Bool {
        guard sending == nil, tls.output.pendingBytes > 0 else { return false }
        sending = tls.takeOutput()
        return true
    }

    /// The bytes of the send in flight.
    private var sendingBytes: UnsafeRawBufferPointer {
        switch sending {
        case .some(let buffer): unsafe UnsafeRawBufferPointer(rebasing: buffer.bytes[sent...])
        case .none: unsafe UnsafeRawBufferPointer(start: nil, count: 0)
        }
    }

    private func sendRest() {
        guard let target, let fd = socket?.raw else { return }
        operations += 1
        unsafe reactor.send(fd: fd, sendingBytes, target: target, token: Token.send)
    }

    /// Ends the send in flight: `count` bytes more went out. False when that was not all.
    private func endSend(_ count: Int) -> Bool {
        guard let buffer = sending.take() else { return false }
        let isAll = sent + count == buffer.count
        sent = 0
        tls.giveBack(buffer)
        return isAll
    }

    private func sendCompleted(_ result: Int32) {
        operations -= 1
        let isAll = endSend(Int(max(result, 0)))
        if isEnded {
            if isAll, tls.output.pendingBytes > 0 { send() } else { hangUp() }
            return finish()
        }
        guard isAll else {
            return fail(.lost(result < 0 ? ReactorError.text(errno: -result) : "the server stopped reading"))
        }
        user?.with { $0.linkHasSent() }
    }

    /// For the channel.
    public func isUnheard(milliseconds: UInt32) -> Bool {
        guard let fd = socket?.raw else { return false }
        return Sockets.isUnheard(fd: fd, milliseconds: milliseconds)
    }

    // MARK: The end

    /// For the channel.
    public func end(inOrder: Bool) {
        isEnded = true
        if inOrder { sayGoodbye() } else { hangUp() }
        finish()
    }

    /// Sends what waits and a close_notify, for a second at most.
    private func sayGoodbye() {
        tls.close()
        if sending == nil { send() }
        if sending != nil, let target {
            _ = reactor.setTimer(
                after: SecureLink.lingerNanoseconds, target: target, token: Token.linger)
        } else {
            hangUp()
        }
    }

    /// Makes the operations of the socket end.
    private func hangUp() {
        guard let target, let fd = socket?.raw, operations > 0 else { return }
        Sockets.shutdown(fd: fd)
        reactor.cancel(target: target, token: Token.connect)
        reactor.cancel(target: target, token: Token.receive)
    }

    /// Lets go of the socket and the reactor once the kernel has nothing of ours.
    private func finish() {
        guard isEnded, operations == 0, let target else { return }
        socket = nil
        self.target = nil
        reactor.unregister(target)
        if !isInside { letGo() }
    }

    private func letGo() {
        user = nil
        channel = nil
    }

    // MARK: The reactor

    /// For the reactor.
    public func completed(token: UInt32, result: Int32, flags: CompletionFlags) {
        isInside = true
        switch token {
        case Token.receive: receiveCompleted(result, flags)
        case Token.send: sendCompleted(result)
        case Token.connect: connectCompleted(result)
        case Token.linger: hangUp()
        default: preconditionFailure("a completion that nobody asked for")
        }
        isInside = false
        if target == nil { letGo() }
    }

    /// For the channel.
    public func askForBatchEnd() { reactor.atBatchEnd(self) }

    /// For the reactor.
    public func batchEnded() {
        isInside = true
        user?.with { $0.batchEnded() }
        isInside = false
        if target == nil { letGo() }
    }
}
