import Core
import Reactor
import Wire

/// How long a client waits before its next try to connect: not at all before the first. As long as nobody is there
/// a try costs nobody anything, so that the client tries often at first. It spares a server that answers and cannot
/// serve: it waits a random part of a limit that doubles from 50 ms to 5 s, so that not all clients come at once
/// when it can.
struct Backoff {
    static let firstNanoseconds: UInt64 = 50_000_000
    static let lastNanoseconds: UInt64 = 5_000_000_000
    /// How long after the loss a server is expected back at any moment, and how long soon.
    static let presentNanoseconds: UInt64 = 10_000_000_000
    static let soonNanoseconds: UInt64 = 30_000_000_000
    /// A connection that held for so long was lost for a new reason. One that did not was perhaps lost for the old
    /// one: the client asks a server that opens the volume and breaks off, again and again, ever less often.
    static let steadyNanoseconds: UInt64 = 2_000_000_000

    private(set) var tries = 0

    /// The wait in nanoseconds when the last try has reached nobody, so long after the loss; `random` is any number.
    mutating func nextWhenUnreachable(since elapsed: UInt64, random: UInt64) -> UInt64 {
        guard tries > 0, elapsed < Backoff.soonNanoseconds else { return next(random: random) }
        let limit =
            elapsed < Backoff.presentNanoseconds ? Backoff.firstNanoseconds : 10 * Backoff.firstNanoseconds
        return limit / 5 + random % (limit * 4 / 5 + 1)
    }

    /// How long a TCP connection may take to be made, so long after the loss, where the last one took `usual`: the
    /// kernel sends a lost SYN again after 1, 3 and 7 seconds, and a new connection sends its own at once.
    static func dialMilliseconds(since elapsed: UInt64, usual: UInt64, longest: UInt64) -> UInt64 {
        let patience: UInt64 = elapsed < presentNanoseconds ? 500 : elapsed < soonNanoseconds ? 1000 : longest
        return min(max(patience, usual / 1_000_000 * 4), longest)
    }

    /// The wait in nanoseconds; `random` is any number.
    mutating func next(random: UInt64) -> UInt64 {
        defer { tries += 1 }
        guard tries > 0 else { return 0 }
        let limit =
            tries > 8
            ? Backoff.lastNanoseconds
            : min(Backoff.firstNanoseconds << UInt64(tries - 1), Backoff.lastNanoseconds)
        return random % (limit + 1)
    }

    /// The next loss is a new one.
    mutating func reset() { tries = 0 }

    /// The channel was open for so long.
    mutating func hasHeld(nanoseconds: UInt64) {
        if nanoseconds > Backoff.steadyNanoseconds { tries = 0 }
    }
}

/// The addresses of a server, tried in turn.
struct ServerPlaces {
    private var addresses: [SocketAddress]
    /// Those of them that no server has named.
    private var own: [SocketAddress]
    private var index = 0
    private var failures = 0
    /// Where the server sent its clients, until a server there has shown that it knows the session.
    private var redirect: SocketAddress?
    /// Where the server sent its clients last; the name service need not know it.
    private var advised: SocketAddress?
    /// Where no server knew the session; not gone to again because of the same advice.
    private var rejected: SocketAddress?
    /// How often advice came, or was found to be wrong.
    private(set) var round = 0

    /// At least one address, the best first.
    init(_ addresses: [SocketAddress]) {
        precondition(!addresses.isEmpty, "a server has an address")
        self.addresses = addresses
        own = addresses
    }

    /// How many addresses there are: the own ones, and where the server sent its clients last.
    var count: Int { addresses.count }

    /// Where to connect to now.
    var current: SocketAddress { addresses[index] }

    /// Nobody could be reached there. True when that was so for every address since one worked: it is time to
    /// ask for new ones.
    mutating func failed(_ address: SocketAddress) -> Bool {
        // Several channels fail at once; that is one failure of the place.
        guard address == current else { return false }
        index = (index + 1) % addresses.count
        failures += 1
        guard failures >= addresses.count else { return false }
        failures = 0
        return true
    }

