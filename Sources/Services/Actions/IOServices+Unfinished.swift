import Core
import DriverKit
import Wire

/// What keeps the server from ending, for whoever has waited too long for that.
extension IOServices {
    /// Has every reactor and pool say what it still has, in one line each, and waits for none of them; `told` is
    /// called for each that answers, on any thread.
    public func askWhatIsUnfinished(_ told: @escaping @Sendable ([String]) -> Void) {
        let (links, pools) = state.withLock { ($0.shards, $0.poolsEnding) }
        for (number, link) in links.enumerated() {
            let name = "reactor \(number)"
            let asked = link.remote.post { told(link.shard.value.unfinished(name)) }
            told([asked ? "\(name) was asked (it does not turn if it says nothing)" : "\(name) has ended"])
        }
        if !pools.isEmpty {
            told(["pools whose driver has not ended: \(pools.sorted().joined(separator: ", "))"])
        }
    }
}

extension ServiceShard {
    /// The channels that have not ended, and what each waits for.
    func unfinished(_ name: String) -> [String] {
        var lines: [String] = []
        for case let channel? in channels.all where lines.count < Limits.unfinishedLinesMax {
            let waits = (0..<UInt16(channel.slots.count)).compactMap { slot -> String? in
                let request = channel.slots[slot]
                guard request.state != .idle else { return nil }
                let opcode = Opcode(rawValue: request.opcode)?.name ?? "\(request.opcode)"
                return "\(opcode) \(request.state.account)"
            }
            let counts = Dictionary(grouping: waits) { $0 }.map { "\($1.count) \($0)" }.sorted()
            let what = counts.isEmpty ? "its client to go" : counts.joined(separator: ", ")
            lines.append(
                "\(name): session \(channel.session?.hex ?? "none") of \(channel.peerAddress) waits for \(what)"
            )
        }
        return lines.isEmpty ? ["\(name): no channels"] : lines
    }
}

extension SlotState {
    /// What a request waits for, to be read after its name.
    fileprivate var account: String {
        switch self {
        case .idle: "(over)"
        case .receiving: "(its payload)"
        case .delayed: "(a rate limit)"
        case .held: "(a COMPARE_AND_WRITE)"
        case .running: "(the driver)"
        case .deciding: "(the catalog, the pool's thread, or earlier requests)"
        case .replied, .sending: "(the client to read)"
        }
    }
}
