import Core
import Reactor

/// Asks again and again whether a place takes connections, until it does or the time is over.
///
/// Lives on one reactor and is used on its thread only.
final class PlaceProbe<Transport: SessionTransport>: CompletionTarget {
    let address: SocketAddress
    private let reactor: Reactor
    private let transport: Transport
    private let until: UInt64
    private var found: (() -> Void)?
    private var target: TargetID?
    private var timer: TimerID?
    private var dial: Transport.Dial?

    /// For one look, and between two.
    private static var pauseNanoseconds: UInt64 { 1_000_000_000 }

    /// Begins after a while; `found` is called once, if at all.
    init(
        reactor: Reactor, transport: Transport, address: SocketAddress, afterNanoseconds: UInt64,
        forSeconds: UInt64, found: @escaping () -> Void
    ) {
        self.reactor = reactor
        self.transport = transport
        self.address = address
        self.found = found
        until = reactor.now.addingSaturated(Nanoseconds.seconds(forSeconds))
        let target = reactor.register(self)
        self.target = target
        timer = reactor.setTimer(after: afterNanoseconds, target: target, token: 0)
    }

    /// Asks no more.
    func stop() {
        found = nil
        finish()
    }

    /// For the reactor: the time for one look, or between two, is over.
    func completed(token: UInt32, result: Int32, flags: CompletionFlags) {
        timer = nil
        if let dial {
            dial.stop()
            self.dial = nil
            return rest()
        }
        guard reactor.now < until else { return finish() }
        dial = transport.dial(address, on: reactor) { [weak self] isThere in self?.answered(isThere) }
        rest()
    }

    private func answered(_ isThere: Bool) {
        dial = nil
        guard let found else { return }
        guard isThere else {
            if let timer { reactor.cancelTimer(timer) }
            return rest()
        }
        self.found = nil
        finish()
        found()
    }

    private func rest() {
        guard let target else { return }
        timer = reactor.setTimer(after: PlaceProbe.pauseNanoseconds, target: target, token: 0)
    }

    private func finish() {
        dial?.stop()
        dial = nil
        if let timer { reactor.cancelTimer(timer) }
        timer = nil
        guard let target else { return }
        self.target = nil
        reactor.unregister(target)
    }
}
