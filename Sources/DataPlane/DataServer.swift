import Core
import Glibc
import Logging
import Reactor
import Services
import Synchronization
import TLS

/// Why the data server could not start.
public struct DataServerError: Error, Sendable, CustomStringConvertible {
    /// One sentence for the operator.
    public let message: String
    /// The message.
    public var description: String { message }
}

/// Serves the data channel: listens, and runs connections on reactors of its own.
///
/// Any thread may use it; `start` and `stop` once each, in this order.
public final class DataServer: Sendable {
    private struct Running {
        var threads: [ReactorThread] = []
        var shards: [(remote: ReactorRemote, shard: Confined<DataShard>)] = []
        var acceptor: (remote: ReactorRemote, acceptor: Confined<Acceptor>)?
        var addresses: [SocketAddress] = []
        var listeners: [Int32] = []
        var loads: [ShardLoad] = []
        /// What new connections are made of; nil for what the server was made with.
        var tls: TLSContext?
    }

    private let services: IOServices
    private let tls: TLSContext
    private let listen: [SocketAddress]
    private let inherited: [Int32]
    private let options: DataServerOptions
    private let running = Mutex(Running())

    /// A server that has not started.
    ///
    /// - Parameters:
    ///   - tls: a server context with `ClientAuthentication.anyKey` and ALPN `sluice/1`.
    ///   - listen: where it makes sockets that listen.
    ///   - inherited: sockets that listen already; the server's to close from `start` on.
    public init(
        services: IOServices, tls: TLSContext, listen: [SocketAddress], inherited: [Int32] = [],
        options: DataServerOptions = DataServerOptions()
    ) {
        self.services = services
        self.tls = tls
        self.listen = listen
        self.inherited = inherited
        self.options = options
    }

    /// The ALPN name of the protocol.
    public static let applicationProtocol = "sluice/1"

    /// Where it listens, with the ports that the system chose; empty before `start`.
    public var boundAddresses: [SocketAddress] { running.withLock { $0.addresses } }

    /// The ways into its reactors, with their names; none before `prepare`.
    public var reactors: [(name: String, remote: ReactorRemote)] {
        running.withLock { running in
            running.threads.enumerated().map { (DataServer.reactorName($0), $1.remote) }
        }
    }

    private static func reactorName(_ number: Int) -> String { "data-\(number)" }

    /// Listens, starts the reactors and begins to accept. Blocks until the reactors run.
    public func start() throws(DataServerError) {
        try prepare()
        accept()
    }

    /// Listens and starts the reactors. Who connects waits until `accept`. Blocks until the reactors run.
    public func prepare() throws(DataServerError) {
        let (listeners, addresses) = try openListeners()
        let loads = (0..<max(options.reactors, 1)).map { _ in ShardLoad() }
        running.withLock { running in
            running.addresses = addresses
            running.listeners = listeners
            running.loads = loads
        }
        for (number, load) in loads.enumerated() { try startReactor(number, load) }
    }

    /// Begins to accept, after `prepare`.
    public func accept() {
        let (shards, loads, listeners, addresses) = running.withLock {
            ($0.shards, $0.loads, $0.listeners, $0.addresses)
        }
        let destinations = zip(loads, shards).map { load, entry in
            Acceptor.Destination(
                load: load, adopt: { fd in entry.remote.post { entry.shard.value.adopt(fd) } },
                makeRoom: { entry.remote.post { entry.shard.value.makeRoom() } })
        }
        let options = options
        let logger = services.configuration.logger
        let first = shards[0].remote
        let acceptor = first.call { reactor in
            let acceptor = Acceptor(
                reactor: reactor, listeners: listeners, destinations: destinations,
                connectionsMax: options.connectionsMax, logger: logger)
            acceptor.start()
            return Confined(acceptor)
        }
        guard let acceptor else {
            return logger.error("the data channel does not listen: its first reactor has ended")
        }
        running.withLock { $0.acceptor = (first, acceptor) }
        logger.info(
            "data channel listens",
            metadata: ["addresses": "\(addresses.map(\.description).joined(separator: " "))"])
    }

    /// Makes connections of another context from now on; those that are there go on.
    public func use(_ tls: TLSContext) {
        let shards = running.withLock { running in
            running.tls = tls
            return running.shards
        }
        for (remote, shard) in shards { _ = remote.post { shard.value.tls = tls } }
    }

    /// Closes the listeners and every connection, waits for what is in flight, and ends the reactors.
    public func stop() async {
        let running = running.withLock { running in
            let before = running
            running = Running()
            return before
        }
        if let (remote, acceptor) = running.acceptor {
            await onReactor(remote) { done in
                acceptor.value.stop()
                done()
            }
        }
        for listener in running.listeners { _ = Glibc.close(listener) }
        // Together: clients wait from when the first is told until the last is answered.
        await withTaskGroup { group in
            for (remote, shard) in running.shards {
                group.addTask { await self.onReactor(remote) { done in shard.value.stop(done) } }
            }
        }
        for thread in running.threads {
            thread.remote.stop()
            thread.join()
        }
    }

    // MARK: Helpers

    private func openListeners() throws(DataServerError) -> ([Int32], [SocketAddress]) {
        var listeners: [Int32] = []
        var addresses: [SocketAddress] = []
        for fd in inherited {
            do throws(ReactorError) { addresses.append(try Sockets.localAddress(fd: fd)) } catch {
                throw DataServerError(message: "cannot listen on descriptor \(fd): \(error)")
            }
            listeners.append(fd)
        }
        for address in listen {
            do throws(ReactorError) {
                let socket = try Sockets.listen(
                    address, beside: listen, backlog: Limits.acceptBacklog)
                addresses.append(try Sockets.localAddress(fd: socket.raw))
                listeners.append(socket.take())
            } catch {
                for listener in listeners { _ = Glibc.close(listener) }
                throw DataServerError(message: "cannot listen on \(address): \(error)")
            }
        }
        return (listeners, addresses)
    }

    private func startReactor(_ number: Int, _ load: ShardLoad) throws(DataServerError) {
        var reactorOptions = Reactor.Options()
        reactorOptions.name = DataServer.reactorName(number)
        reactorOptions.receiveBufferCount = options.receiveBufferCount
        reactorOptions.pollNanoseconds = options.pollNanoseconds
        reactorOptions.cpu = number < options.cpus.count ? options.cpus[number] : nil
        let answer = OneShot<Result<Confined<DataShard>, StatusError>>()
        let (services, tls, options) = (services, running.withLock { $0.tls } ?? tls, options)
        let thread: ReactorThread
        do throws(ReactorError) {
            thread = try Reactor.start(reactorOptions) { reactor in
                do throws(StatusError) {
                    let shard = DataShard(
                        reactor: reactor, services: try services.makeShard(reactor: reactor), tls: tls,
                        options: options, load: load, configuration: services.configuration)
                    answer.give(.success(Confined(shard)))
                } catch { answer.give(.failure(error)) }
            }
        } catch { throw DataServerError(message: "\(error)") }
        let result = answer.take()
        running.withLock { $0.threads.append(thread) }
        switch result {
        case .success(let shard): running.withLock { $0.shards.append((thread.remote, shard)) }
        case .failure(let error): throw DataServerError(message: "\(error)")
        }
    }

    private func onReactor(
        _ remote: ReactorRemote, _ body: @escaping @Sendable (_ done: @escaping @Sendable () -> Void) -> Void
    ) async {
        await withCheckedContinuation { (continuation: CheckedContinuation<Void, Never>) in
            if !remote.post({ body { continuation.resume() } }) { continuation.resume() }
        }
    }
}
