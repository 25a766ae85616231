import Core

/// What a connection that wants to go on with a channel is told.
enum ResumeDecision {
    /// The channel is its own, with what was kept of it.
    case granted(KeptSlots)
    /// The channel's old connection has to end first; another connection that waited for it has lost.
    case waits(for: SessionRegistry.Connection, displaced: SessionRegistry.Connection?)
    case refused(StatusError)
}

/// What becomes of a channel whose lost connection has nothing in flight any more.
enum KeepDecision {
    /// It waits for its client; the flag says whether it was the session's last connection.
    case kept(isLastConnection: Bool)
    /// A connection that has waited for it has it now.
    case handedOver(SessionRegistry.Connection, KeptSlots)
    /// It cannot be kept and has left its session.
    case gone(Departure)
}

extension SessionRegistry {
    /// Gives a lost channel to a new connection, or has that wait for the old one's end.
    mutating func resume(
        _ id: Identifier, secret: [UInt8], thumbprint: Digest32, channel: UInt16,
        by connection: Connection
    ) -> ResumeDecision {
        if let refusal = refusal(id, secret: secret, thumbprint: thumbprint) { return .refused(refusal) }
        switch sessions[id]?.channels[channel] {
        case .connected(let old, let displaced):
            self[id]?.channels[channel] = .connected(old, successor: connection)
            return .waits(for: old, displaced: displaced)
        case .lost(let kept):
            countKept(-1, of: id)
            connect(id, channel, by: connection)
            return .granted(kept)
        case nil:
            guard let session = sessions[id], session.isRestored, !session.forgotten.contains(channel),
                Int(channel) < Limits.channelsPerSessionMax
            else {
                return .refused(
                    StatusError(.notFound, "the session has no such channel: start a new session"))
            }
            connect(id, channel, by: connection)
            return .granted(.ofRestartedServer)
        }
    }

    /// Keeps a channel whose connection is gone, or gives it to the connection that has waited for it.
    ///
    /// A session that has opened nothing has nothing to go on with, and one that is ending may not.
    mutating func keep(
        _ id: Identifier, channel: UInt16, _ kept: KeptSlots, now: Moment
    ) -> KeepDecision {
        guard let session = sessions[id], case .connected(_, let successor)? = session.channels[channel]
        else { return .gone(Departure(endsSession: false, displaced: [])) }
        let mayBeKept = self[id]?.leavesNothing.remove(channel) == nil
        guard mayBeKept, !session.isEnding, session.node != nil, successor != nil || mayKeep(id)
        else {
            return .gone(leave(id, channel: channel, isClosed: false, now: now))
        }
        if let successor {
            connect(id, channel, by: successor)
            return .handedOver(successor, kept)
        }
        self[id]?.channels[channel] = .lost(kept)
        countKept(1, of: id)
        let isLast = sessions[id]?.connectedCount == 0
        if isLast { self[id]?.lostAt = now }
        return .kept(isLastConnection: isLast)
    }

    /// Whether a channel whose connection is gone is kept if there is room for it: nobody waits for it, and its session
    /// has something to go on with.
    func wantsKeeping(_ id: Identifier, channel: UInt16) -> Bool {
        guard let session = sessions[id], case .connected(_, successor: nil)? = session.channels[channel]
        else { return false }
        return session.node != nil && !session.isEnding && !session.leavesNothing.contains(channel)
    }

    /// Has a channel that has a connection, or one that is on its way out, be forgotten with it.
    mutating func leaveNothing(of id: Identifier, channel: UInt16) {
        self[id]?.leavesNothing.insert(channel)
    }

    /// Spoils the channels whose client would repeat what it wrote to a volume that the session has just lost; returns
    /// their connections.
    mutating func spoil(_ id: Identifier, without volume: Identifier) -> [Connection] {
        var connections: [Connection] = []
        for (number, volumes) in sessions[id]?.unopened ?? [:] where volumes.contains(volume) {
            guard case .connected(let connection, _)? = sessions[id]?.channels[number] else { continue }
            self[id]?.spoiled.insert(number)
            leaveNothing(of: id, channel: number)
            connections.append(connection)
        }
        // What other channels it had before a restart is not known.
        self[id]?.isRestored = false
        return connections
    }

    /// Forgets a channel whose connection was lost; nothing happens to one that has a connection.
    mutating func dropLost(of id: Identifier, channel: UInt16) {
        guard case .lost? = sessions[id]?.channels[channel] else { return }
        self[id]?.channels[channel] = nil
        self[id]?.forgotten.insert(channel)
        countKept(-1, of: id)
    }

    /// Whether a session has neither a channel nor, after a restart, any that its client could go on with.
    func hasNothingLeft(_ id: Identifier) -> Bool {
        guard let session = sessions[id] else { return false }
        return session.channels.isEmpty && !session.isRestored
    }

    private mutating func connect(_ id: Identifier, _ channel: UInt16, by connection: Connection) {
        self[id]?.channels[channel] = .connected(connection, successor: nil)
        self[id]?.lostAt = nil
        let claims = sessions[id]?.claims
        self[id]?.unopened[channel] = claims
    }
}
