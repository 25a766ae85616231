import Core

/// The sessions of a server: who they are and which channels they have.
///
/// A session lives from its first HELLO until its client closes it, or until it has been without a connection for too
/// long. Whoever brings a further channel, or goes on with a lost one, must know the secret and present the same TLS
/// key.
struct SessionRegistry {
    /// A connection as the registry knows it: where it is served, and a number that no other has.
    struct Connection: Hashable {
        let shard: ObjectIdentifier
        let number: UInt64
    }

    /// One channel of a session.
    enum Channel {
        /// It has a connection, or one that is gone and still has something in flight; `successor` waits for its end.
        case connected(Connection, successor: Connection?)
        /// Its connection is gone and has nothing in flight.
        case lost(KeptSlots)

        var isConnected: Bool {
            switch self {
            case .connected: true
            case .lost: false
            }
        }
    }

    /// One client's session.
    struct Session {
        let id: Identifier
        let secret: SecretBytes
        let thumbprint: Digest32
        let clientName: String
        var peerAddress: String
        let since: UInt64
        /// Who began it, as its client says; `.zero` if it does not.
        let instance: Identifier
        /// The node whose capability was accepted first.
        var node: Identifier?
        /// Its channels by number.
        var channels: [UInt16: Channel] = [:]
        /// Since when it has had no connection; nil while it has one.
        var lostAt: Moment?
        /// Volumes that it may write to.
        var claims: Set<Identifier> = []
        /// Whether a client of it can resume: one that cannot has nothing that is worth saving.
        var isResumable = false
        /// Whether it is of a server that was restarted: what channels it had is not known.
        var isRestored = false
        /// Channels that this server has had and kept nothing of: their requests may have been executed, so that
        /// none is taken for one of before the restart.
        var forgotten: Set<UInt16> = []
        /// Channels that are connected, and of which nothing may be kept once they are lost.
        var leavesNothing: Set<UInt16> = []
        /// Channels that were resumed, with the volumes that the session might write to when they were, and that they
        /// have not opened since.
        var unopened: [UInt16: Set<Identifier>] = [:]
        /// Channels with a connection that may do nothing any more: somebody else may have written to what their client
        /// would repeat writes to.
        var spoiled: Set<UInt16> = []
        /// Set when the session was told to go: nobody may join any more.
        var isEnding = false
        /// Why it was told to go.
        var endReason: String?
        /// When a server took it up that had not begun it; its last connection was lost before.
        var restoredAt: Moment?

        /// Since when it has had no connection, as it is told; nil while it has one.
        var lost: LostConnection? {
            lostAt.map { LostConnection($0, isOfEarlierServer: restoredAt == $0) }
        }

        /// Channels with a connection.
        var connectedCount: Int { channels.values.count { $0.isConnected } }
    }

    private(set) var sessions: [Identifier: Session] = [:]
    /// Lost channels whose slots are kept, of all sessions.
    private(set) var keptChannels = 0
    private let capacity: Int
    private let keptChannelsMax: Int
    /// Sessions that are on their way out, for which there is room beyond the most.
    private var ending = 0
    /// What nodes have of all that.
    var shares: SessionShares

    init(capacity: Int = Limits.sessionsMax, keptChannelsMax: Int = Limits.keptChannelsMax) {
        self.capacity = capacity
        self.keptChannelsMax = keptChannelsMax
        shares = SessionShares(sessionsMax: capacity, keptMax: keptChannelsMax)
    }

    /// A session as it may be changed in place.
    subscript(id: Identifier) -> Session? {
        get { sessions[id] }
        _modify { yield &sessions[id] }
    }

    /// Whether another session would be one too many.
    var isFull: Bool { sessions.count - ending >= capacity }
    /// Whether another lost channel would be one too many.
    var keepsItsMost: Bool { keptChannels >= keptChannelsMax }

    /// Of the sessions without a connection that `mayGo` lets go, the one that has waited longest.
    func leastMissed(where mayGo: (Session) -> Bool) -> Identifier? {
        sessions.values.filter { $0.lostAt != nil && mayGo($0) }
            .min { ($0.lostAt?.life ?? 0, $0.id) < ($1.lostAt?.life ?? 0, $1.id) }?.id
    }

    /// Starts a session with its first channel, number 0.
    mutating func create(_ session: Session, by connection: Connection) -> Status {
        guard !isFull else { return .busy }
        guard sessions[session.id] == nil else { return .internalError }
        sessions[session.id] = session
        sessions[session.id]?.channels = [0: .connected(connection, successor: nil)]
        shares.began(session.id, of: session.node)
        shares.tidy { [sessions] in sessions[$0].map { $0.node == nil } ?? false }
        return .ok
    }

    /// Takes in a session of a server that was restarted; false when it is one too many.
    mutating func restore(_ session: Session, lostAt: Moment) -> Bool {
        guard !isFull, sessions[session.id] == nil else { return false }
        sessions[session.id] = session
        sessions[session.id]?.isRestored = true
        sessions[session.id]?.lostAt = lostAt
        sessions[session.id]?.restoredAt = lostAt
        shares.began(session.id, of: session.node)
        return true
    }

