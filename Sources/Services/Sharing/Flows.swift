import Core

/// The sessions of one shard that have opened something, by small numbers: what drivers' queues know them by.
struct Flows {
    /// "No session".
    static let none = UInt32.max

    private struct Entry {
        let flow: UInt32
        let node: Identifier
        let share: UInt32
        var channels: Int
    }

    private struct Node {
        let share: UInt32
        var sessions: Int
    }

    private var entries: [Identifier: Entry] = [:]
    private var free: [UInt32] = []
    private var nodes: [Identifier: Node] = [:]
    private var freeShares: [UInt32] = []
    /// Numbers that were ever used are below this.
    private(set) var used: UInt32 = 0
    /// Likewise, of nodes.
    private(set) var usedShares: UInt32 = 0

    /// The numbers of nodes that have sessions here.
    var shares: [(node: Identifier, share: UInt32)] { nodes.map { ($0.key, $0.value.share) } }

    /// Counts a channel of `session`, and returns the session's number and that of the node whose capability it used
    /// first here.
    mutating func join(_ session: Identifier, of node: Identifier) -> (flow: UInt32, share: UInt32) {
        if let known = entries[session] {
            entries[session]?.channels += 1
            return (known.flow, known.share)
        }
        let flow = free.popLast() ?? used
        if flow == used { used += 1 }
        let share = join(node)
        entries[session] = Entry(flow: flow, node: node, share: share, channels: 1)
        return (flow, share)
    }

    private mutating func join(_ node: Identifier) -> UInt32 {
        if let known = nodes[node] {
            nodes[node]?.sessions += 1
            return known.share
        }
        let share = freeShares.popLast() ?? usedShares
        if share == usedShares { usedShares += 1 }
        nodes[node] = Node(share: share, sessions: 1)
        return share
    }

    /// Takes a channel back, of which nothing is in flight; with the last one, the number is free.
    mutating func leave(_ session: Identifier) {
        guard let known = entries[session] else { return }
        if known.channels > 1 {
            entries[session]?.channels -= 1
        } else {
            entries[session] = nil
            free.append(known.flow)
            leave(node: known.node)
        }
    }

    private mutating func leave(node: Identifier) {
        guard let known = nodes[node] else { return }
        if known.sessions > 1 {
            nodes[node]?.sessions -= 1
        } else {
            nodes[node] = nil
            freeShares.append(known.share)
        }
    }
}

extension ServiceShard {
    /// Whether several sessions want something of this reactor.
    @inline(__always)
    public var isShared: Bool { activity.active > 1 }

    /// Whether some of them have but a few requests under way, so that they feel how long a wake-up of others takes.
    @inline(__always)
    public var isMixed: Bool { activity.isMixed }

    /// Whether a driver is about to answer a small request that is its session's only one: somebody waits for just that.
    public var expectsLoneRequest: Bool { ports.all.contains { $0?.expectsLoneRequest == true } }

    /// Gives a channel that opens something the number of its session, and that of the node.
    func joinFlow(_ channel: ServiceChannel, of node: Identifier) {
        guard channel.flow == Flows.none, let session = channel.session else { return }
        (channel.flow, channel.share) = flows.join(session, of: node)
        activity.prepare(channel.flow)
        for port in ports.all { port?.prepare(flow: channel.flow, share: channel.share) }
    }

    /// Takes the number of a channel back that has ended.
    func leaveFlow(_ channel: ServiceChannel) {
        guard channel.flow != Flows.none, let session = channel.session else { return }
        channel.flow = Flows.none
        flows.leave(session)
    }
}
