import Core
import DriverKit

/// Decides whose request a driver gets next: deficit round robin over sessions, with a bounded share of the driver
/// for each.
///
/// A session that is alone gets all that the driver takes. As soon as others want something too, each has only its
/// share of a small window in the driver (`DelayWindow`), so that whoever comes meets a short queue there, however much
/// waits here.
/// A session that wanted nothing lately goes first, once (as in RFC 8290, "new flows"). No clock, no I/O.
struct FairQueue {
    /// How much may be in the driver.
    struct Window {
        /// Requests and payload bytes of one session that is alone.
        var aloneRequests = Limits.sessionRequestsAlone
        var aloneBytes = Limits.sessionBytesAlone
        /// The most requests and payload bytes of all sessions together, in equal shares, when there are several.
        var sharedRequests = Limits.sharedRequests
        var sharedBytes = Limits.sharedBytes
    }

    private struct Flow {
        var first = none
        var last = none
        /// What of it is in the driver.
        var requests = 0
        var bytes = 0
        /// Since when the driver has its only request, a small one, in nanoseconds; 0 when it has another of it, or
        /// none.
        var loneSince: UInt64 = 0
        /// What it holds of the arena, in bytes.
        var credit = 0
    }

    private struct Node {
        var request: DriverRequest
        /// What it holds of the arena, in bytes.
        var bytes: UInt32
        var next: Int32
    }

    private static let none: Int32 = -1

    private let window: Window
    /// How much of that they may have just now.
    private var shared = DelayWindow()
    /// Small requests in the driver that are their session's only ones.
    private var loneRequests = 0
    /// Whether one of these is there and likely to come back before a sleeping thread would be awake.
    var expectsLoneRequest: Bool { loneRequests > 0 && shared.leastDelay <= Limits.loneDelayMax }
    /// The latest moment that was heard of, in nanoseconds.
    private var now: UInt64 = 0
    private var flows: [Flow] = []
    private var nodes: [Node] = []
    private var freeNode = FairQueue.none
    private var turns = RoundRobin()
    /// Requests that wait.
    private(set) var count = 0
    /// Sessions that have something in the driver.
    private var flowsInDriver = 0
    private var meter = ActivityMeter()

    init(window: Window = Window()) {
        self.window = window
    }

    /// Whether nothing waits.
    var isEmpty: Bool { count == 0 }

    /// How many sessions want something of the driver: lately, or for as long as it has their requests.
    @inline(__always)
    private var active: Int { max(meter.active, flowsInDriver) }

    // MARK: Flows

    /// Makes room for `flow`; its number is used for one session at a time.
    mutating func prepare(_ flow: UInt32) {
        while flows.count <= Int(flow) { flows.append(Flow()) }
        turns.prepare(Int(flow))
        meter.prepare(flow)
    }

    /// Notes that a session wants something, now in nanoseconds.
    @inline(__always)
    mutating func touch(_ flow: UInt32, now: UInt64) {
        self.now = now
        meter.touch(flow, now: now)
    }

    // MARK: Credits

    /// Whether a session may take `bytes` of an arena of which `free` are left: alone all of it, else no more than
    /// it leaves to others. Of n sessions that take what they can, each so gets 1/(n+1).
    @inline(__always)
    func mayTake(_ bytes: Int, flow: UInt32, free: Int) -> Bool {
        let held = flows[Int(flow)].credit
        return held == 0 || active <= 1 || held + bytes <= free
    }

    /// Notes that a session has taken (or, negative, given back) bytes of the arena.
    @inline(__always)
    mutating func charge(_ bytes: Int, flow: UInt32) {
        flows[Int(flow)].credit += bytes
    }

    /// What a session holds of the arena, in bytes.
    @inline(__always)
    func held(_ flow: UInt32) -> Int { flows[Int(flow)].credit }

    // MARK: Requests

    /// Adds a request of a session, which holds `bytes` of the arena.
    mutating func append(_ request: DriverRequest, flow: UInt32, bytes: UInt32) {
        let node: Int32
        if freeNode == FairQueue.none {
            node = Int32(nodes.count)
            nodes.append(Node(request: request, bytes: bytes, next: FairQueue.none))
        } else {
            node = freeNode
            freeNode = nodes[Int(node)].next
            nodes[Int(node)] = Node(request: request, bytes: bytes, next: FairQueue.none)
        }
        let index = Int(flow)
        if flows[index].last == FairQueue.none {
            flows[index].first = node
        } else {
            nodes[Int(flows[index].last)].next = node
        }
        flows[index].last = node
        count += 1
        // A session whose share is used up gets into the round when something of it completes.
        if !turns.isListed(index), hasRoom(index) { turns.enter(index) }
    }

