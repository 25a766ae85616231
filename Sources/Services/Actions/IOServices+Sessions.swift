import Capability
import Core
import Wire

/// Sessions and claims, for shards. The lock is held for a look at tables; what follows of it is done outside.
extension IOServices {
    /// A channel's place in a session.
    struct Membership {
        let session: Identifier
        let channel: UInt16
        /// For a new session its secret; nil for a channel that joined or was resumed.
        var secret: [UInt8]?
        /// What was kept of a channel that was resumed.
        var kept: KeptSlots?
    }

    /// What a HELLO comes to.
    enum HelloOutcome {
        case accepted(Membership)
        case refused(StatusError)
        /// `ServiceShard.answerGreeting` is called when the channel's old connection has ended.
        case undecided
    }

    /// Changes the directory under the lock, then tells whoever has to hear of it.
    func withDirectory<Value: Sendable>(_ body: (inout Directory) -> Value) -> Value {
        let (value, effects) = state.withLock { state in
            let value = body(&state.directory)
            let effects = state.directory.effects
            state.directory.effects = Directory.Effects()
            // Under the lock, so that claims are saved in the order in which they followed each other.
            if let store = configuration.sessionStore {
                for id in state.directory.changedSessions { store.save(id, state.directory.saved(id)) }
            }
            state.directory.changedSessions.removeAll(keepingCapacity: true)
            if let store = configuration.sessionStore {
                for id in state.directory.changedWriters {
                    store.save(volume: id, state.directory.resources[id]?.writer)
                }
            }
            state.directory.changedWriters.removeAll(keepingCapacity: true)
            return (value, effects)
        }
        for event in effects.events {
            configuration.events.append(
                event.kind, subject: "session/\(event.session)", message: event.message, by: event.by)
        }
        for (connection, answer) in effects.answers { deliver(answer, to: connection) }
        for connection in effects.spoiled {
            guard let link = link(connection.shard) else { continue }
            _ = link.remote.post { link.shard.value.closeSpoiled(connection.number) }
        }
        for connection in effects.crowdedOut {
            guard let link = link(connection.shard) else { continue }
            _ = link.remote.post { link.shard.value.closeCrowdedOut(connection.number) }
        }
        return value
    }

    private func link(_ number: ObjectIdentifier) -> ShardLink? {
        state.withLock { state in state.shards.first { $0.number == number } }
    }

    private func deliver(_ answer: Result<KeptSlots, StatusError>, to connection: SessionRegistry.Connection)
    {
        // On a reactor that has ended no connection waits any more: the server keeps the channel for nobody.
        guard let link = link(connection.shard) else { return }
        _ = link.remote.post { link.shard.value.answerGreeting(connection.number, answer) }
    }

    /// Puts the connection of a HELLO into a new session, into the one that it names, or into the place of a lost one.
    func greet(_ hello: Hello, _ channel: ServiceChannel, on shard: ServiceShard) -> HelloOutcome {
        let connection = SessionRegistry.Connection(
            shard: ObjectIdentifier(shard), number: channel.connection)
        if let number = hello.resumes { return resume(hello, channel, number, by: connection) }
        return hello.isJoining ? join(hello, channel, by: connection) : start(hello, channel, by: connection)
    }

    private func start(
        _ hello: Hello, _ channel: ServiceChannel, by connection: SessionRegistry.Connection
    ) -> HelloOutcome {
        if let drain {
            let place = drain.target.isEmpty ? "try again later" : "go to \(drain.target)"
            return .refused(StatusError(.draining, "the server is being drained: \(place)"))
        }
        let now = self.now
        let id = Identifier.random(using: configuration.random)
        let secret = configuration.random.bytes(Hello.secretByteCount)
        var session = SessionRegistry.Session(
            id: id, secret: SecretBytes(secret), thumbprint: channel.thumbprint,
            clientName: hello.clientName, peerAddress: channel.peerAddress,
            since: now.wall, instance: hello.instance)
        session.isResumable = hello.features.contains(.resume)
        let status = withDirectory { [session] in $0.startSession(session, by: connection, now: now) }
        guard status == .ok else {
            return .refused(StatusError(status, "the server has its most sessions"))
        }
        return .accepted(Membership(session: id, channel: 0, secret: secret))
    }

