import Core

/// Who may write to a resource: claims, which sessions hold by their handles, and by what they had when they lost their
/// connections.
extension Directory {
    /// What a lost channel's handle leaves behind.
    struct KeptClaim {
        /// The channel; nil of a session that has outlived its server.
        let channel: UInt16?
        let terms: CapabilityTerms
    }

    /// A session that may write to a resource.
    struct Writer {
        /// Its handles that can.
        var handles = 0
        /// Unix seconds of the first of them.
        let since: UInt64
        /// The one that ends last.
        var terms: CapabilityTerms
        /// Of channels that were lost.
        var kept: [KeptClaim] = []
        /// Whether the claim outlives the server by now.
        var isSaved = false

        /// Whether it stands only until somebody else asks: nothing of it runs, and every capability that it came from
        /// has ended.
        func isCourtesy(_ now: Moment) -> Bool {
            handles == 0 && kept.allSatisfy { $0.terms.deadline <= now.life }
        }
    }

    /// Counts one more handle of `session` that may write, or says who is in the way.
    mutating func claimWriter(
        of id: Identifier, session: Identifier, by terms: CapabilityTerms, takesOver: Bool = false,
        now: Moment
    ) -> StatusError? {
        guard let resource = resources[id] else { return StatusError(.notFound, "there is no such resource") }
        if resource.accessMode == .singleWriter {
            endCourtesies(on: id, besides: session, now: now)
            if takesOver { endLostWriters(of: id, likeKeyOf: session) }
            if let other = writers(of: id).first(where: { $0.session != session }) {
                return StatusError(.writerConflict, conflict(resource, other))
            }
        }
        if resource.writers[session] == nil { noteWriter(session, of: id) }
        changeClaim(of: id, session: session) { writer in
            var changed = writer ?? Writer(since: now.wall, terms: terms)
            changed.handles += 1
            if terms.deadline > changed.terms.deadline { changed.terms = terms }
            writer = changed
        }
        return nil
    }

    /// Notes who has a resource for writing from now on. As long as the generation stays, what a client knows of
    /// the resource stays true.
    mutating func noteWriter(_ session: Identifier, of id: Identifier) {
        guard let resource = resources[id], let session = sessions.sessions[session] else { return }
        let instance = session.instance == .zero ? session.id : session.instance
        let holder =
            resource.accessMode == .shared
            ? nil : VolumeWriter.Holder(thumbprint: session.thumbprint, instance: instance)
        guard resource.writer.holder != holder else { return }
        resources[id]?.writer = VolumeWriter(generation: resource.writer.generation + 1, holder: holder)
        resources[id]?.isWriterSaved = false
        changedWriters.insert(id)
    }

    private func conflict(_ resource: PublishedResource, _ other: WriterInfo) -> String {
        let kind = resource.kind.name
        let holder = other.nodeName.map { "node \($0)" } ?? "a node that is gone"
        let who =
            "\(kind) \(resource.name) is being written by \(holder), session \(other.session.hex.prefix(8)), since "
            + Timestamp.text(other.since)
        guard let lost = other.lost else { return who }
        return who
            + ", which has had no connection since \(lost): 'sluice \(kind) fence \(resource.name)' "
            + "takes the \(kind) away from it"
    }

    /// Ends the sessions that keep `session` from writing, that the same key began and that have no connection.
    private mutating func endLostWriters(of id: Identifier, likeKeyOf session: Identifier) {
        guard let thumbprint = sessions.sessions[session]?.thumbprint else { return }
        for other in resources[id]?.writers.keys.filter({ $0 != session }) ?? [] {
            guard let known = sessions.sessions[other], known.thumbprint == thumbprint,
                known.connectedCount == 0
            else { continue }
            endSession(other, why: "a later session of the same key took over")
        }
    }

