import Core
import DequeModule

/// What each node holds of one arena, and how much more it may take.
///
/// Sessions and keys cost a node nothing, so that nothing is bounded by counting these. A node may hold as much as it
/// leaves free: of n nodes that take all they can each has 1/(n+1), also when what they took never comes back, because
/// their clients do not read, or do not go on writing. So there is room for one that comes, at any time.
struct NodeShares {
    private let arenaBytes: Int
    private var held: [Int] = []

    init(arenaBytes: Int) {
        self.arenaBytes = arenaBytes
    }

    /// Makes room for `share`, a node's number.
    mutating func prepare(_ share: UInt32) {
        while held.count <= Int(share) { held.append(0) }
    }

    /// Whether a node may take `bytes` of an arena of which `free` are left.
    @inline(__always)
    func mayTake(_ bytes: Int, share: UInt32, free: Int) -> Bool {
        let has = held[Int(share)]
        // The first is for whoever comes, as long as something small still finds room beside it.
        guard has > 0 else {
            return free == arenaBytes || bytes <= max(free / 2, free - arenaBytes / Limits.arenaReservePart)
        }
        return has + bytes <= free
    }

    /// Notes that a node has taken (or, negative, given back) bytes.
    @inline(__always)
    mutating func charge(_ bytes: Int, share: UInt32) {
        held[Int(share)] += bytes
    }

    /// What a node holds, in bytes.
    func bytes(_ share: UInt32) -> Int { Int(share) < held.count ? held[Int(share)] : 0 }
}

/// The channels that wait for room in one arena: nodes in turn, and of each node in the order in which they began.
///
/// Whoever has given something back asks for those that can go on. A node whose share is used up costs one look, however
/// many channels of it wait.
struct RoomWaiters {
    private struct Node {
        var channels = Deque<ServiceChannel>()
        /// What none of them wants less than, in bytes.
        var leastBytes = Int.max
    }

    private var nodes: [Node] = []
    /// The nodes that have channels here, in order of their turn.
    private var turns = Deque<UInt32>()
    private(set) var count = 0

    var isEmpty: Bool { count == 0 }

    /// The nodes that have channels here.
    var shares: Deque<UInt32> { turns }

    /// Adds a channel that wants `bytes`.
    mutating func append(_ channel: ServiceChannel, bytes: Int) {
        let index = Int(channel.share)
        while nodes.count <= index { nodes.append(Node()) }
        if nodes[index].channels.isEmpty { turns.append(channel.share) }
        nodes[index].channels.append(channel)
        nodes[index].leastBytes = min(nodes[index].leastBytes, bytes)
        count += 1
    }

    /// Takes a channel out; false when it is not here.
    mutating func remove(_ channel: ServiceChannel) -> Bool {
        let index = Int(channel.share)
        guard index < nodes.count,
            let place = nodes[index].channels.firstIndex(where: { $0 === channel })
        else { return false }
        nodes[index].channels.remove(at: place)
        count -= 1
        if nodes[index].channels.isEmpty {
            nodes[index].leastBytes = .max
            turns.removeAll { $0 == channel.share }
        }
        return true
    }

    /// Takes out those that find room, each node in its turn, and appends them to `ready`.
    ///
    /// - Parameters:
    ///   - nodeMayTake: whether a node may have bytes, with so many promised to others by this call.
    ///   - mayTake: whether a channel of it may.
    mutating func take(
        into ready: inout [ServiceChannel],
        nodeMayTake: (_ share: UInt32, _ bytes: Int, _ promised: Int) -> Bool,
        mayTake: (_ channel: ServiceChannel, _ bytes: Int, _ promised: Int) -> Bool
    ) {
        var promised = 0
        for _ in 0..<turns.count {
            guard let share = turns.popFirst() else { break }
            let index = Int(share)
            if nodeMayTake(share, nodes[index].leastBytes, promised) {
                look(index, into: &ready, &promised, mayTake)
            }
            if nodes[index].channels.isEmpty {
                nodes[index].leastBytes = .max
            } else {
                turns.append(share)
            }
        }
    }

    private mutating func look(
        _ index: Int, into ready: inout [ServiceChannel], _ promised: inout Int,
        _ mayTake: (_ channel: ServiceChannel, _ bytes: Int, _ promised: Int) -> Bool
    ) {
        var least = Int.max
        let all = nodes[index].channels.count
        for _ in 0..<min(all, Limits.roomLooksMax) {
            guard let channel = nodes[index].channels.popFirst() else { break }
            let bytes = channel.wantedBytes
            if mayTake(channel, bytes, promised) {
                promised += bytes
                count -= 1
                ready.append(channel)
            } else {
                // Who is passed over keeps its place among those that were.
                nodes[index].channels.append(channel)
                least = min(least, bytes)
            }
        }
        if all <= Limits.roomLooksMax { nodes[index].leastBytes = least }
    }
}
