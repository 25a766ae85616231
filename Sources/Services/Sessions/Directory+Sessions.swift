import Core

/// The life of sessions, and what others have to hear of it.
extension Directory {
    /// What has to be done outside of the lock after a change.
    struct Effects {
        /// What administrators hear.
        var events: [(kind: ServerEvent.Kind, session: Identifier, message: String, by: String)] = []
        /// What connections hear that have waited for a channel.
        var answers: [(connection: SessionRegistry.Connection, answer: Result<KeptSlots, StatusError>)] = []
        /// Connections that have nothing to go on with.
        var spoiled: [SessionRegistry.Connection] = []
        /// Connections of sessions that can do nothing and make room for others.
        var crowdedOut: [SessionRegistry.Connection] = []
    }

    /// Starts a session. Where it finds no room, the oldest session that has opened nothing makes some, or else one
    /// of a node that was removed, or the least missed one without a connection.
    mutating func startSession(
        _ session: SessionRegistry.Session, by connection: SessionRegistry.Connection, now: Moment
    ) -> Status {
        if sessions.isFull,
            let oldest = sessions.takeNobodys() ?? ofRemovedNode ?? leastMissed(now: now)
        {
            for channel in sessions[oldest]?.channels.values.map({ $0 }) ?? [] {
                if case .connected(let connection, _) = channel { effects.crowdedOut.append(connection) }
            }
            endSession(oldest, why: "the server has its most sessions")
        }
        let status = sessions.create(session, by: connection)
        guard status == .ok else { return status }
        let name = session.clientName.isEmpty ? "without a name" : session.clientName
        effects.events.append(
            (.sessionStarted, session.id, "client \(name) from \(session.peerAddress)", caller(session)))
        return .ok
    }

    /// Gives a connection the channel that it wants to go on with; nil when it has to wait for `effects.answers`.
    mutating func resumeChannel(
        _ id: Identifier, secret: [UInt8], thumbprint: Digest32, channel: UInt16,
        by connection: SessionRegistry.Connection
    ) -> ResumeDecision {
        let lostAt = sessions.sessions[id]?.lostAt
        let decision = sessions.resume(
            id, secret: secret, thumbprint: thumbprint, channel: channel, by: connection)
        switch decision {
        case .granted: noteConnection(id, lostAt: lostAt)
        case .waits(_, let displaced):
            if let displaced {
                let refusal = StatusError(.busy, "a later connection resumes the channel")
                effects.answers.append((displaced, .failure(refusal)))
            }
        case .refused: break
        }
        return decision
    }

    /// A session of a node that is not enrolled any more: it can open nothing, but may have a connection for ever.
    private var ofRemovedNode: Identifier? {
        sessions.sessions.values.first { session in
            !session.isEnding && session.node.map { nodes[$0] == nil } ?? false
        }?.id
    }

    /// The session without a connection that has waited longest: one that may write nothing, or else one that may do so
    /// only as a courtesy. With a session named, of the others of its node.
    private func leastMissed(now: Moment, besides id: Identifier? = nil) -> Identifier? {
        let node = id.flatMap { sessions.sessions[$0]?.node }
        func isMeant(_ session: SessionRegistry.Session) -> Bool {
            id == nil || session.node == node && session.id != id
        }
        return sessions.leastMissed { isMeant($0) && $0.claims.isEmpty }
            ?? sessions.leastMissed { isMeant($0) && isCourtesy($0, now: now) }
    }

    /// Notes that a session that had lost its connections has one again.
    mutating func noteConnection(_ id: Identifier, lostAt: Moment?) {
        guard let lostAt else { return }
        let lost = LostConnection(
            lostAt, isOfEarlierServer: sessions.sessions[id]?.restoredAt == lostAt)
        effects.events.append(
            (
                .sessionResumed, id, "\(owner(of: id)), without a connection since \(lost)",
                caller(sessions.sessions[id])
            ))
    }

