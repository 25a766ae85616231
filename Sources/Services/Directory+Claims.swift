import Core

/// Who may write to a volume: claims, which sessions hold by their handles, and by what they had when they lost their
/// connections.
extension Directory {
    /// What a lost channel's handle leaves behind.
    struct KeptClaim {
        /// The channel; nil of a session that has outlived its server.
        let channel: UInt16?
        let authority: WriteAuthority
    }

    /// A session that may write to a volume.
    struct Writer {
        /// Its handles that can.
        var handles = 0
        /// Unix seconds of the first of them.
        let since: UInt64
        /// The one that ends last.
        var authority: WriteAuthority
        /// Of channels that were lost.
        var kept: [KeptClaim] = []
        /// Whether the claim outlives the server by now.
        var isSaved = false
    }

    /// Counts one more handle of `session` that may write, or says who is in the way.
    mutating func claimWriter(
        of id: Identifier, session: Identifier, by authority: WriteAuthority, takesOver: Bool = false,
        now: UInt64
    ) -> Refusal? {
        guard let volume = volumes[id] else { return Refusal(.notFound, "there is no such volume") }
        if volume.descriptor.accessMode == .singleWriter {
            endExpiredClaims(of: Set(volume.writers.keys.lazy.filter { $0 != session }), now: now)
            if takesOver { endLostWriters(of: id, likeKeyOf: session) }
            if let other = writers(of: id).first(where: { $0.session != session }) {
                return Refusal(.writerConflict, conflict(volume.descriptor.name, other))
            }
        }
        if volume.writers[session] == nil { noteWriter(session, of: id) }
        changeClaim(of: id, session: session) { writer in
            var changed = writer ?? Writer(since: now, authority: authority)
            changed.handles += 1
            if authority.expiry > changed.authority.expiry { changed.authority = authority }
            writer = changed
        }
        return nil
    }

    /// Notes who has a volume for writing from now on. What a client knows of it holds on as long as the generation is
    /// the same.
    mutating func noteWriter(_ session: Identifier, of id: Identifier) {
        guard let volume = volumes[id], let session = sessions.sessions[session] else { return }
        let instance = session.instance == .zero ? session.id : session.instance
        let holder =
            volume.descriptor.accessMode == .shared
            ? nil : VolumeWriter.Holder(thumbprint: session.thumbprint, instance: instance)
        guard volume.writer.holder != holder else { return }
        volumes[id]?.writer = VolumeWriter(generation: volume.writer.generation + 1, holder: holder)
        volumes[id]?.isWriterSaved = false
        changedWriters.insert(id)
    }

    private func conflict(_ name: String, _ other: WriterInfo) -> String {
        let holder = other.nodeName.map { "node \($0)" } ?? "a node that is gone"
        let who =
            "volume \(name) is being written by \(holder), session \(other.session.hex.prefix(8)), since "
            + Timestamp.text(other.since)
        guard let lostAt = other.disconnectedSince else { return who }
        return who
            + ", which has had no connection since \(Timestamp.text(lostAt)): 'sluice volume fence \(name)' "
            + "takes the volume away from it"
    }

    /// Ends the sessions that keep `session` from writing, that the same key began and that have no connection.
    private mutating func endLostWriters(of id: Identifier, likeKeyOf session: Identifier) {
        guard let thumbprint = sessions.sessions[session]?.thumbprint else { return }
        for other in volumes[id]?.writers.keys.filter({ $0 != session }) ?? [] {
            guard let known = sessions.sessions[other], known.thumbprint == thumbprint,
                known.connectedCount == 0
            else { continue }
            endSession(other, why: "a later session of the same key took over")
        }
    }

    /// Takes back one `claimWriter`.
    mutating func endClaim(of id: Identifier, session: Identifier, channel: UInt16, _ end: ClaimEnd) {
        var isKept = false
        if case .lost(let authority) = end { isKept = stands(id, authority) }
        changeClaim(of: id, session: session) { writer in
            guard var changed = writer else { return }
            changed.handles = max(0, changed.handles - 1)
            switch end {
            case .undone: break
            case .closed: changed.kept.removeAll { $0.channel == nil || $0.channel == channel }
            case .lost(let authority):
                changed.kept.removeAll {
                    $0.channel == channel && $0.authority.capability == authority.capability
                }
                if isKept {
                    changed.kept.append(KeptClaim(channel: channel, authority: authority))
                }
            }
            writer = changed
        }
        // Who lost the authority while the connection was on its way out may not repeat anything either.
        if case .lost = end, !isKept { sessions.leaveNothing(of: session, channel: channel) }
    }

    /// Takes in a claim of before a restart of the server, unless its authority has ended or another has it.
    mutating func restore(_ claim: SavedSession.Claim, of session: Identifier, now: UInt64) {
        let authority = WriteAuthority(claim)
        guard authority.expiry > now, stands(claim.volume, authority), let volume = volumes[claim.volume],
            volume.descriptor.accessMode == .shared || volume.writers.isEmpty
        else { return }
        changeClaim(of: claim.volume, session: session) { writer in
            var restored = Writer(since: claim.since, authority: authority)
            restored.kept = [KeptClaim(channel: nil, authority: authority)]
            restored.isSaved = true
            writer = restored
        }
    }