    /// Adds a channel to a session and returns its number.
    mutating func join(
        _ id: Identifier, secret: [UInt8], thumbprint: Digest32, by connection: Connection
    ) -> Result<UInt16, StatusError> {
        if let refusal = refusal(id, secret: secret, thumbprint: thumbprint) { return .failure(refusal) }
        guard let session = sessions[id] else { preconditionFailure("it was just looked up") }
        let numbers = Array(0..<UInt16(Limits.channelsPerSessionMax))
        // A client that has yet to come back may have the low numbers of a session that outlived its server.
        let candidates = session.isRestored ? numbers.reversed() : numbers
        let free = candidates.filter { session.channels[$0] == nil }
        // A client that still asks for a forgotten channel must not find another client's.
        guard let number = free.first(where: { !session.forgotten.contains($0) }) ?? free.first else {
            return .failure(
                StatusError(
                    .tooManyChannels, "a session has at most \(Limits.channelsPerSessionMax) channels"))
        }
        sessions[id]?.channels[number] = .connected(connection, successor: nil)
        sessions[id]?.forgotten.remove(number)
        sessions[id]?.lostAt = nil
        return .success(number)
    }

    /// Removes a channel whose connection is gone for good, and says what follows.
    ///
    /// - Parameter isClosed: whether the client closed it; when that was its last connection, it wants nothing of the
    ///   session any more, whatever it had lost before.
    mutating func leave(_ id: Identifier, channel: UInt16, isClosed: Bool, now: Moment) -> Departure {
        guard let session = sessions[id], let old = sessions[id]?.channels.removeValue(forKey: channel) else {
            return Departure(endsSession: false, displaced: [])
        }
        sessions[id]?.unopened[channel] = nil
        sessions[id]?.spoiled.remove(channel)
        // A client that closed it does not come back for it.
        if !isClosed { sessions[id]?.forgotten.insert(channel) }
        var departure = Departure(endsSession: false, displaced: [])
        switch old {
        case .connected(_, let successor): departure.displaced = successor.map { [$0] } ?? []
        case .lost: countKept(-1, of: id)
        }
        let left = sessions[id]?.channels ?? [:]
        let isLastConnection = !left.values.contains { $0.isConnected }
        if left.isEmpty || isLastConnection && (isClosed || session.isEnding) {
            departure.endsSession = true
            departure.displaced += remove(id)
        } else if isLastConnection, session.lostAt == nil {
            sessions[id]?.lostAt = now
        }
        return departure
    }

    /// Forgets a session and returns the connections that waited for its channels.
    mutating func remove(_ id: Identifier) -> [Connection] {
        guard let session = sessions[id] else { return [] }
        var waiting: [Connection] = []
        for channel in session.channels.values {
            switch channel {
            case .connected(_, let successor): waiting += successor.map { [$0] } ?? []
            case .lost: countKept(-1, of: id)
            }
        }
        sessions[id] = nil
        shares.ended(of: session.node)
        if session.isEnding { ending -= 1 }
        return waiting
    }

    /// Notes whose capability the session uses; the first stays. False when that node has its most sessions.
    mutating func bind(_ id: Identifier, node: Identifier) -> Bool {
        guard let session = sessions[id], session.node == nil else { return true }
        guard shares.mayOwn(node) else { return false }
        shares.own(node)
        sessions[id]?.node = node
        return true
    }

    /// Lets nobody join or resume `id` any more, and forgets it at once if it has no connection; nil when there is no
    /// such session.
    mutating func end(_ id: Identifier, why: String) -> Departure? {
        guard let session = sessions[id] else { return nil }
        if session.connectedCount == 0 { return Departure(endsSession: true, displaced: remove(id)) }
        var departure = Departure(endsSession: false, displaced: [])
        if !session.isEnding { ending += 1 }
        sessions[id]?.isEnding = true
        sessions[id]?.endReason = why
        for (number, channel) in session.channels {
            switch channel {
            case .connected(let connection, let successor?):
                departure.displaced.append(successor)
                sessions[id]?.channels[number] = .connected(connection, successor: nil)
            case .connected(_, successor: nil): break
            case .lost:
                countKept(-1, of: id)
                sessions[id]?.channels[number] = nil
            }
        }
        return departure
    }

    /// Why this client may not have to do with a session; nil when it may.
    func refusal(_ id: Identifier, secret: [UInt8], thumbprint: Digest32) -> StatusError? {
        guard let session = sessions[id], !session.isEnding else {
            return StatusError(.notFound, "there is no such session: start a new one")
        }
        guard session.secret.equals(secret), session.thumbprint == thumbprint else {
            return StatusError(.denied, "the session has another secret, or another key began it")
        }
        return nil
    }

    mutating func countKept(_ difference: Int, of id: Identifier) {
        keptChannels += difference
        shares.keep(difference, of: sessions[id]?.node)
    }
}

/// What follows when a channel, or a session, is gone.
struct Departure: Equatable {
    /// Whether the session is gone with it.
    var endsSession: Bool
    /// Connections that waited for something that is not there any more.
    var displaced: [SessionRegistry.Connection]
}