    private func join(
        _ hello: Hello, _ channel: ServiceChannel, by connection: SessionRegistry.Connection
    ) -> HelloOutcome {
        let result = withDirectory { directory in
            let lostAt = directory.sessions.sessions[hello.session]?.lostAt
            let result = directory.sessions.join(
                hello.session, secret: hello.secret, thumbprint: channel.thumbprint, by: connection)
            if case .success = result { directory.noteConnection(hello.session, lostAt: lostAt) }
            return result
        }
        switch result {
        case .success(let number): return .accepted(Membership(session: hello.session, channel: number))
        case .failure(let refusal): return .refused(refusal)
        }
    }

    private func resume(
        _ hello: Hello, _ channel: ServiceChannel, _ number: UInt16,
        by connection: SessionRegistry.Connection
    ) -> HelloOutcome {
        let decision = withDirectory {
            $0.resumeChannel(
                hello.session, secret: hello.secret, thumbprint: channel.thumbprint, channel: number,
                by: connection)
        }
        switch decision {
        case .granted(let kept):
            return .accepted(Membership(session: hello.session, channel: number, kept: kept))
        case .refused(let refusal): return .refused(refusal)
        case .waits(let old, _):
            if let link = link(old.shard) {
                _ = link.remote.post { link.shard.value.supersede(connection: old.number) }
            }
            return .undecided
        }
    }

    /// Keeps a lost channel for its client's next connection; true when the session is gone with it instead.
    func keep(_ session: Identifier, channel: UInt16, _ kept: KeptSlots) -> Bool {
        let now = self.now
        return withDirectory { $0.keepChannel(session, channel: channel, kept, now: now) }
    }

    /// Has a channel be forgotten when its connection, which is going, is gone.
    func leaveNothing(of session: Identifier, channel: UInt16) {
        withDirectory { $0.sessions.leaveNothing(of: session, channel: channel) }
    }

    /// Takes a channel out of its session; true when that ended the session.
    func leave(_ session: Identifier, channel: UInt16, isClosed: Bool) -> Bool {
        let now = self.now
        return withDirectory {
            $0.leaveSession(session, channel: channel, isClosed: isClosed, now: now)
        }
    }

    /// Ends sessions that have been without a connection for too long; true while there are any without one.
    func sweepSessions() -> Bool {
        let now = self.now
        let linger = UInt64(configuration.lingerSeconds)
        return withDirectory { $0.sweepSessions(lingerSeconds: linger, now: now) }
    }

    /// Takes in sessions of before a restart of the server, without a connection; earlier claims give way to later
    /// ones on the same volume.
    func restore(_ saved: [SavedSession], writers: [Identifier: VolumeWriter]) {
        let now = self.now
        let restored = withDirectory { directory in
            for (id, writer) in writers { directory.resources[id]?.writer = writer }
            let inOrder = saved.sorted {
                ($0.claims.map(\.since).max() ?? 0) > ($1.claims.map(\.since).max() ?? 0)
            }
            return inOrder.count { directory.restore($0, now: now) }
        }
        configuration.logger.info(
            "sessions restored", metadata: ["count": "\(restored)", "saved": "\(saved.count)"])
        if let link = state.withLock({ $0.shards.first }) {
            _ = link.remote.post { link.shard.value.armSessionSweep() }
        }
    }

    // MARK: Claims

    func admit(
        _ capability: EffectiveCapability, wanted: Rights, session: Identifier, channel: UInt16,
        takesOver: Bool, now: Moment
    ) -> Result<Admission, StatusError> {
        return withDirectory { directory in
            if directory.sessions.sessions[session]?.spoiled.contains(channel) == true {
                return .failure(
                    StatusError(
                        .expired,
                        "the authority that the channel was resumed with has ended: start a new session"))
            }
            return directory.admit(
                capability, wanted: wanted, session: session, takesOver: takesOver, now: now)
        }
    }

