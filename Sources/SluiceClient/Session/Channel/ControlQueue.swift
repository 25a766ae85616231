import Core
import DequeModule
import Wire

/// The control requests of one channel: one on its way, the others in line.
struct ControlQueue {
    typealias Completion = (Result<ChannelNotice, ChannelError>) -> Void

    struct Entry {
        let opcode: Opcode
        let handle: UInt32
        let body: [UInt8]
        let completion: Completion
    }

    private var entries = Deque<Entry>()
    private var isFirstSent = false

    /// The next to be sent; nil when there is none or one is on its way.
    var waiting: Entry? { isFirstSent ? nil : entries.first }

    var isEmpty: Bool { entries.isEmpty }

    mutating func append(_ entry: Entry) {
        entries.append(entry)
    }

    /// Notes that `waiting` was sent.
    mutating func begin() {
        isFirstSent = true
    }

    /// The one on its way has ended; returns it.
    mutating func end() -> Entry? {
        guard isFirstSent else { return nil }
        isFirstSent = false
        return entries.popFirst()
    }

    /// Empties the queue and returns what was in it.
    mutating func removeAll() -> [Entry] {
        let all = Array(entries)
        entries.removeAll()
        isFirstSent = false
        return all
    }

    /// What OPEN, STAT and RENEW are answered with.
    static func state(
        _ notice: ChannelNotice
    ) -> Result<(handle: UInt32, state: ResourceState), ChannelError> {
        if case .state(let handle, let state) = notice { return .success((handle, state)) }
        return .failure(.violation("the server answered a request with another's reply"))
    }
}
