import Core

/// Whose turn it is: deficit round robin over flows, by small numbers.
///
/// Those that wanted nothing lately go first, once (as in RFC 8290, "new flows"). Whoever asks for the next turn says of
/// the flow whose turn it would be whether it wants something, and what that cost. No clock, no I/O.
public struct RoundRobin {
    @usableFromInline
    struct Flow {
        @usableFromInline var next = RoundRobin.none
        @usableFromInline var isListed = false
        /// What it may still take before it is another's turn, in bytes; below 0 after something that was larger.
        @usableFromInline var deficit = 0

        @usableFromInline init() {}
    }

    @usableFromInline
    struct List {
        @usableFromInline var first = RoundRobin.none
        @usableFromInline var last = RoundRobin.none

        @usableFromInline init() {}
    }

    @usableFromInline static let none: Int32 = -1

    @usableFromInline var flows: [Flow] = []
    /// Flows that wanted nothing lately, and the others, each in order of its turn.
    @usableFromInline var fresh = List()
    @usableFromInline var old = List()

    /// Nobody.
    public init() {}

    /// Makes room for a flow; its number is used for one at a time.
    public mutating func prepare(_ flow: Int) {
        while flows.count <= flow { flows.append(Flow()) }
    }

    /// Whether a flow waits for its turn.
    @inlinable
    public func isListed(_ flow: Int) -> Bool { flows[flow].isListed }

    /// Lists a flow that is not, and that wants something: among those that wanted nothing lately.
    @inlinable
    public mutating func enter(_ flow: Int) {
        flows[flow].deficit = min(flows[flow].deficit, 0) + Limits.fairQuantumBytes
        link(flow, isFresh: true)
    }

    /// Lists a flow that is not, and that goes on where it was.
    @inlinable
    public mutating func enterAgain(_ flow: Int) { link(flow, isFresh: false) }

    /// The flow whose turn it would be; with `onlyFresh`, only one that wanted nothing lately. One of the three that follow
    /// says what becomes of it.
    @inlinable
    public func candidate(onlyFresh: Bool = false) -> (flow: Int, isFresh: Bool)? {
        let isFresh = fresh.first != RoundRobin.none
        if !isFresh, onlyFresh { return nil }
        let first = isFresh ? fresh.first : old.first
        return first == RoundRobin.none ? nil : (Int(first), isFresh)
    }

    /// The candidate wants nothing. It is not fresh again before everybody else had a turn.
    @inlinable
    public mutating func pass() {
        let isFresh = fresh.first != RoundRobin.none
        let flow = unlinkFirst()
        if isFresh { link(flow, isFresh: false) }
    }

    /// The candidate may have nothing now, and is entered again when it may.
    @inlinable
    public mutating func leave() { _ = unlinkFirst() }

    /// Whether it is the candidate's turn; if it has had its turn, it is another's, and this one's later.
    @inlinable
    public mutating func isDue() -> Bool {
        let flow = Int(fresh.first != RoundRobin.none ? fresh.first : old.first)
        if flows[flow].deficit > 0 { return true }
        flows[flow].deficit += Limits.fairQuantumBytes
        _ = unlinkFirst()
        link(flow, isFresh: false)
        return false
    }

    /// Notes what a flow has taken in its turn, in bytes.
    @inlinable
    public mutating func charge(_ bytes: Int, flow: Int) { flows[flow].deficit -= bytes }

    @inlinable
    mutating func link(_ flow: Int, isFresh: Bool) {
        flows[flow].isListed = true
        flows[flow].next = RoundRobin.none
        let last = isFresh ? fresh.last : old.last
        if last != RoundRobin.none {
            flows[Int(last)].next = Int32(flow)
        } else if isFresh {
            fresh.first = Int32(flow)
        } else {
            old.first = Int32(flow)
        }
        if isFresh { fresh.last = Int32(flow) } else { old.last = Int32(flow) }
    }

    @inlinable
    mutating func unlinkFirst() -> Int {
        let isFresh = fresh.first != RoundRobin.none
        let flow = Int(isFresh ? fresh.first : old.first)
        let next = flows[flow].next
        if isFresh { fresh.first = next } else { old.first = next }
        if next == RoundRobin.none {
            if isFresh { fresh.last = next } else { old.last = next }
        }
        flows[flow].isListed = false
        flows[flow].next = RoundRobin.none
        return flow
    }
}
