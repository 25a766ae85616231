import Core
import Services

/// Room for those who come, when the server has its most connections.
extension DataShard {
    /// Ends some connections, those that are missed least first: what has not said HELLO, then what has opened nothing, then
    /// those of the node that has the most, which can go on with them.
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

extension DataConnection {
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
        case .handshake, .greeting:
            reactor.now &- begunAt > Limits.newConnectionNanoseconds ? .late : .new
        case .closing, .lingering, .closed: .late
        case .resuming: .idle
        case .open: channel?.sessionNumber == nil ? .idle : .opened
        }
    }

    /// The number of the node whose capability its session used first; nil before.
    var nodeNumber: UInt32? { channel?.nodeNumber }
}