    /// Takes back one `claimWriter`.
    mutating func endClaim(of id: Identifier, session: Identifier, channel: UInt16, _ end: ClaimEnd) {
        var isKept = false
        switch end {
        case .lost(let terms), .lapsed(let terms): isKept = stands(id, terms)
        case .closed, .undone: break
        }
        changeClaim(of: id, session: session) { writer in
            guard var changed = writer else { return }
            changed.handles = max(0, changed.handles - 1)
            switch end {
            case .undone: break
            case .closed: changed.kept.removeAll { $0.channel == nil || $0.channel == channel }
            case .lost(let terms), .lapsed(let terms):
                changed.kept.removeAll {
                    $0.channel == channel && $0.terms.capability == terms.capability
                }
                if isKept {
                    changed.kept.append(KeptClaim(channel: channel, terms: terms))
                }
            }
            writer = changed
        }
        // A client that lost the authority while its connection was on its way out may not repeat anything either.
        if case .lost = end, !isKept { sessions.leaveNothing(of: session, channel: channel) }
    }

    /// Ends what is left of a claim whose handle's capability had ended, with its connection (`isLost`) or because
    /// it was closed. The server keeps nothing of a channel that was lost without a claim: somebody else may have
    /// written.
    mutating func endLapsed(of id: Identifier, session: Identifier, channel: UInt16, isLost: Bool) {
        if isLost {
            if resources[id]?.writers[session] == nil { sessions.leaveNothing(of: session, channel: channel) }
        } else {
            changeClaim(of: id, session: session) { $0?.kept.removeAll { $0.channel == channel } }
        }
    }

    /// Notes that a handle of a channel has a session's claim: what the channel left behind before is nothing
    /// beside it.
    mutating func claimIsHeld(on id: Identifier, session: Identifier, channel: UInt16) {
        sessions[session]?.unopened[channel]?.remove(id)
        guard resources[id]?.writers[session]?.handles ?? 0 > 0 else { return }
        changeClaim(of: id, session: session) { $0?.kept.removeAll { $0.channel == channel } }
    }

    /// Takes in a claim of before a restart of the server, unless another session has it. A claim whose capability
    /// has ended meanwhile stands until somebody else asks: its holder could not renew it.
    mutating func restore(_ claim: SessionClaim, of session: Identifier, now: Moment) {
        let terms = CapabilityTerms(claim, now: now)
        guard stands(claim.volume, terms), let resource = resources[claim.volume],
            resource.accessMode == .shared || resource.writers.isEmpty
        else { return }
        changeClaim(of: claim.volume, session: session) { writer in
            var restored = Writer(since: claim.since, terms: terms)
            restored.kept = [KeptClaim(channel: nil, terms: terms)]
            restored.isSaved = true
            writer = restored
        }
    }

    /// Notes by what capability a session writes from now on.
    mutating func renewClaim(of id: Identifier, session: Identifier, by terms: CapabilityTerms) {
        changeClaim(of: id, session: session) { writer in
            guard let deadline = writer?.terms.deadline, terms.deadline > deadline else { return }
            writer?.terms = terms
        }
    }

    /// Forgets what a channel that left its session had.
    mutating func forgetClaims(of session: Identifier, channel: UInt16) {
        for id in sessions.sessions[session]?.claims ?? [] {
            changeClaim(of: id, session: session) { $0?.kept.removeAll { $0.channel == channel } }
        }
    }

    /// Forgets what a session's lost channels had of one resource.
    mutating func dropKeptClaims(of session: Identifier, on id: Identifier) {
        changeClaim(of: id, session: session) { $0?.kept.removeAll() }
    }

    /// Takes the claims of lost channels away that `selector` names.
    mutating func endKeptClaims(_ selector: HandleSelector) {
        for session in sessions.sessions.values where !session.claims.isEmpty {
            for id in session.claims {
                endKept(of: session.id, on: id, why: "its authority to write was taken away") {
                    selector.selects(id, $0)
                }
            }
        }
    }

    /// Takes the claims to a resource away that stand as a courtesy only: somebody else asks for it.
    mutating func endCourtesies(on id: Identifier, besides session: Identifier? = nil, now: Moment) {
        let others = resources[id]?.writers.filter { $0.key != session && $0.value.isCourtesy(now) } ?? [:]
        guard !others.isEmpty, let kind = resources[id]?.kind.name else { return }
        for other in others.keys {
            endKept(
                of: other, on: id, why: "its capability had ended, and somebody else asked for the \(kind)"
            ) { _ in true }
        }
    }

