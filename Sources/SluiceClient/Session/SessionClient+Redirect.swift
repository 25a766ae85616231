import Core
import Reactor
import Wire

/// A server that is to be left, and where to go instead.
extension SessionClient {
    /// Hears that the server of the channel goes away within so many seconds, and where to go. The client neither
    /// goes to nor looks at a place that the server's certificate does not name: from a look the server could learn
    /// what else this machine reaches.
    func drains(_ channel: DataChannel<Link>, seconds: UInt64, target: String) {
        guard !target.isEmpty, options.reconnects else { return }
        let from = channel.address
        let known = channel.link.serverNames
        if let place = try? SocketAddress(text: target) {
            guard known.cover(place) else { return refuse(target) }
            return follow(place, from: from, within: seconds)
        }
        guard let resolve = options.resolve, known.cover(placeText: target) else { return refuse(target) }
        let remote = reactor.remote
        let answer = PlacesAnswer { [weak self] found in
            guard let place = found.first(where: known.mayHave) else { return self?.refuse(target) ?? () }
            self?.follow(place, from: from, within: seconds)
        }
        resolve(target) { found in remote.post { answer.take(found) } }
    }

    private func refuse(_ target: String) {
        ignore("the server sends its clients to \(target), where its certificate does not name it")
    }

    /// Goes to `place` when the server there can be reached; until then the connections that there are do.
    private func follow(_ place: SocketAddress, from: SocketAddress, within seconds: UInt64) {
        guard ending == nil, place != from, place.port > 0, places.prefer(place) else { return }
        guard seconds > 0, isReady, move?.address != place else { return }
        move?.stop()
        let spread = min(Nanoseconds.seconds(seconds) / 8, SessionTimes.spreadNanoseconds)
        move = PlaceProbe(
            reactor: reactor, transport: transport, address: place,
            afterNanoseconds: randomNumber() % (spread + 1),
            forSeconds: seconds.addingSaturated(SessionTimes.latenessSeconds)
        ) { [weak self] in self?.leave(for: place) }
    }

    /// Ends each connection when its requests are answered; the next one of its channel is made there.
    private func leave(for place: SocketAddress) {
        move = nil
        for member in members {
            guard let channel = member.channel, channel.address != place else { continue }
            channel.leave("its server is drained, what it serves is at \(place) from now on")
        }
    }
}

/// Carries the name service's answer to the reactor's thread.
final class PlacesAnswer: @unchecked Sendable {
    // SAFETY: made and taken on the reactor's thread; only the reference passes through others.
    private var use: (([SocketAddress]) -> Void)?

    init(_ use: @escaping ([SocketAddress]) -> Void) { self.use = use }

    func take(_ found: [SocketAddress]) {
        use?(found)
        use = nil
    }
}