    /// Notes that a channel has a handle that may write to a resource, be it the one that it had before it was lost.
    func opened(_ id: Identifier, session: Identifier, channel: UInt16) {
        withDirectory { $0.claimIsHeld(on: id, session: session, channel: channel) }
    }

    func standing(_ capability: EffectiveCapability) -> StatusError? {
        state.withLock { $0.directory.standing(capability) }
    }

    /// What a handle's new capability comes to.
    struct Renewal {
        let writerGeneration: UInt64
        /// Whether the claim has to be saved before the client may know of it.
        let needsSaving: Bool
    }

    /// Has a session write by another capability; `claims` if the handle does not count among the writers yet.
    func renewClaim(
        of id: Identifier, session: Identifier, channel: UInt16, by terms: CapabilityTerms, claims: Bool
    ) -> Result<Renewal, StatusError> {
        let now = self.now
        return withDirectory { directory in
            if claims,
                let refusal = directory.claimWriter(of: id, session: session, by: terms, now: now)
            {
                return .failure(refusal)
            }
            directory.renewClaim(of: id, session: session, by: terms)
            if claims { directory.claimIsHeld(on: id, session: session, channel: channel) }
            return .success(
                Renewal(
                    writerGeneration: directory.resources[id]?.writer.generation ?? 0,
                    needsSaving: configuration.sessionStore != nil
                        && directory.needsSaving(session, on: id)))
        }
    }

    /// The generation of a resource's writer now.
    func writerGeneration(of id: Identifier) -> UInt64 {
        state.withLock { $0.directory.resources[id]?.writer.generation ?? 0 }
    }

    /// Calls `body`, on any thread, when a claim and who the resource's writer is outlive the server, or cannot.
    func afterSaving(
        claimOf session: Identifier, on id: Identifier, generation: UInt64,
        _ body: @escaping @Sendable (StatusError?) -> Void
    ) {
        guard let store = configuration.sessionStore else { return body(nil) }
        store.afterSaving { [self] isSaved in
            guard isSaved else {
                return body(
                    StatusError(
                        .internalError,
                        "the claim of the session cannot be written down: see the server's log"))
            }
            state.withLock { $0.directory.claimIsSaved(session, on: id, generation: generation) }
            body(nil)
        }
    }

    func endClaim(of id: Identifier, session: Identifier, channel: UInt16, _ end: ClaimEnd) {
        withDirectory { $0.endClaim(of: id, session: session, channel: channel, end) }
    }

    func endLapsed(of id: Identifier, session: Identifier, channel: UInt16, isLost: Bool) {
        withDirectory { $0.endLapsed(of: id, session: session, channel: channel, isLost: isLost) }
    }

    /// Returns when all changes of sessions until now outlive the server; false when they cannot.
    func isSaved() async -> Bool {
        guard let store = configuration.sessionStore else { return true }
        return await withCheckedContinuation { continuation in
            store.afterSaving { continuation.resume(returning: $0) }
        }
    }

    /// Does what an OPEN has to wait for: has its claim saved, and its resource opened. `completion` is called on any
    /// thread.
    func prepare(
        _ admission: Admission, session: Identifier,
        completion: @escaping @Sendable (Result<ResourceForm, StatusError>) -> Void
    ) {
        guard admission.needsSaving else { return open(admission, completion: completion) }
        afterSaving(
            claimOf: session, on: admission.resource, generation: admission.writerGeneration
        ) { [self] error in
            if let error { return completion(.failure(error)) }
            open(admission, completion: completion)
        }
    }

    private func open(
        _ admission: Admission, completion: @escaping @Sendable (Result<ResourceForm, StatusError>) -> Void
    ) {
        if admission.form.isOpen { return completion(.success(admission.form)) }
        openOnDriver(admission, completion: completion)
    }
}
