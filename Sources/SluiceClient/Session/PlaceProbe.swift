import Core
import Reactor

/// Asks again and again whether a place takes connections, until it does or the time is over.
///
/// Lives on one reactor and is used on its thread only.
final class PlaceProbe: CompletionTarget {
    let address: SocketAddress
    private let reactor: Reactor
    private let until: UInt64
    private var found: (() -> Void)?
    private var target: TargetID?
    private var timer: TimerID?
    private var socket: FileDescriptor?

    private static let pauseNanoseconds: UInt64 = 1_000_000_000

    private enum Token {
        static let connect: UInt32 = 1
        static let timer: UInt32 = 2
    }

    /// Begins after a while; `found` is called once, if at all.
    init(
        reactor: Reactor, address: SocketAddress, afterNanoseconds: UInt64, forSeconds: UInt64,
        found: @escaping () -> Void
    ) {
        self.reactor = reactor
        self.address = address
        self.found = found
        until = reactor.now.addingSaturated(Nanoseconds.seconds(forSeconds))
        let target = reactor.register(self)
        self.target = target
        timer = reactor.setTimer(after: afterNanoseconds, target: target, token: Token.timer)
    }

    /// Asks no more.
    func stop() {
        found = nil
        guard let target else { return }
        if let timer { reactor.cancelTimer(timer) }
        timer = nil
        guard let fd = socket?.raw else { return finish() }
        Sockets.shutdown(fd: fd)
        reactor.cancel(target: target, token: Token.connect)
    }

    func completed(token: UInt32, result: Int32, flags: CompletionFlags) {
        if token == Token.timer {
            timer = nil
            return timePassed()
        }
        socket = nil
        if let timer { reactor.cancelTimer(timer) }
        timer = nil
        guard let found else { return finish() }
        guard result >= 0 else { return rest() }
        self.found = nil
        finish()
        found()
    }

    /// The time for one try, or between two, is over.
    private func timePassed() {
        guard let target, found != nil else { return }
        if let fd = socket?.raw {
            Sockets.shutdown(fd: fd)
            return reactor.cancel(target: target, token: Token.connect)
        }
        guard reactor.now < until, let made = try? Sockets.stream(family: address.family) else {
            return finish()
        }
        let fd = made.raw
        socket = consume made
        timer = reactor.setTimer(after: PlaceProbe.pauseNanoseconds, target: target, token: Token.timer)
        reactor.connect(fd: fd, address: address, target: target, token: Token.connect)
    }

    private func rest() {
        guard let target else { return }
        timer = reactor.setTimer(after: PlaceProbe.pauseNanoseconds, target: target, token: Token.timer)
    }

    private func finish() {
        guard let target else { return }
        self.target = nil
        reactor.unregister(target)
    }
}
