import Collections
import Core

/// Whose turn it is to use a reactor: deficit round robin over sessions, where the cost is known afterwards.
///
/// Who wanted nothing lately goes first, once. No clock, no I/O.
struct TurnQueue<Element> {
    private struct Flow {
        var waiting = Deque<Element>()
        /// What it may still use before it is another's turn, in bytes.
        var deficit = 0
        var isListed = false
    }

    private var flows: [Flow] = []
    private var fresh = Deque<Int>()
    private var old = Deque<Int>()
    private var count = 0

    /// Whether nobody waits.
    var isEmpty: Bool { count == 0 }

    /// Adds something of a session; several of one session keep their order.
    mutating func append(_ element: Element, flow: Int) {
        while flows.count <= flow { flows.append(Flow()) }
        flows[flow].waiting.append(element)
        count += 1
        guard !flows[flow].isListed else { return }
        flows[flow].isListed = true
        flows[flow].deficit = min(flows[flow].deficit, 0) + Limits.fairQuantumBytes
        fresh.append(flow)
    }

    /// Takes out what is next, and says whether it is of a session that wanted nothing lately; with `onlyFresh`, only of
    /// such a one.
    mutating func next(onlyFresh: Bool) -> (element: Element, flow: Int, isFresh: Bool)? {
        guard count > 0 else { return nil }
        while true {
            let isFresh = !fresh.isEmpty
            if !isFresh, onlyFresh { return nil }
            guard let flow = isFresh ? fresh.first : old.first else { return nil }
            guard flows[flow].waiting.isEmpty || flows[flow].deficit <= 0 else {
                count -= 1
                return (flows[flow].waiting.removeFirst(), flow, isFresh)
            }
            if isFresh { fresh.removeFirst() } else { old.removeFirst() }
            if !flows[flow].waiting.isEmpty {
                flows[flow].deficit += Limits.fairQuantumBytes
            } else if !isFresh {
                flows[flow].isListed = false
                continue
            }
            // One that wants nothing more is not fresh again before everybody else had a turn.
            old.append(flow)
        }
    }

    /// Notes what the turn of a session cost, in bytes.
    mutating func charge(_ bytes: Int, flow: Int) {
        flows[flow].deficit -= bytes
    }
}