    /// The next request for the driver, now in nanoseconds; nil when nothing waits whose session has room in the
    /// driver.
    mutating func next(now: UInt64) -> DriverRequest? {
        guard count > 0 else { return nil }
        self.now = now
        while let (index, _) = turns.candidate() {
            if flows[index].first == FairQueue.none {
                turns.pass()
            } else if !hasRoom(index) {
                turns.leave()
            } else if turns.isDue() {
                return take(index)
            }
        }
        return nil
    }

    private mutating func take(_ index: Int) -> DriverRequest {
        let node = Int(flows[index].first)
        let (request, bytes) = (nodes[node].request, Int(nodes[node].bytes))
        flows[index].first = nodes[node].next
        if flows[index].first == FairQueue.none { flows[index].last = FairQueue.none }
        release(node)
        turns.charge(bytes + Limits.fairRequestCost, flow: index)
        if flows[index].loneSince > 0 { loneRequests -= 1 }
        let isLone = flows[index].requests == 0 && bytes <= Limits.loneBytesMax
        flows[index].loneSince = isLone ? now : 0
        if isLone { loneRequests += 1 }
        enter(index, bytes: bytes)
        return request
    }

    /// Notes that a request of a flow is in the driver.
    @inline(__always)
    private mutating func enter(_ index: Int, bytes: Int) {
        if flows[index].requests == 0 { flowsInDriver += 1 }
        flows[index].requests += 1
        flows[index].bytes += bytes
    }

    /// Notes that a request which `next` returned has left the driver, now in nanoseconds.
    @inline(__always)
    mutating func completed(flow: UInt32, bytes: UInt32, now: UInt64) {
        let index = Int(flow)
        self.now = now
        if flows[index].loneSince > 0 {
            shared.note(delay: now &- flows[index].loneSince, isShared: active > 1, now: now)
            flows[index].loneSince = 0
            loneRequests -= 1
        }
        flows[index].requests -= 1
        flows[index].bytes -= Int(bytes)
        if flows[index].requests == 0 { flowsInDriver -= 1 }
        if !turns.isListed(index), flows[index].first != FairQueue.none, hasRoom(index) {
            turns.enterAgain(index)
        }
    }

    /// Takes back requests that wait; they count as if `next` had returned them.
    mutating func withdraw(_ matches: (UInt64) -> Bool) -> [UInt64] {
        guard count > 0 else { return [] }
        var tags: [UInt64] = []
        for index in flows.indices {
            var node = flows[index].first
            var last = FairQueue.none
            while node != FairQueue.none {
                let (tag, next) = (nodes[Int(node)].request.tag, nodes[Int(node)].next)
                if matches(tag) {
                    tags.append(tag)
                    if last == FairQueue.none {
                        flows[index].first = next
                    } else {
                        nodes[Int(last)].next = next
                    }
                    if next == FairQueue.none { flows[index].last = last }
                    if flows[index].loneSince > 0 { loneRequests -= 1 }
                    flows[index].loneSince = 0
                    enter(index, bytes: Int(nodes[Int(node)].bytes))
                    release(Int(node))
                } else {
                    last = node
                }
                node = next
            }
        }
        return tags
    }

    // MARK: Helpers

    /// Whether the first request of a flow finds room in its share of the driver; one request always does.
    @inline(__always)
    private func hasRoom(_ index: Int) -> Bool {
        let requests = flows[index].requests
        if requests == 0 { return true }
        let active = active
        let isAlone = active <= 1
        let requestsMax =
            isAlone ? window.aloneRequests : max(shared.part(of: window.sharedRequests, now: now) / active, 1)
        guard requests < requestsMax else { return false }
        let first = flows[index].first
        let bytes = first == FairQueue.none ? 0 : Int(nodes[Int(first)].bytes)
        let bytesMax = isAlone ? window.aloneBytes : shared.part(of: window.sharedBytes, now: now) / active
        return flows[index].bytes + bytes <= bytesMax
    }

    private mutating func release(_ node: Int) {
        nodes[node].next = freeNode
        freeNode = Int32(node)
        count -= 1
    }
}