    /// Whether all that a session may write to is a courtesy.
    func isCourtesy(_ session: SessionRegistry.Session, now: Moment) -> Bool {
        session.claims.allSatisfy { resources[$0]?.writers[session.id]?.isCourtesy(now) ?? true }
    }

    /// When the last capability ends, or has ended, that a session's claims came from, in nanoseconds.
    func lastDeadline(_ session: SessionRegistry.Session) -> UInt64 {
        session.claims.reduce(0) { max($0, resources[$1]?.writers[session.id]?.terms.deadline ?? 0) }
    }

    /// Takes what lost channels have of a resource away where it has no authority any more. Somebody else may write
    /// from now on: writes without an answer that such a channel's client would repeat must not come after that, so
    /// the channel, or the session that has nothing else, is gone.
    private mutating func endKept(
        of session: Identifier, on id: Identifier, why: String, where hasEnded: (CapabilityTerms) -> Bool
    ) {
        let ended = resources[id]?.writers[session]?.kept.filter { hasEnded($0.terms) } ?? []
        guard !ended.isEmpty else { return }
        changeClaim(of: id, session: session) { $0?.kept.removeAll { hasEnded($0.terms) } }
        let isGone = resources[id]?.writers[session] == nil
        for claim in ended {
            if let channel = claim.channel {
                sessions.dropLost(of: session, channel: channel)
                // A channel that has a connection goes with it.
                if isGone, sessions.sessions[session]?.channels[channel]?.isConnected == true {
                    sessions.leaveNothing(of: session, channel: channel)
                }
            } else {
                sessions[session]?.isRestored = false
            }
        }
        if sessions.hasNothingLeft(session) { endSession(session, why: why) }
    }

    /// Whether the terms of a capability still hold, whatever the time.
    private func stands(_ id: Identifier, _ terms: CapabilityTerms) -> Bool {
        revocations.reason(terms.capability) == nil && nodes[terms.subject]?.epoch == terms.nodeEpoch
            && resources[id]?.epoch == terms.resourceEpoch && resources[id]?.isGoing == false
    }

    /// Changes a session's claim on a resource; one without a handle and without anything kept is gone.
    private mutating func changeClaim(
        of id: Identifier, session: Identifier, _ change: (inout Writer?) -> Void
    ) {
        guard resources[id] != nil else { return }
        let before = resources[id]?.writers[session]
        var after = before
        change(&after)
        if let writer = after, writer.handles == 0, writer.kept.isEmpty { after = nil }
        resources[id]?.writers[session] = after
        if (before == nil) != (after == nil) {
            if after == nil {
                sessions[session]?.claims.remove(id)
                effects.spoiled += sessions.spoil(session, without: id)
            } else {
                sessions[session]?.claims.insert(id)
            }
            changedSessions.insert(session)
        } else if before?.terms != after?.terms {
            changedSessions.insert(session)
        }
    }

    /// Who may write to a resource, the oldest first.
    func writers(of id: Identifier) -> [WriterInfo] {
        guard let resource = resources[id], !resource.writers.isEmpty else { return [] }
        return resource.writers.map { session, writer in
            WriterInfo(
                session: session, nodeName: nodeName(of: session), since: writer.since,
                lost: sessions.sessions[session]?.lost)
        }.sorted { ($0.since, $0.session) < ($1.since, $1.session) }
    }

    /// What a session keeps others from writing to, in order of the resources' names.
    func claims(of session: SessionRegistry.Session) -> [WriteClaim] {
        session.claims.compactMap { id -> WriteClaim? in
            guard let resource = resources[id], let writer = resource.writers[session.id] else { return nil }
            return WriteClaim(
                volume: resource.name, since: writer.since, expiry: writer.terms.expiry)
        }.sorted { $0.volume < $1.volume }
    }

    /// The sessions whose claims `selector` names, though they have no handle.
    func keptHolders(_ selector: HandleSelector) -> Set<Identifier> {
        var holders: Set<Identifier> = []
        for session in sessions.sessions.values {
            let holds = session.claims.contains { id in
                resources[id]?.writers[session.id]?.kept.contains {
                    selector.selects(id, $0.terms)
                } ?? false
            }
            if holds { holders.insert(session.id) }
        }
        return holders
    }
}
