import Core

/// A session that may write, as it has to be known after a restart of the server.
public struct SavedSession: Sendable {
    /// The session's id.
    public let id: Identifier
    /// What a client must know to go on with it.
    public let secret: SecretBytes
    /// SHA-256 of the client key's SubjectPublicKeyInfo.
    public let thumbprint: Digest32
    /// What the client calls itself.
    public let clientName: String
    /// Where it came from.
    public let peerAddress: String
    /// Unix seconds of its start.
    public let since: UInt64
    /// The node whose capability it used first.
    public let node: Identifier?
    /// Who began it.
    public let instance: Identifier
    /// At least one.
    public let claims: [SessionClaim]

    /// A session.
    public init(
        id: Identifier, secret: SecretBytes, thumbprint: Digest32, clientName: String, peerAddress: String,
        since: UInt64, node: Identifier?, instance: Identifier, claims: [SessionClaim]
    ) {
        self.id = id
        self.secret = secret
        self.thumbprint = thumbprint
        self.clientName = clientName
        self.peerAddress = peerAddress
        self.since = since
        self.node = node
        self.instance = instance
        self.claims = claims
    }
}

/// Who has a volume for writing, or had it last.
public struct VolumeWriter: Sendable, Hashable {
    /// What makes one writer another than the one before, in mode single-writer.
    public struct Holder: Sendable, Hashable {
        /// SHA-256 of the client key's SubjectPublicKeyInfo.
        public let thumbprint: Digest32
        /// The client's instance; its session's id if it named none.
        public let instance: Identifier

        /// A holder.
        public init(thumbprint: Digest32, instance: Identifier) {
            self.thumbprint = thumbprint
            self.instance = instance
        }
    }

    /// Rises by one with each change of `holder`; 0 when nobody has ever written.
    public var generation: UInt64
    /// nil for nobody, and for all those who write to a shared volume.
    public var holder: Holder?

    /// A writer.
    public init(generation: UInt64, holder: Holder?) {
        self.generation = generation
        self.holder = holder
    }

    /// Of a volume that nobody has ever written to.
    public static let none = VolumeWriter(generation: 0, holder: nil)
}

/// Where sessions that may write are written down, so that they outlive the server.
///
/// Changes become durable in the order of the calls. That order keeps claims apart: what a session gave up is written
/// before, or together with, what the next one got. Any thread; no call waits.
public protocol SessionStore: Sendable {
    /// Writes a session down, or (nil) forgets it.
    func save(_ id: Identifier, _ session: SavedSession?)
    /// Notes a volume's writer, or (nil) forgets it with the volume.
    func save(volume: Identifier, _ writer: VolumeWriter?)
    /// Calls `body` when everything is durable that was saved before; with false when it cannot be now.
    func afterSaving(_ body: @escaping @Sendable (Bool) -> Void)
}

extension Directory {
    /// A session as it is to be saved; nil when there is nothing to save.
    func saved(_ id: Identifier) -> SavedSession? {
        guard let session = sessions.sessions[id], session.isResumable, !session.isEnding,
            !session.claims.isEmpty
        else { return nil }
        let claims = session.claims.sorted().compactMap { volume -> SessionClaim? in
            guard let writer = resources[volume]?.writers[id] else { return nil }
            let terms = writer.terms
            return SessionClaim(
                volume: volume, since: writer.since, capability: terms.capability,
                subject: terms.subject, nodeEpoch: terms.nodeEpoch,
                resourceEpoch: terms.resourceEpoch, expiry: terms.expiry)
        }
        return SavedSession(
            id: id, secret: session.secret, thumbprint: session.thumbprint, clientName: session.clientName,
            peerAddress: session.peerAddress, since: session.since, node: session.node,
            instance: session.instance, claims: claims)
    }

    /// Whether a claim would be forgotten in a restart though its session would not, or who the resource's writer is.
    func needsSaving(_ session: Identifier, on id: Identifier) -> Bool {
        guard let resource = resources[id] else { return false }
        return !resource.isWriterSaved
            || sessions.sessions[session]?.isResumable == true && resource.writers[session]?.isSaved == false
    }

    /// Notes that everything about a claim outlives the server by now.
    mutating func claimIsSaved(_ session: Identifier, on id: Identifier, generation: UInt64) {
        resources[id]?.writers[session]?.isSaved = true
        if resources[id]?.writer.generation == generation { resources[id]?.isWriterSaved = true }
    }
}

extension Directory {
    /// Takes in a session of before a restart of the server, without a connection, with those of its claims that still
    /// stand; false when it has none, or the server its most.
    mutating func restore(_ saved: SavedSession, now: Moment) -> Bool {
        var session = SessionRegistry.Session(
            id: saved.id, secret: saved.secret, thumbprint: saved.thumbprint, clientName: saved.clientName,
            peerAddress: saved.peerAddress, since: saved.since, instance: saved.instance, node: saved.node)
        session.isResumable = true
        guard sessions.restore(session, lostAt: now) else { return false }
        for claim in saved.claims { restore(claim, of: saved.id, now: now) }
        changedSessions.insert(saved.id)
        if sessions.sessions[saved.id]?.claims.isEmpty == false { return true }
        _ = sessions.remove(saved.id)
        return false
    }
}
