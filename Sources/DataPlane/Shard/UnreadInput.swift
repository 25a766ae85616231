import Core

/// What has arrived for channels of one reactor without the reactor reading it now, by node.
///
/// A node may have as much of it as it leaves to others: of n nodes that send all they can each has 1/(n+1), so
/// that none slows down another, whatever keys and sessions it has. Confined to the reactor's thread.
struct UnreadInput {
    /// All of it.
    private(set) var bytes = 0
    private var ofNodes: [Int] = []

    /// Notes that a connection has more of it than at the last time (or, negative, less).
    ///
    /// - Parameter node: its node's number; nil before it has opened something.
    mutating func add(_ more: Int, node: UInt32?) {
        bytes += more
        guard let node else { return }
        while ofNodes.count <= Int(node) { ofNodes.append(0) }
        ofNodes[Int(node)] += more
    }

    /// Notes that what a connection has is another node's now.
    mutating func move(_ bytes: Int, from old: UInt32?, to new: UInt32?) {
        add(-bytes, node: old)
        add(bytes, node: new)
    }

    /// Whether a node has more than it leaves, so that its connections may not send more at once.
    func isMuch(_ node: UInt32?) -> Bool {
        let free = Limits.unreadBytesMetered - bytes
        guard let node else { return free < 0 }
        return Int(node) < ofNodes.count && ofNodes[Int(node)] > max(free, 0)
    }
}
