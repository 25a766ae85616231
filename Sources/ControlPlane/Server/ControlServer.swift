import Core
import Glibc
import Logging
import Reactor
import Synchronization
import TLS

/// Why the control server cannot start.
public enum ControlServerError: Error, Sendable, CustomStringConvertible {
    /// It cannot listen on an address.
    case cannotListen(SocketAddress, ReactorError)
    /// Its reactor cannot be set up.
    case noReactor(ReactorError)
    /// It was started before.
    case alreadyStarted

    /// What went wrong and what to do about it.
    public var description: String {
        switch self {
        case .cannotListen(let address, let error):
            "the control API cannot listen on \(address): \(error)"
                + (error.errno == EADDRINUSE
                    ? "; is another sluiced running there? Choose another address with --control" : "")
        case .noReactor(let error): "the control API cannot start: \(error)"
        case .alreadyStarted: "the control server was started before"
        }
    }
}

/// Serves the control API: HTTP/2 over TLS on a reactor thread of its own.
///
/// Requests go to a `ControlHandler`, whose answers may come in any order. Usable from any thread.
public final class ControlServer: Sendable {
    private struct State {
        var thread: ReactorThread?
        var loop: ControlLoop?
        var addresses: [SocketAddress] = []
        var isStopped = false
        var tls: TLSContext
    }

    private let listen: [SocketAddress]
    private let inherited: [Int32]
    private let reactorOptions: Reactor.Options
    private let limits: ControlServerLimits
    private let handler: any ControlHandler
    private let logger: Logger
    private let state: Mutex<State>

    /// The reactor options that suit a control server: small buffers, few of them.
    public static var defaultReactorOptions: Reactor.Options {
        var options = Reactor.Options()
        options.name = "control"
        options.entries = 1024
        options.receiveBufferBytes = 16 * 1024
        options.receiveBufferCount = 64
        return options
    }

    /// A server that does not listen yet.
    ///
    /// - Parameters:
    ///   - tls: a server context; its ALPN names should be `h2` and, so that clients of HTTP/1.1 get a readable
    ///     refusal, `http/1.1`.
    ///   - listen: where it makes sockets that listen.
    ///   - inherited: sockets that listen already; the server's to close from `start` on.
    public init(
        tls: TLSContext, listen: [SocketAddress], inherited: [Int32] = [],
        reactorOptions: Reactor.Options = ControlServer.defaultReactorOptions,
        limits: ControlServerLimits = ControlServerLimits(), logger: Logger = Logger(label: "sluice.control"),
        handler: any ControlHandler
    ) {
        state = Mutex(State(tls: tls))
        self.listen = listen
        self.inherited = inherited
        self.reactorOptions = reactorOptions
        self.limits = limits
        self.logger = logger
        self.handler = handler
    }

    /// The addresses that the server listens on, with the ports that were chosen; empty before `start`.
    public var boundAddresses: [SocketAddress] { state.withLock { $0.addresses } }

    /// The way into its reactor; nil before `start` and after `stop`.
    public var remote: ReactorRemote? { state.withLock { $0.thread?.remote } }

    /// Listens on every address and starts the reactor's thread.
    public func start() throws(ControlServerError) {
        guard state.withLock({ $0.thread == nil && !$0.isStopped }) else { throw .alreadyStarted }
        let (descriptors, addresses) = try openListeners()
        do {
            let thread = try Reactor.start(reactorOptions) { [self] reactor in
                let loop = ControlLoop(
                    reactor: reactor, tls: state.withLock { $0.tls }, limits: limits, handler: handler,
                    logger: logger)
                state.withLock { $0.loop = loop }
                loop.listen(descriptors)
            }
            state.withLock {
                $0.thread = thread
                $0.addresses = addresses
            }
        } catch {
            for descriptor in descriptors { _ = Glibc.close(descriptor) }
            throw .noReactor(error)
        }
    }

    /// Makes connections of another context from now on; those that are there go on.
    public func use(_ tls: TLSContext) {
        let thread = state.withLock { state in
            state.tls = tls
            return state.thread
        }
        _ = thread?.remote.post { [self] in state.withLock { $0.loop }?.tls = tls }
    }

    /// Takes no new connections and requests, lets those under way finish for at most `graceSeconds`, then
    /// ends.
    public func stop(graceSeconds: Int = 5) async {
        let thread = state.withLock { state in
            defer { state.thread = nil }
            state.isStopped = true
            return state.thread
        }
        guard let thread else { return }
        await withCheckedContinuation { continuation in
            let posted = thread.remote.post { [self] in
                guard let loop = state.withLock({ $0.loop }) else { return continuation.resume() }
                loop.beginStop(graceSeconds: graceSeconds) { continuation.resume() }
            }
            if !posted { continuation.resume() }
        }
        thread.remote.stop()
        thread.join()
        state.withLock { $0.loop = nil }
    }

    private func openListeners() throws(ControlServerError) -> ([Int32], [SocketAddress]) {
        var descriptors: [Int32] = []
        var addresses: [SocketAddress] = []
        for descriptor in inherited {
            // A socket that was found to listen has an address.
            if let address = try? Sockets.localAddress(fd: descriptor) { addresses.append(address) }
            descriptors.append(descriptor)
        }
        for address in listen {
            do {
                let descriptor = try Sockets.listen(address, beside: listen)
                addresses.append(try Sockets.localAddress(fd: descriptor.raw))
                descriptors.append(descriptor.take())
            } catch {
                for descriptor in descriptors { _ = Glibc.close(descriptor) }
                throw .cannotListen(address, error)
            }
        }
        return (descriptors, addresses)
    }
}
