import Collections
import Core

/// Whose turn it is to use a reactor: deficit round robin over sessions, where the cost is known afterwards.
///
/// Who wants little goes first, for as long as that is less than what others get in their turns. No clock, no I/O.
struct TurnQueue<Element> {
    private struct Flow {
        var waiting = Deque<Element>()
        /// What it may still use before it is another's turn, in bytes.
        var deficit = 0
        /// The round of which its deficit is.
        var round: UInt64 = 0
        var isListed = false
    }

    private var flows: [Flow] = []
    private var fresh = Deque<Int>()
    private var old = Deque<Int>()
    private var count = 0
    /// Counts turns that were used up.
    private var round: UInt64 = 1

    /// Whether nobody waits.
    var isEmpty: Bool { count == 0 }

    /// Adds something of a session; several of one session keep their order.
    mutating func append(_ element: Element, flow: Int) {
        while flows.count <= flow { flows.append(Flow()) }
        flows[flow].waiting.append(element)
        count += 1
        guard !flows[flow].isListed else { return }
        flows[flow].isListed = true
        if flows[flow].round != round { replenish(flow) }
        if flows[flow].deficit > 0 { fresh.append(flow) } else { old.append(flow) }
    }

    private mutating func replenish(_ flow: Int) {
        flows[flow].deficit = min(flows[flow].deficit, 0) + Limits.fairQuantumBytes
        flows[flow].round = round
    }

    /// Takes out what is next, and says whether it is of a session that wants little; with `onlyFresh`, only of such a one.
    mutating func next(onlyFresh: Bool) -> (element: Element, flow: Int, isFresh: Bool)? {
        guard count > 0 else { return nil }
        while true {
            let isFresh = !fresh.isEmpty
            if !isFresh, onlyFresh { return nil }
            guard let flow = isFresh ? fresh.first : old.first else { return nil }
            guard !flows[flow].waiting.isEmpty else {
                // What it has not used it may use yet, ahead of others, until one of those has used up a turn.
                flows[flow].isListed = false
                drop(isFresh)
                continue
            }
            if flows[flow].deficit <= 0, flows[flow].round != round { replenish(flow) }
            if flows[flow].deficit > 0 {
                count -= 1
                return (flows[flow].waiting.removeFirst(), flow, isFresh)
            }
            round += 1
            drop(isFresh)
            old.append(flow)
        }
    }

    private mutating func drop(_ isFresh: Bool) {
        if isFresh { fresh.removeFirst() } else { old.removeFirst() }
    }

    /// Notes what the turn of a session cost, in bytes.
    mutating func charge(_ bytes: Int, flow: Int) {
        flows[flow].deficit -= bytes
    }
}
