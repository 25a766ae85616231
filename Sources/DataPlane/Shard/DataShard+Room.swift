import Core
import Services

/// Room for those who come, when the server has its most connections.
extension DataShard {
    /// Ends some connections, those that are missed least first: connections that have not said HELLO, then those
    /// that have opened nothing, then those of the node that has the most, whose clients can go on with others.
    ///
    /// It looks at all connections, so at most every few milliseconds.
    func makeRoom() {
        guard reactor.now &- roomMadeAt > Limits.makeRoomNanoseconds else { return }
        roomMadeAt = reactor.now
        let wanted = max(1, options.connectionsMax / Limits.makeRoomPart)
        let all = Array(connections.values)
        var ended = 0
        for rank in 0..<DataConnection.Rank.opened.rawValue where ended < wanted {
            for connection in all where connection.rank.rawValue == rank && ended < wanted {
                connection.teardown()
                ended += 1
            }
        }
        if ended < wanted { ended += endGreedy(all, wanted - ended) }
        logger.notice(
            "connections make room for others: the server has its most",
            metadata: ["most": "\(options.connectionsMax)", "ended": "\(ended)"])
    }

    private func endGreedy(_ all: [DataConnection], _ wanted: Int) -> Int {
        var counts: [UInt32: Int] = [:]
        for connection in all {
            if let node = connection.nodeNumber { counts[node, default: 0] += 1 }
        }
        guard let greedy = counts.max(by: { ($0.value, $1.key) < ($1.value, $0.key) }), greedy.value > 1
        else {
            return 0
        }
        let theirs = all.filter { $0.nodeNumber == greedy.key }.sorted { $0.heardAt < $1.heardAt }
        for connection in theirs.prefix(wanted) { connection.teardown() }
        return min(wanted, theirs.count)
    }
}

extension DataShard {
    /// Ends connections that have opened nothing and keep sending what the server does not read, those with the
    /// most first, until there is room for others of their kind.
    ///
    /// It looks at all connections, so at most every few milliseconds.
    fileprivate func endUnreadStrangers() {
        guard reactor.now &- strangersSeenAt > Limits.makeRoomNanoseconds else { return }
        strangersSeenAt = reactor.now
        let strangers = connections.values.filter { $0.unreadNoted > 0 && $0.rank != .opened }
            .sorted { $0.unreadNoted > $1.unreadNoted }
        var left = strangers.reduce(0) { $0 + $1.unreadNoted }
        guard left > Limits.unreadBytesOfStrangers else { return }
        for connection in strangers where left > Limits.unreadBytesOfStrangers / 2 {
            left -= connection.unreadNoted
            logger.info(
                "channel closed by the server",
                metadata: [
                    "peer": "\(connection.peerAddress)",
                    "reason": "it has opened nothing, and sends more than is read",
                ])
            connection.teardown()
        }
    }
}

extension DataConnection {
    /// Notes how much is kept that has arrived and is not read now.
    func noteUnread() {
        let now = phase.isClosed ? 0 : tls.unreadInputBytes + held.count
        guard now != unreadNoted else { return }
        let grew = now > unreadNoted
        if unreadNode != nodeNumber {
            shard.unread.move(unreadNoted, from: unreadNode, to: nodeNumber)
            unreadNode = nodeNumber
        }
        shard.unread.add(now - unreadNoted, node: unreadNode)
        unreadNoted = now
        if grew, shard.unread.bytes > Limits.unreadBytesOfStrangers, rank != .opened {
            shard.endUnreadStrangers()
        }
    }

    /// How much a connection would be missed, the least first.
    enum Rank: Int {
        /// It has not said HELLO, for a while, or is on its way out.
        case late
        /// It has just come.
        case new
        /// It has opened nothing.
        case idle
        /// It has opened something.
        case opened
    }

    var rank: Rank {
        switch phase {
        case .handshake(let since), .greeting(let since):
            reactor.now &- since > Limits.newConnectionNanoseconds ? .late : .new
        case .closing, .lingering, .closed: .late
        case .resuming: .idle
        case .open, .finishing: channel?.sessionNumber == nil ? .idle : .opened
        }
    }

    /// The number of the node whose capability its session used first; nil before.
    var nodeNumber: UInt32? { channel?.nodeNumber }
}