    /// Notes by what authority a session writes from now on.
    mutating func renewClaim(of id: Identifier, session: Identifier, by authority: WriteAuthority) {
        changeClaim(of: id, session: session) { writer in
            guard let expiry = writer?.authority.expiry, authority.expiry > expiry else { return }
            writer?.authority = authority
        }
    }

    /// Forgets what a channel that left its session had.
    mutating func forgetClaims(of session: Identifier, channel: UInt16) {
        for id in sessions.sessions[session]?.claims ?? [] {
            changeClaim(of: id, session: session) { $0?.kept.removeAll { $0.channel == channel } }
        }
    }

    /// Forgets what a session's lost channels had of one volume.
    mutating func dropKeptClaims(of session: Identifier, on volume: Identifier) {
        changeClaim(of: volume, session: session) { $0?.kept.removeAll() }
    }

    /// Takes the claims of lost channels away that `selector` names.
    mutating func endKeptClaims(_ selector: HandleSelector) {
        for session in sessions.sessions.values where !session.claims.isEmpty {
            for id in session.claims {
                endKept(of: session.id, on: id) { selector.selects(volume: id, $0) }
            }
        }
    }

    /// Takes the claims of lost channels away whose capability has expired.
    mutating func endExpiredClaims(of some: Set<Identifier>, now: UInt64) {
        for id in some {
            for volume in sessions.sessions[id]?.claims ?? [] {
                endKept(of: id, on: volume) { $0.expiry <= now }
            }
        }
    }

    /// Takes what lost channels have of a volume away where it has no authority any more. Somebody else may write from
    /// now on: writes without an answer that such a channel's client would repeat must not come after that, so the
    /// channel, or the session that has nothing else, is gone.
    private mutating func endKept(
        of session: Identifier, on volume: Identifier, where hasEnded: (WriteAuthority) -> Bool
    ) {
        let ended = volumes[volume]?.writers[session]?.kept.filter { hasEnded($0.authority) } ?? []
        guard !ended.isEmpty else { return }
        changeClaim(of: volume, session: session) { $0?.kept.removeAll { hasEnded($0.authority) } }
        for claim in ended {
            if let channel = claim.channel {
                sessions.dropLost(of: session, channel: channel)
            } else {
                sessions[session]?.isRestored = false
            }
        }
        if sessions.hasNothingLeft(session) { endSession(session, why: "its authority to write has ended") }
    }

    /// Whether an authority is still one, whatever the time.
    private func stands(_ volume: Identifier, _ authority: WriteAuthority) -> Bool {
        revocations.reason(authority.capability) == nil
            && nodes[authority.subject]?.epoch == authority.nodeEpoch
            && volumes[volume]?.descriptor.epoch == authority.resourceEpoch
            && volumes[volume]?.isGoing == false
    }

    /// Changes a session's claim on a volume; one without a handle and without anything kept is gone.
    private mutating func changeClaim(
        of id: Identifier, session: Identifier, _ change: (inout Writer?) -> Void
    ) {
        guard volumes[id] != nil else { return }
        let before = volumes[id]?.writers[session]
        var after = before
        change(&after)
        if let writer = after, writer.handles == 0, writer.kept.isEmpty { after = nil }
        volumes[id]?.writers[session] = after
        if (before == nil) != (after == nil) {
            if after == nil {
                sessions[session]?.claims.remove(id)
                effects.spoiled += sessions.spoil(session, without: id)
            } else {
                sessions[session]?.claims.insert(id)
            }
            changedSessions.insert(session)
        } else if before?.authority != after?.authority {
            changedSessions.insert(session)
        }
    }

    /// Who may write to a volume, the oldest first.
    func writers(of id: Identifier) -> [WriterInfo] {
        guard let volume = volumes[id], !volume.writers.isEmpty else { return [] }
        return volume.writers.map { session, writer in
            WriterInfo(
                session: session, nodeName: nodeName(of: session), since: writer.since,
                disconnectedSince: sessions.sessions[session]?.lostAt)
        }.sorted { ($0.since, $0.session) < ($1.since, $1.session) }
    }

    /// What a session keeps others from writing to, in order of the volumes' names.
    func claims(of session: SessionRegistry.Session) -> [WriteClaim] {
        session.claims.compactMap { id -> WriteClaim? in
            guard let volume = volumes[id], let writer = volume.writers[session.id] else { return nil }
            return WriteClaim(
                volume: volume.descriptor.name, since: writer.since, expiry: writer.authority.expiry)
        }.sorted { $0.volume < $1.volume }
    }

    /// The sessions whose claims `selector` names, though they have no handle.
    func keptHolders(_ selector: HandleSelector) -> Set<Identifier> {
        var holders: Set<Identifier> = []
        for session in sessions.sessions.values {
            let holds = session.claims.contains { id in
                volumes[id]?.writers[session.id]?.kept.contains {
                    selector.selects(volume: id, $0.authority)
                } ?? false
            }
            if holds { holders.insert(session.id) }
        }
        return holders
    }
}
