import DequeModule

/// Who asks, as far as turns go: what a client cannot have more of by opening more connections.
enum ControlCaller: Hashable, Sendable {
    case admin(String)
    case observer(String)
    case node(String)
    /// Without a certificate that counts: those of one address are one.
    case anonymous(String)

    init(_ request: ControlRequest) {
        self.init(request.peer, address: request.remoteAddress?.host)
    }

    init(_ peer: PeerIdentity, address: String?) {
        switch peer.role {
        case .admin: self = .admin(peer.commonName)
        case .observer: self = .observer(peer.commonName)
        case .node: self = .node(peer.nodeID?.hex ?? peer.commonName)
        case nil: self = .anonymous(address ?? "")
        }
    }

    var isAdmin: Bool { if case .admin = self { true } else { false } }
}

/// Whose request is handled next: callers take turns, so that one with many requests delays itself only, and
/// administrators come before all others. What is urgent does not wait at all.
///
/// A value, without a clock; one for a server.
struct RequestTurns<Item> {
    /// How much may be taken in and handled at once.
    struct Limits {
        /// Requests of all callers but administrators, those that wait included.
        var all = 1024
        /// Requests of one caller, likewise.
        var perCaller = 256
        /// Requests that are handled at once, of all callers but administrators.
        var running = 32
        /// Of one of them.
        var runningPerCaller = 4
        /// Of one administrator.
        var runningPerAdmin = 32
        /// Urgent ones, of all administrators; what is beyond waits for its turn.
        var runningUrgent = 128
    }

    /// What a request that is handled counts as, to be given back with `ended`.
    struct Turn: Hashable {
        let caller: ControlCaller
        let isUrgent: Bool
    }

    private struct Queue {
        var items = Deque<Item>()
        var running = 0
        var isListed = false

        var count: Int { items.count + running }
    }

    private let limits: Limits
    private var queues: [ControlCaller: Queue] = [:]
    private var urgent = Deque<(Item, ControlCaller)>()
    private var runningUrgent = 0
    /// Callers of which a request may be handled, in the order of their turns.
    private var admins = Deque<ControlCaller>()
    private var others = Deque<ControlCaller>()
    /// Requests of all but administrators, and how many of them are handled.
    private var taken = 0
    private var running = 0

    init(_ limits: Limits = Limits()) {
        self.limits = limits
    }

    /// Takes a request in; false when its caller has too many. A caller may have as many as it leaves to others.
    mutating func add(_ item: Item, of caller: ControlCaller, isUrgent: Bool = false) -> Bool {
        if isUrgent, caller.isAdmin, runningUrgent + urgent.count < limits.runningUrgent {
            urgent.append((item, caller))
            return true
        }
        let count = queues[caller]?.count ?? 0
        if caller.isAdmin {
            guard count < min(limits.perCaller, limits.all) else { return false }
        } else {
            guard count < limits.perCaller, count < limits.all - taken else { return false }
            taken += 1
        }
        queues[caller, default: Queue()].items.append(item)
        list(caller)
        return true
    }

    /// The request that is handled next; nil when none waits that may be.
    mutating func next() -> (item: Item, turn: Turn)? {
        if let (item, caller) = urgent.popFirst() {
            runningUrgent += 1
            return (item, Turn(caller: caller, isUrgent: true))
        }
        let caller: ControlCaller
        if let admin = admins.popFirst() {
            caller = admin
        } else if running < limits.running, let other = others.popFirst() {
            caller = other
            running += 1
        } else {
            return nil
        }
        queues[caller]?.isListed = false
        guard let item = queues[caller]?.items.popFirst() else {
            preconditionFailure("a caller that is listed has a request")
        }
        queues[caller]?.running += 1
        list(caller)
        return (item, Turn(caller: caller, isUrgent: false))
    }

    /// Gives a turn back: its request is answered, or not wanted any more.
    mutating func ended(_ turn: Turn) {
        if turn.isUrgent {
            runningUrgent -= 1
            return
        }
        let caller = turn.caller
        queues[caller]?.running -= 1
        if !caller.isAdmin {
            running -= 1
            taken -= 1
        }
        if queues[caller]?.count == 0 { queues[caller] = nil } else { list(caller) }
    }

    /// Gives a caller its next turn, behind all others, if it has a request that may be handled.
    private mutating func list(_ caller: ControlCaller) {
        guard let queue = queues[caller], !queue.isListed, !queue.items.isEmpty else { return }
        let most = caller.isAdmin ? limits.runningPerAdmin : limits.runningPerCaller
        guard queue.running < most else { return }
        queues[caller]?.isListed = true
        if caller.isAdmin { admins.append(caller) } else { others.append(caller) }
    }
}
