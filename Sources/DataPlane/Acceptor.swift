import Core
import Glibc
import Logging
import Reactor

/// Accepts on one reactor and gives each connection to the reactor with the fewest.
///
/// Confined to its reactor's thread.
final class Acceptor: CompletionTarget {
    /// Where connections go.
    struct Destination {
        let load: ShardLoad
        let adopt: @Sendable (Int32) -> Bool
        let makeRoom: @Sendable () -> Void
    }

    private let reactor: Reactor
    private let listeners: [Int32]
    private let destinations: [Destination]
    private let connectionsMax: Int
    private let logger: Logger
    private var target: TargetID?
    private var refused: UInt64 = 0
    private var refusalLoggedAt: UInt64 = 0

    init(
        reactor: Reactor, listeners: [Int32], destinations: [Destination], connectionsMax: Int, logger: Logger
    ) {
        self.reactor = reactor
        self.listeners = listeners
        self.destinations = destinations
        self.connectionsMax = connectionsMax
        self.logger = logger
    }

    /// Starts accepting.
    func start() {
        let target = reactor.register(self)
        self.target = target
        for token in listeners.indices { accept(token, target) }
    }

    /// Accepts no more.
    func stop() {
        guard let target else { return }
        reactor.unregister(target)
        self.target = nil
    }

    private func accept(_ index: Int, _ target: TargetID) {
        reactor.acceptMultishot(fd: listeners[index], target: target, token: UInt32(index))
    }

    /// A connection, the end of accepting, or the end of a pause (tokens above the listeners').
    func completed(token: UInt32, result: Int32, flags: CompletionFlags) {
        let index = Int(token)
        guard index < listeners.count else {
            if let target { accept(index - listeners.count, target) }
            return
        }
        if result >= 0 { dispatch(result) }
        guard !flags.more, let target else { return }
        if result >= 0 { return accept(index, target) }
        logger.warning("accepting pauses", metadata: ["errno": "\(-result)"])
        _ = reactor.setTimer(
            after: Limits.acceptPauseNanoseconds, target: target, token: UInt32(index + listeners.count))
    }

    private func dispatch(_ fd: Int32) {
        var best = destinations[0]
        var fullest = destinations[0]
        var total = 0
        for destination in destinations {
            total += destination.load.connections
            if destination.load.connections < best.load.connections { best = destination }
            if destination.load.connections > fullest.load.connections { fullest = destination }
        }
        guard target != nil, total < connectionsMax + Limits.connectionsOverMost else { return refuse(fd) }
        if total >= connectionsMax { fullest.makeRoom() }
        best.load.joined()
        if !best.adopt(fd) {
            best.load.left()
            _ = Glibc.close(fd)
        }
    }

    private func refuse(_ fd: Int32) {
        _ = Glibc.close(fd)
        refused += 1
        guard reactor.now &- refusalLoggedAt > 1_000_000_000 else { return }
        refusalLoggedAt = reactor.now
        logger.warning(
            "connections refused: the server has its most",
            metadata: ["most": "\(connectionsMax)", "refused": "\(refused)"])
    }
}