    /// Notes that a server there knows the session. It need not be the current place: a channel that was on its way
    /// when clients were sent elsewhere says nothing of where they were sent.
    mutating func worked(_ address: SocketAddress) {
        failures = 0
        if rejected == address { rejected = nil }
        guard redirect == address else { return }
        redirect = nil
        // A place that clients were sent to by mistake is not one of their server's: what is said there must not
        // count while this server is away for a moment.
        guard let wrong = rejected, !own.contains(wrong) else { return }
        let before = current
        addresses.removeAll { $0 == wrong }
        index = addresses.firstIndex(of: before) ?? 0
        rejected = nil
    }

    /// Goes there next, and to the others if it does not work; false when that did not help before.
    mutating func prefer(_ address: SocketAddress) -> Bool {
        guard address != rejected else { return false }
        let before = advised
        redirect = address
        advised = address
        // A connection that is on its way to where they were sent before says nothing any more.
        round += 1
        addresses.removeAll { $0 == address || $0 == before && !own.contains($0) }
        addresses.insert(address, at: 0)
        index = 0
        failures = 0
        return true
    }

    /// Notes that what is there is none of the cluster's servers.
    mutating func isForeign(_ address: SocketAddress) {
        if address == redirect { (redirect, advised, rejected) = (nil, nil, address) }
    }

    /// The server there does not know the session. True when that says that it is gone; false when the advice to go
    /// there was wrong, and the others are to be asked first.
    ///
    /// - Parameter asked: `round` when the connection was begun: channels go to a wrong place together, and what the
    ///   second of them hears there is no news.
    mutating func isGone(by address: SocketAddress, asked: Int) -> Bool {
        if asked < round, address == rejected || !addresses.contains(address) { return false }
        guard address == redirect, addresses.count > 1 else { return true }
        (redirect, advised, rejected) = (nil, nil, address)
        round += 1
        addresses.removeAll { $0 == address }
        addresses.append(address)
        index = 0
        failures = 0
        return false
    }

    /// Whether no server there knew the session when the clients were sent there. It may be right all the same, if
    /// nobody is found elsewhere.
    func isDoubtful(_ address: SocketAddress) -> Bool { address == rejected }

    /// Takes what the name service says now, if it says anything; where the server sent its clients stays.
    mutating func replace(_ found: [SocketAddress]) {
        guard !found.isEmpty else { return }
        own = found
        var all = found
        if let advised, !all.contains(advised) { all.append(advised) }
        guard all != addresses else { return }
        let old = current
        addresses = all
        index = all.firstIndex(of: old) ?? 0
        failures = 0
    }
}

/// What the failure of one try to get a channel back means for the volume.
enum ReconnectVerdict: Equatable {
    /// The next try may work.
    case retry
    /// The server does not know the session any more: a new one is needed.
    case newSession
    /// The capability has expired, or a clock was set and it has yet to begin: another one is needed.
    case newCapability
    /// Another session writes; a holder that has just died may still let go.
    case conflict
    /// The volume is lost.
    case final

    init(_ error: ChannelError) {
        guard case .refused(let opcode, let status, _) = error else {
            switch error {
            case .closed, .superseded: self = .final
            case .unreachable, .tls, .refused, .violation, .timedOut, .lost, .expired: self = .retry
            }
            return
        }
        switch (opcode, status) {
        case (.hello, .notFound): self = .newSession
        case (.open, .expired), (.open, .notYetValid): self = .newCapability
        case (.open, .writerConflict): self = .conflict
        case (_, .notYetValid): self = .retry
        case (.open, .notFound), (_, .versionMismatch), (_, .badCapability), (_, .wrongHolder),
            (_, .wrongAudience), (_, .denied), (_, .revoked), (_, .staleEpoch), (_, .fenced), (_, .readOnly),
            (_, .expired):
            self = .final
        default: self = .retry
        }
    }
}
