import Core
import Reactor
import TLS

/// Connects to data ports: TLS over TCP.
public final class SecureTransport: SessionTransport {
    private let serverName: String
    private let tls: TLSContext
    private let buffers: TLSBufferPool

    /// - Parameters:
    ///   - serverName: the DNS name or IP address that the server's certificate must be for.
    ///   - tls: a client's context with ALPN `sluice/1` and the identity that capabilities are bound to.
    ///   - buffers: may be shared by everything on the reactor that uses TLS.
    init(serverName: String, tls: TLSContext, buffers: TLSBufferPool) {
        self.serverName = serverName
        self.tls = tls
        self.buffers = buffers
    }

    /// A link that is not connected yet.
    public func makeLink(
        to address: SocketAddress, on reactor: Reactor
    ) throws(ChannelError) -> SecureLink {
        try SecureLink(
            reactor: reactor, address: address, serverName: serverName, tls: tls, buffers: buffers)
    }

    /// Makes a TCP connection to the place and ends it.
    public func dial(
        _ address: SocketAddress, on reactor: Reactor, _ answer: @escaping (_ isThere: Bool) -> Void
    ) -> SocketDial? {
        guard let socket = try? Sockets.stream(family: address.family) else { return nil }
        return SocketDial(reactor: reactor, socket: socket, address: address, answer)
    }
}

/// One TCP connection that is made in order to see whether it can be.
public final class SocketDial: PlaceDial, CompletionTarget {
    private let reactor: Reactor
    private let socket: FileDescriptor
    private var answer: ((Bool) -> Void)?
    private var target: TargetID?

    init(
        reactor: Reactor, socket: consuming FileDescriptor, address: SocketAddress,
        _ answer: @escaping (Bool) -> Void
    ) {
        self.reactor = reactor
        self.socket = socket
        self.answer = answer
        let target = reactor.register(self)
        self.target = target
        reactor.connect(fd: self.socket.raw, address: address, target: target, token: 0)
    }

    /// For whoever asked.
    public func stop() {
        answer = nil
        guard let target else { return }
        Sockets.shutdown(fd: socket.raw)
        reactor.cancel(target: target, token: 0)
    }

    /// For the reactor.
    public func completed(token: UInt32, result: Int32, flags: CompletionFlags) {
        guard let target else { return }
        self.target = nil
        reactor.unregister(target)
        let told = answer
        answer = nil
        told?(result >= 0)
    }
}
