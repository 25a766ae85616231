import Core
import DequeModule
import Services

/// Whose turn it is to use a reactor: deficit round robin over sessions, where the cost is known afterwards.
///
/// Who wanted nothing lately goes first, once. No clock, no I/O.
struct TurnQueue<Element> {
    private var turns = RoundRobin()
    private var waiting: [Deque<Element>] = []
    private var count = 0

    /// Whether nobody waits.
    var isEmpty: Bool { count == 0 }

    /// Adds something of a session; several of one session keep their order.
    mutating func append(_ element: Element, flow: Int) {
        if waiting.count <= flow {
            while waiting.count <= flow { waiting.append(Deque()) }
            turns.prepare(flow)
        }
        waiting[flow].append(element)
        count += 1
        if !turns.isListed(flow) { turns.enter(flow) }
    }

    /// Takes out what is next, and says whether it is of a session that wanted nothing lately; with `onlyFresh`, only of
    /// such a one.
    mutating func next(onlyFresh: Bool) -> (element: Element, flow: Int, isFresh: Bool)? {
        guard count > 0 else { return nil }
        while let (flow, isFresh) = turns.candidate(onlyFresh: onlyFresh) {
            if waiting[flow].isEmpty {
                turns.pass()
            } else if turns.isDue() {
                count -= 1
                return (waiting[flow].removeFirst(), flow, isFresh)
            }
        }
        return nil
    }

    /// Notes what the turn of a session cost, in bytes.
    mutating func charge(_ bytes: Int, flow: Int) { turns.charge(bytes, flow: flow) }
}
