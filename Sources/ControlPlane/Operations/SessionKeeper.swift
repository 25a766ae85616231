import Catalog
import Core
import Logging
import Services
import Synchronization

/// Writes sessions that may write, and the writers of volumes, into the catalog: whatever has come together while the
/// last transaction was written goes into the next one.
///
/// Any thread; nothing waits.
public final class SessionKeeper: SessionStore {
    /// What is to be written.
    private struct Batch: Sendable {
        /// The latest of each session, nil to forget it.
        var sessions: [Identifier: SavedSession?] = [:]
        /// The latest of each volume, nil to forget it.
        var writers: [Identifier: VolumeWriter?] = [:]

        var isEmpty: Bool { sessions.isEmpty && writers.isEmpty }

        /// Takes in what was to be written before, where nothing newer is.
        mutating func merge(older: Batch) {
            sessions.merge(older.sessions) { newer, _ in newer }
            writers.merge(older.writers) { newer, _ in newer }
        }
    }

    private struct State {
        var pending = Batch()
        /// Who waits for that.
        var waiters: [@Sendable (Bool) -> Void] = []
        /// Who waits for the transaction that is being written.
        var writingFor: [@Sendable (Bool) -> Void] = []
        var isWriting = false
    }

    private let store: RecordStore
    private let logger: Logger
    /// Of the machine's run.
    let bootID: String
    private let state = Mutex(State())

    /// A keeper that writes to `store`, whose records of sessions are its own.
    public init(store: RecordStore, bootID: String, logger: Logger) {
        self.store = store
        self.bootID = bootID
        self.logger = logger
    }

    /// Queues a change.
    public func save(_ id: Identifier, _ session: SavedSession?) {
        let isFirst = state.withLock { state in
            if session == nil, state.pending.sessions[id] == nil, !state.isWriting,
                store.get(SessionRecord.self, id.hex) == nil
            {
                return false
            }
            state.pending.sessions.updateValue(session, forKey: id)
            defer { state.isWriting = true }
            return !state.isWriting
        }
        if isFirst { write() }
    }

    /// Queues a change.
    public func save(volume: Identifier, _ writer: VolumeWriter?) {
        let isFirst = state.withLock { state in
            state.pending.writers.updateValue(writer, forKey: volume)
            defer { state.isWriting = true }
            return !state.isWriting
        }
        if isFirst { write() }
    }

    /// Calls `body` when what was queued before is durable, or has failed to be.
    public func afterSaving(_ body: @escaping @Sendable (Bool) -> Void) {
        let isNothingToDo = state.withLock { state in
            if !state.pending.isEmpty {
                state.waiters.append(body)
            } else if state.isWriting {
                state.writingFor.append(body)
            } else {
                return true
            }
            return false
        }
        if isNothingToDo { body(true) }
    }

    private func write() {
        Task.detached { [self] in
            while let (batch, waiters) = next() {
                let isSaved = await commit(batch)
                let all = state.withLock { state in
                    let all = waiters + state.writingFor
                    state.writingFor = []
                    // What could not be written comes before, or with, whatever is written next.
                    if !isSaved { state.pending.merge(older: batch) }
                    return all
                }
                for waiter in all { waiter(isSaved) }
                if !isSaved { return state.withLock { $0.isWriting = false } }
            }
        }
    }

    /// What is to be written next; nil ends the writing.
    private func next() -> (Batch, [@Sendable (Bool) -> Void])? {
        state.withLock { state in
            guard !state.pending.isEmpty else {
                state.isWriting = false
                return nil
            }
            let next = (state.pending, state.waiters)
            state.pending = Batch()
            state.waiters = []
            return next
        }
    }

    private func commit(_ batch: Batch) async -> Bool {
        do throws(CatalogError) {
            var changes = RecordChanges()
            for (id, session) in batch.sessions {
                let known = store.get(SessionRecord.self, id.hex)
                if let session {
                    try changes.put(SessionRecord(session, bootID: bootID), over: known?.revision ?? 0)
                } else if let known {
                    changes.delete(known)
                }
            }
            for (id, writer) in batch.writers {
                let known = store.get(WriterRecord.self, id.hex)
                if let writer {
                    try changes.put(WriterRecord(id, writer), over: known?.revision ?? 0)
                } else if let known {
                    changes.delete(known)
                }
            }
            if !changes.isEmpty { try await store.commit(changes) }
            return true
        } catch {
            logger.error("sessions cannot be written down", metadata: ["reason": "\(error)"])
            return false
        }
    }
}

extension SessionRecord {
    init(_ session: SavedSession, bootID: String) {
        self.init(
            id: session.id, secret: Hex.encode(session.secret.copied), thumbprint: session.thumbprint,
            clientName: session.clientName, peerAddress: session.peerAddress, since: session.since,
            node: session.node, instance: session.instance == .zero ? nil : session.instance,
            claims: session.claims, bootID: bootID)
    }

    /// The session with those of its claims that `isKept` lets through; nil when none is left.
    func session(claims isKept: (SessionClaim) -> Bool) -> SavedSession? {
        let claims = claims.filter(isKept)
        guard !claims.isEmpty, let secret = Hex.decode(secret) else { return nil }
        return SavedSession(
            id: id, secret: SecretBytes(secret), thumbprint: thumbprint, clientName: clientName,
            peerAddress: peerAddress, since: since, node: node, instance: instance ?? .zero, claims: claims)
    }
}

extension WriterRecord {
    init(_ volume: Identifier, _ writer: VolumeWriter) {
        self.init(
            volume: volume, generation: writer.generation, thumbprint: writer.holder?.thumbprint,
            instance: writer.holder?.instance)
    }

    var writer: VolumeWriter {
        var holder: VolumeWriter.Holder?
        if let thumbprint, let instance {
            holder = VolumeWriter.Holder(thumbprint: thumbprint, instance: instance)
        }
        return VolumeWriter(generation: generation, holder: holder)
    }
}

extension ControlPlane {
    /// Brings back the sessions that outlive a restart of the server: those of this run of the machine, as far as they may
    /// write to volumes that have not lost anything with the server.
    func restoreSessions() async throws(Problem) {
        guard let keeper = sessionKeeper else { return }
        let volatilePools = Set(store.all(PoolRecord.self, where: isVolatile).map(\.record.name))
        let lasting = Set(
            store.all(VolumeRecord.self) { !volatilePools.contains($0.pool) }.map(\.record.id))
        var sessions: [SavedSession] = []
        for stored in store.all(SessionRecord.self) {
            let record = stored.record
            let session =
                record.bootID == keeper.bootID
                ? record.session { lasting.contains($0.volume) } : nil
            if let session { sessions.append(session) } else { keeper.save(record.id, nil) }
        }
        var writers: [Identifier: VolumeWriter] = [:]
        for stored in store.all(WriterRecord.self) {
            writers[stored.record.volume] = stored.record.writer
        }
        try await perform(.restoreSessions(sessions, writers: writers))
    }
}
