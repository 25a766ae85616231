import Capability
import Core
import Synchronization

/// What the control plane asks for.
extension IOServices {
    // MARK: Authority

    func trust(_ keys: [[UInt8]: [UInt8]]) {
        let verifier = CapabilityVerifier(
            issuerKeys: keys, audience: configuration.cluster, signatures: configuration.signatures)
        state.withLock { $0.verifier = verifier }
        configuration.logger.info("signing keys set", metadata: ["count": "\(keys.count)"])
    }

    func setNode(_ id: Identifier, name: String, epoch: UInt64) async {
        let before = state.withLock { state in
            state.directory.nodes.updateValue(Directory.Node(name: name, epoch: epoch), forKey: id)
        }
        guard let before, before.epoch != epoch else { return }
        let reason = "node \(name) was enrolled anew"
        configuration.logger.notice(
            "node epoch changed", metadata: ["node": "\(name)", "id": "\(id)", "epoch": "\(epoch)"])
        await fence(.node(id, keeping: epoch), status: .revoked, reason: reason)
    }

    func removeNode(_ id: Identifier) async {
        let removed = state.withLock { $0.directory.nodes.removeValue(forKey: id) }
        let name = removed?.name ?? id.hex
        configuration.logger.notice("node removed", metadata: ["node": "\(name)", "id": "\(id)"])
        await fence(.node(id, keeping: nil), status: .revoked, reason: "node \(name) was removed")
    }

    func revoke(_ ends: [(id: Identifier, expiry: UInt64)], reason: String) async throws(StatusError) {
        let now = self.now
        let isHeld = state.withLock { state in
            let past = state.cautiousClock.now(wall: now.wall, monotonic: now.life)
            return ends.reduce(true) { all, end in
                state.directory.revocations.insert(end.id, expiry: end.expiry, reason: reason, now: past)
                    && all
            }
        }
        for end in ends.prefix(Limits.revocationsLoggedMax) {
            configuration.logger.notice(
                "capability revoked", metadata: ["capability": "\(end.id)", "reason": "\(reason)"])
        }
        if ends.count > Limits.revocationsLoggedMax {
            configuration.logger.notice(
                "capabilities revoked", metadata: ["count": "\(ends.count)", "reason": "\(reason)"])
        }
        if let only = ends.first, ends.count == 1 {
            await fence(.capability(only.id), status: .revoked, reason: reason)
        } else {
            await fence(.capabilities(Set(ends.map(\.id))), status: .revoked, reason: reason)
        }
        guard isHeld else {
            throw StatusError(.busy, "the server remembers its most revocations: bump epochs instead")
        }
    }

    func disconnect(_ id: Identifier, reason: String) async throws(StatusError) {
        guard state.withLock({ $0.directory.sessions.sessions[id] != nil }) else {
            throw StatusError(.notFound, "there is no session \(id)")
        }
        configuration.logger.notice(
            "session disconnected", metadata: ["session": "\(id)", "reason": "\(reason)"])
        configuration.events.append(
            .sessionDisconnected, subject: "session/\(id)", message: "\(reason); its client may go on with it"
        )
        await onEveryShard { shard, done in
            shard.disconnect(id, reason: reason)
            done()
        }
    }

    func endSession(_ id: Identifier, reason: String) async throws(StatusError) {
        let words =
            "\(reason). Its node may begin a new one at once: 'sluice grant delete' keeps it out"
        guard withDirectory({ $0.endSession(id, why: words) }) else {
            throw StatusError(.notFound, "there is no session \(id)")
        }
        configuration.logger.notice(
            "session ended", metadata: ["session": "\(id)", "reason": "\(reason)"])
        await onEveryShard { shard, done in shard.endSession(id, reason: reason, done: done) }
        // Unless that is written down, the next start of the server brings the session back.
        guard await isSaved() else {
            throw StatusError(
                .internalError,
                "the session has ended, but that cannot be written down: it comes back when the server is started "
                    + "again; see the server's log")
        }
    }

    /// Takes the authority of handles away on every reactor, and waits until it has had its effect.
    func fence(_ selector: HandleSelector, status: Status, reason: String) async {
        withDirectory { $0.endKeptClaims(selector) }
        await onEveryShard { shard, done in
            shard.fence(selector, status: status, reason: reason, done: done)
        }
    }

    // MARK: Every reactor

    /// Runs `body` on every shard's thread and returns when each has called its `done`.
    ///
    /// A reactor that has ended counts as done: it has no channel any more.
    func onEveryShard(
        _ body: @escaping @Sendable (ServiceShard, _ done: @escaping @Sendable () -> Void) -> Void
    ) async {
        let links = state.withLock { $0.shards }
        guard !links.isEmpty else { return }
        await withCheckedContinuation { (continuation: CheckedContinuation<Void, Never>) in
            let countdown = Countdown(links.count) { continuation.resume() }
            for link in links {
                let isPosted = link.remote.post {
                    let shard = link.shard.value
                    if shard.isStopped, shard.target == nil {
                        countdown.signal()
                    } else {
                        body(shard) { countdown.signal() }
                    }
                }
                if !isPosted { countdown.signal() }
            }
        }
    }

    /// What every shard answers to `body`.
    func fromEveryShard<Value: Sendable>(_ body: @escaping @Sendable (ServiceShard) -> Value) async -> [Value]
    {
        let values = SharedList<Value>()
        await onEveryShard { shard, done in
            values.append(body(shard))
            done()
        }
        return values.all
    }

    // MARK: Reports

    func statistics() async -> Statistics {
        var total = Statistics()
        for part in await fromEveryShard({ $0.currentStatistics }) { total.add(part) }
        total.sessions = state.withLock { $0.directory.sessions.sessions.count }
        return total
    }

    func sessions() async -> [SessionInfo] {
        let parts = await fromEveryShard { $0.sessionParts }
        return state.withLock { state in
            let directory = state.directory
            return directory.sessions.sessions.values.map { session in
                var info = SessionInfo(
                    id: session.id, node: session.node,
                    nodeName: session.node.flatMap { directory.nodes[$0]?.name },
                    thumbprint: session.thumbprint, clientName: session.clientName,
                    peerAddress: session.peerAddress, since: session.since,
                    lost: session.lost)
                info.claims = directory.claims(of: session)
                for part in parts.compactMap({ $0[session.id] }) {
                    info.add(part) { directory.resources[$0]?.name ?? "" }
                }
                return info
            }.sorted { ($0.since, $0.id) < ($1.since, $1.id) }
        }
    }
}

/// Calls back once when it has been signalled a number of times. Any thread.
final class Countdown: Sendable {
    private let left: Mutex<Int>
    private let body: @Sendable () -> Void

    init(_ count: Int, _ body: @escaping @Sendable () -> Void) {
        left = Mutex(count)
        self.body = body
    }

    func signal() {
        let isLast = left.withLock { left in
            left -= 1
            return left == 0
        }
        if isLast { body() }
    }
}

/// A list that several threads append to.
final class SharedList<Value: Sendable>: Sendable {
    private let values = Mutex<[Value]>([])

    func append(_ value: Value) {
        values.withLock { $0.append(value) }
    }

    var all: [Value] { values.withLock { $0 } }
}
