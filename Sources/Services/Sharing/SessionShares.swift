import Core
import DequeModule

/// What each node has of the server's sessions and of its kept channels, and which sessions are nobody's yet.
///
/// Anybody with a key can begin a session, so that those which have opened nothing make room for others, the oldest first.
/// The others count for the node whose capability they used first, and a node may have as many as it leaves.
struct SessionShares {
    private struct Use {
        var sessions = 0
        var kept = 0
    }

    private let sessionsMax: Int
    private let keptMax: Int
    private var uses: [Identifier: Use] = [:]
    /// Sessions that are a node's.
    private var owned = 0
    private var kept = 0
    /// Sessions that were nobody's when they began, the oldest first; some may have ended, or be a node's by now.
    private var nobodys = Deque<Identifier>()

    init(sessionsMax: Int, keptMax: Int) {
        self.sessionsMax = sessionsMax
        self.keptMax = keptMax
    }

    /// Whether one more session may be a node's.
    func mayOwn(_ node: Identifier) -> Bool { (uses[node]?.sessions ?? 0) < sessionsMax - owned }

    /// Whether one more channel of a node's may be kept.
    func mayKeep(_ node: Identifier) -> Bool { (uses[node]?.kept ?? 0) < keptMax - kept }

    /// How many sessions a node has.
    func sessions(of node: Identifier) -> Int { uses[node]?.sessions ?? 0 }

    /// Notes that a session has begun.
    mutating func began(_ id: Identifier, of node: Identifier?) {
        if let node { own(node) } else { nobodys.append(id) }
    }

    /// Notes that a session is a node's from now on.
    mutating func own(_ node: Identifier) {
        uses[node, default: Use()].sessions += 1
        owned += 1
    }

    /// Notes that a session has ended.
    mutating func ended(of node: Identifier?) {
        guard let node else { return }
        owned -= 1
        change(node) { $0.sessions -= 1 }
    }

    /// Notes that channels of a node are kept, or (negative) not any more.
    mutating func keep(_ difference: Int, of node: Identifier?) {
        kept += difference
        guard let node else { return }
        change(node) { $0.kept += difference }
    }

    private mutating func change(_ node: Identifier, _ body: (inout Use) -> Void) {
        var use = uses[node] ?? Use()
        body(&use)
        uses[node] = use.sessions == 0 && use.kept == 0 ? nil : use
    }

    /// Takes out the oldest session that is still nobody's, as `isNobodys` says.
    mutating func takeNobodys(_ isNobodys: (Identifier) -> Bool) -> Identifier? {
        while let id = nobodys.popFirst() {
            if isNobodys(id) { return id }
        }
        return nil
    }

    /// Forgets those that are not any more, where they have become many.
    mutating func tidy(_ isNobodys: (Identifier) -> Bool) {
        if nobodys.count > 2 * sessionsMax { nobodys.removeAll { !isNobodys($0) } }
    }
}

extension SessionRegistry {
    /// The oldest session that has opened nothing: the first to go when the server has its most.
    mutating func takeNobodys() -> Identifier? {
        shares.takeNobodys { [sessions] in sessions[$0].map { $0.node == nil && !$0.isEnding } ?? false }
    }

    /// Whether another channel of a session may be kept beside those of its node, and of all.
    func mayKeep(_ id: Identifier) -> Bool {
        guard let node = sessions[id]?.node else { return false }
        return shares.mayKeep(node)
    }
}
