/// Where a connection is in its life: what of the input is looked at, and what ends it when it takes too long.
///
/// A value without I/O: whoever changes it does what the change returns.
enum ConnectionPhase: Equatable {
    /// TLS is not established.
    case handshake(since: UInt64)
    /// HELLO has not arrived.
    case greeting(since: UInt64)
    /// HELLO waits for the end of the connection whose channel it resumes, for as long as that takes.
    case resuming
    case open
    /// No further request is taken; it ends when those before are answered.
    case finishing(Finishing)
    /// What waits is sent, then the connection ends.
    case closing(Closing)
    /// Everything was sent; waiting for the peer to notice.
    case lingering(Closing)
    case closed

    struct Finishing: Equatable {
        /// Whether the last request has not arrived whole, so that it is never answered.
        let hasHalfRequest: Bool
    }

    struct Closing: Equatable {
        /// Nanoseconds of the reactor.
        let since: UInt64
        /// Whether the client said that it closes; without that the connection is lost.
        let isByClient: Bool
        /// Whether it ends with the server, whose next start it is not to hold up.
        let isLast: Bool
    }

    /// How long each may last, in nanoseconds.
    struct Patience {
        let hello: UInt64
        let linger: UInt64
        let lastLinger: UInt64
    }

    /// What is due when its time is over.
    enum Lateness: Equatable {
        /// Close it, for this reason.
        case close(String)
        /// End it now.
        case teardown
    }

    // MARK: What it means

    /// Whether its channel is established and not told to go.
    var isServing: Bool {
        switch self {
        case .open, .finishing: true
        case .handshake, .greeting, .resuming, .closing, .lingering, .closed: false
        }
    }

    /// Whether what arrives is decrypted.
    var isHearing: Bool {
        switch self {
        case .handshake, .greeting, .resuming, .open, .finishing: true
        case .closing, .lingering, .closed: false
        }
    }

    /// Whether what services say is encrypted and sent.
    var mayEncrypt: Bool {
        switch self {
        case .handshake, .greeting, .resuming, .open, .finishing, .closing: true
        case .lingering, .closed: false
        }
    }

    /// Whether requests are taken out of what was decrypted.
    var isReading: Bool {
        switch self {
        case .greeting, .open: true
        case .handshake, .resuming, .finishing, .closing, .lingering, .closed: false
        }
    }

    /// Whether the connection ends as soon as there is nothing more to send.
    var endsWhenSent: Bool {
        switch self {
        case .finishing, .closing: true
        case .handshake, .greeting, .resuming, .open, .lingering, .closed: false
        }
    }

    var isOpen: Bool { if case .open = self { true } else { false } }
    var isClosed: Bool { if case .closed = self { true } else { false } }
    var isResuming: Bool { if case .resuming = self { true } else { false } }

    /// When what it waits for is late, as far as the phase says; `.max` for never.
    func deadline(_ patience: Patience) -> UInt64 {
        switch self {
        case .handshake(let since), .greeting(let since): since + patience.hello
        case .closing(let closing), .lingering(let closing):
            closing.since + (closing.isLast ? min(patience.linger, patience.lastLinger) : patience.linger)
        case .resuming, .open, .finishing, .closed: .max
        }
    }

    /// What follows when something is late; `isSending` when that is the peer, which takes nothing.
    func lateness(isSending: Bool) -> Lateness {
        switch self {
        case .handshake, .greeting: .close("it did not say HELLO in time")
        case .open, .resuming, .finishing:
            .close(isSending ? "it does not read" : "it sent no whole request in time")
        case .closing, .lingering, .closed: .teardown
        }
    }

    // MARK: What happens

    /// TLS is established.
    mutating func becomeGreeting() {
        if case .handshake(let since) = self { self = .greeting(since: since) }
    }

    /// Begins to end in order; false when it has already.
    mutating func close(now: UInt64, isByClient: Bool) -> Bool {
        let isLast: Bool
        switch self {
        case .closing, .lingering, .closed: return false
        case .finishing: isLast = true
        case .handshake, .greeting, .resuming, .open: isLast = false
        }
        self = .closing(Closing(since: now, isByClient: isByClient, isLast: isLast))
        return true
    }

    /// Takes no further request; false when that is not enough to end it.
    mutating func finish(hasHalfRequest: Bool) -> Bool {
        guard case .open = self else { return false }
        self = .finishing(Finishing(hasHalfRequest: hasHalfRequest))
        return true
    }

    /// Everything was sent.
    mutating func linger() {
        if case .closing(let closing) = self { self = .lingering(closing) }
    }

    /// Ends it; returns whether the client said that it closes, or nil when it was closed before.
    mutating func end() -> Bool? {
        defer { self = .closed }
        switch self {
        case .closed: return nil
        case .closing(let closing), .lingering(let closing): return closing.isByClient
        case .handshake, .greeting, .resuming, .open, .finishing: return false
        }
    }
}