    /// Keeps a channel whose connection is gone with what a repeat of its requests is answered, for the next one.
    ///
    /// - Returns: whether the session is gone with the channel instead.
    mutating func keepChannel(_ id: Identifier, channel: UInt16, _ kept: KeptSlots, now: Moment) -> Bool {
        if sessions.wantsKeeping(id, channel: channel), !sessions.mayKeep(id),
            let oldest = leastMissed(now: now, besides: id)
        {
            endSession(oldest, why: "the server keeps the most lost channels of its node")
        }
        let before = sessions.sessions[id]
        switch sessions.keep(id, channel: channel, kept, now: now) {
        case .kept(isLastConnection: true):
            effects.events.append(
                (.sessionLost, id, "\(owner(of: id)) has lost its last connection", caller(before)))
        case .kept(isLastConnection: false): break
        case .handedOver(let successor, let kept): effects.answers.append((successor, .success(kept)))
        case .gone(let departure): return channelIsGone(before, channel: channel, departure)
        }
        return false
    }

    /// Takes a channel out of its session for good; true when that ended the session.
    mutating func leaveSession(_ id: Identifier, channel: UInt16, isClosed: Bool, now: Moment) -> Bool {
        let before = sessions.sessions[id]
        let departure = sessions.leave(id, channel: channel, isClosed: isClosed, now: now)
        return channelIsGone(before, channel: channel, departure)
    }

    private mutating func channelIsGone(
        _ session: SessionRegistry.Session?, channel: UInt16, _ departure: Departure
    ) -> Bool {
        guard let session else { return false }
        refuse(departure.displaced)
        if departure.endsSession {
            forget(session, why: session.endReason)
        } else {
            forgetClaims(of: session.id, channel: channel)
        }
        return departure.endsSession
    }

    /// Ends a session: at once if it has no connection, or when its connections, which the caller closes, are gone.
    /// False when there is no such session.
    @discardableResult
    mutating func endSession(_ id: Identifier, why: String) -> Bool {
        guard let before = sessions.sessions[id], let departure = sessions.end(id, why: why) else {
            return false
        }
        refuse(departure.displaced)
        if departure.endsSession {
            forget(before, why: why)
        } else {
            for volume in before.claims { dropKeptClaims(of: id, on: volume) }
            changedSessions.insert(id)
        }
        return true
    }

    /// Drops what only the registry's entry of a session pointed to.
    private mutating func forget(_ session: SessionRegistry.Session, why: String?) {
        for id in session.claims { resources[id]?.writers[session.id] = nil }
        changedSessions.insert(session.id)
        let owner =
            session.node.map { "of node \(nodes[$0]?.name ?? $0.hex)" } ?? "of a client that opened nothing"
        effects.events.append(
            (.sessionEnded, session.id, why.map { "\(owner): \($0)" } ?? owner, caller(session)))
    }

    private mutating func refuse(_ displaced: [SessionRegistry.Connection]) {
        for connection in displaced {
            let refusal = StatusError(.notFound, "the session has ended: start a new one")
            effects.answers.append((connection, .failure(refusal)))
        }
    }

    /// Ends sessions that have had no connection for too long; true while there are any to look after. The server
    /// waits much longer for one that may write, which gives way to whoever asks for its volume.
    mutating func sweepSessions(lingerSeconds: UInt64, now: Moment) -> Bool {
        let late = sessions.sessions.values.filter { session in
            guard let lostAt = session.lostAt else { return false }
            if session.claims.isEmpty { return now.life >= lostAt.life.adding(seconds: lingerSeconds) }
            let end = max(lostAt.life, lastDeadline(session))
            return isCourtesy(session, now: now) && now.life >= end.adding(seconds: Limits.courtesySeconds)
        }
        for session in late { endSession(session.id, why: "it had no connection for too long") }
        return sessions.keptChannels > 0 || sessions.sessions.values.contains { $0.lostAt != nil }
    }

    /// Whom the events of a session are counted by: its node, or where it came from while it has opened nothing. Not
    /// its key: anybody can make any number of keys.
    private func caller(_ session: SessionRegistry.Session?) -> String {
        guard let session else { return "client" }
        if let node = session.node { return "node:\(nodes[node]?.name ?? node.hex)" }
        let address = session.peerAddress
        return "address:\(address.lastIndex(of: ":").map { String(address[..<$0]) } ?? address)"
    }

    private func owner(of id: Identifier) -> String {
        nodeName(of: id).map { "node \($0)" } ?? "a client"
    }
}
