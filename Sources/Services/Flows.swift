import Core

/// The sessions of one shard that have opened something, by small numbers: what drivers' queues know them by.
struct Flows {
    /// "No session".
    static let none = UInt32.max

    private struct Entry {
        let flow: UInt32
        var channels: Int
    }

    private var entries: [Identifier: Entry] = [:]
    private var free: [UInt32] = []
    /// Numbers that were ever used are below this.
    private(set) var used: UInt32 = 0

    /// Counts a channel of `session`, and returns the session's number.
    mutating func join(_ session: Identifier) -> UInt32 {
        if let known = entries[session] {
            entries[session]?.channels += 1
            return known.flow
        }
        let flow = free.popLast() ?? used
        if flow == used { used += 1 }
        entries[session] = Entry(flow: flow, channels: 1)
        return flow
    }

    /// Takes a channel back, of which nothing is in flight; with the last one, the number is free.
    mutating func leave(_ session: Identifier) {
        guard let known = entries[session] else { return }
        if known.channels > 1 {
            entries[session]?.channels -= 1
        } else {
            entries[session] = nil
            free.append(known.flow)
        }
    }
}

extension ServiceShard {
    /// Whether several sessions want something of this reactor.
    @inline(__always)
    public var isShared: Bool { activity.active > 1 }

    /// Whether some of them have but a few requests under way, so that they feel how long a wake-up of others takes.
    @inline(__always)
    public var isMixed: Bool { activity.isMixed }

    /// Whether a driver is about to answer a small request that is its session's only one: somebody waits for just that.
    public var expectsLoneRequest: Bool { ports.all.contains { $0?.expectsLoneRequest == true } }

    /// Gives a channel that opens something the number of its session.
    func joinFlow(_ channel: ServiceChannel) {
        guard channel.flow == Flows.none, let session = channel.session else { return }
        channel.flow = flows.join(session)
        activity.prepare(channel.flow)
        for port in ports.all { port?.prepare(flow: channel.flow) }
    }

    /// Takes the number of a channel back that has ended.
    func leaveFlow(_ channel: ServiceChannel) {
        guard channel.flow != Flows.none, let session = channel.session else { return }
        channel.flow = Flows.none
        flows.leave(session)
    }
}
