import Core
import Reactor
import Wire

/// How long to wait before the next try to connect: none before the first, then a random part of a limit that
/// doubles from 50 ms to 5 s, so that the clients of a server that comes back do not come all at once.
struct Backoff {
    static let firstNanoseconds: UInt64 = 50_000_000
    static let lastNanoseconds: UInt64 = 5_000_000_000

    private var tries = 0

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

    /// The connection has held: the next loss is a new one.
    mutating func reset() { tries = 0 }
}

/// The addresses of a server, tried in turn.
struct ServerPlaces {
    private var addresses: [SocketAddress]
    private var index = 0
    private var failures = 0

    /// At least one address, the best first.
    init(_ addresses: [SocketAddress]) {
        precondition(!addresses.isEmpty, "a server has an address")
        self.addresses = addresses
    }

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

    /// A server answered at the current address.
    mutating func worked() { failures = 0 }

    /// Goes there next, and to the others if it does not work.
    mutating func prefer(_ address: SocketAddress) {
        addresses.removeAll { $0 == address }
        addresses.insert(address, at: 0)
        index = 0
        failures = 0
    }

    /// Takes what the name service says now, if it says anything.
    mutating func replace(_ found: [SocketAddress]) {
        guard !found.isEmpty, found != addresses else { return }
        let old = current
        addresses = found
        index = found.firstIndex(of: old) ?? 0
        failures = 0
    }
}

/// What the failure of one try to get a channel back means for the volume.
enum ReconnectVerdict: Equatable {
    /// The next try may work.
    case retry
    /// The server does not know the session any more: a new one is needed.
    case newSession
    /// The capability has expired: another one is needed.
    case newCapability
    /// Another session writes; a holder that has just died may still let go.
    case conflict
    /// The volume is lost.
    case final

    init(_ error: ChannelError) {
        guard case .refused(let opcode, let status, _) = error else {
            switch error {
            case .closed, .superseded: self = .final
            case .unreachable, .tls, .refused, .violation, .timedOut, .lost: self = .retry
            }
            return
        }
        switch (opcode, status) {
        case (.hello, .notFound): self = .newSession
        case (.open, .expired): self = .newCapability
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
