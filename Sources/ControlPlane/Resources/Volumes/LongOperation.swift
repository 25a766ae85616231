import Catalog
import Core

/// A piece of work on a volume that takes long, as `/v1/operations` shows it.
struct LongOperation: Sendable, Hashable {
    /// What is being done.
    enum Kind: String, Sendable, CaseIterable {
        /// The device of a new volume is prepared; who cancels it removes the volume.
        case prepareVolume = "volume.prepare"
        /// The device is prepared for a larger volume, which goes on as it is; who cancels it leaves it so.
        case growVolume = "volume.grow"
    }

    /// How it is.
    enum State: Sendable, Hashable {
        /// It goes on.
        case running
        /// It is tried again each second, and this is why it does not go on.
        case waiting(String)
        /// It did what it was for.
        case done
        /// It cannot be done, and why.
        case failed(String)
        /// Somebody wanted it no more.
        case cancelled

        /// The words of the API.
        static let names = ["running", "waiting", "done", "failed", "cancelled"]

        /// The word of the API.
        var name: String {
            switch self {
            case .running: "running"
            case .waiting: "waiting"
            case .done: "done"
            case .failed: "failed"
            case .cancelled: "cancelled"
            }
        }

        /// Why it is so.
        var reason: String? {
            switch self {
            case .running, .done, .cancelled: nil
            case .waiting(let reason), .failed(let reason): reason
            }
        }
    }

    /// Stays the same over restarts.
    let id: Identifier
    /// What is being done.
    let kind: Kind
    /// The volume's id.
    let volume: Identifier
    /// The volume's name.
    let name: String
    /// The volume's pool.
    let pool: String
    /// The bytes that the volume has when it is done.
    let size: UInt64
    /// The bytes that it is about.
    let total: UInt64
    /// Unix seconds.
    let since: UInt64
    /// Bytes that are left of `total`.
    var left: UInt64
    /// How it is.
    var state = State.running
    /// Unix seconds; nil while it is under way.
    var endedAt: UInt64?

    /// The making of a volume; there is one for each volume, so it has its id.
    init(making volume: VolumeRecord) {
        id = volume.id
        kind = .prepareVolume
        self.volume = volume.id
        name = volume.name
        pool = volume.pool
        size = volume.size
        total = volume.size
        left = total
        since = volume.createdAt
    }

    /// The growth that an intent is for; nil for other intents.
    init?(_ intent: IntentRecord) {
        guard intent.action == .resizeVolume, let size = intent.newSize, size >= intent.volume.size else {
            return nil
        }
        // Intents of earlier versions have neither an id nor a time.
        id = intent.operation ?? intent.volume.id
        kind = .growVolume
        volume = intent.volume.id
        name = intent.volume.name
        pool = intent.volume.pool
        self.size = size
        total = size - intent.volume.size
        left = total
        since = intent.since ?? intent.volume.updatedAt
    }
}

/// The long work that is under way, and what has ended lately. A value, without a clock of its own.
struct Operations: Sendable {
    /// By volume: there is one for each at a time.
    private var underWay: [Identifier: LongOperation] = [:]
    /// In the order in which they ended.
    private var ended: [LongOperation] = []

    /// All of them, in no order.
    func all(at now: UInt64) -> [LongOperation] {
        Array(underWay.values) + ended.filter { Operations.isKept($0, at: now) }
    }

    /// What is under way on a volume.
    func underWay(on volume: Identifier) -> LongOperation? { underWay[volume] }

    /// Whether it has not ended.
    func isUnderWay(_ operation: LongOperation) -> Bool { underWay[operation.volume]?.id == operation.id }

    /// How many are under way, by kind and state.
    var counts: [LongOperation.Kind: [String: Int]] {
        underWay.values.reduce(into: [:]) { $0[$1.kind, default: [:]][$1.state.name, default: 0] += 1 }
    }

    /// Takes one up, also once more after it failed; false when one is under way on its volume.
    mutating func begin(_ operation: LongOperation) -> Bool {
        guard underWay[operation.volume] == nil else { return false }
        ended.removeAll { $0.id == operation.id }
        underWay[operation.volume] = operation
        return true
    }

    /// Notes that it goes on, and how much is left.
    mutating func advance(_ operation: LongOperation, left: UInt64) {
        guard isUnderWay(operation) else { return }
        underWay[operation.volume]?.left = min(left, operation.total)
        underWay[operation.volume]?.state = .running
    }

    /// Notes why it does not go on; true where that is news.
    mutating func hold(_ operation: LongOperation, _ reason: String) -> Bool {
        guard isUnderWay(operation), underWay[operation.volume]?.state != .waiting(reason) else {
            return false
        }
        underWay[operation.volume]?.state = .waiting(reason)
        return true
    }

    /// Notes how it ended; one that has ended already stays as it is.
    mutating func end(_ operation: LongOperation, _ state: LongOperation.State, at now: UInt64) {
        guard isUnderWay(operation), var last = underWay.removeValue(forKey: operation.volume) else { return }
        last.state = state
        last.endedAt = now
        if state == .done { last.left = 0 }
        ended.removeAll { !Operations.isKept($0, at: now) }
        ended.append(last)
        ended.removeFirst(max(0, ended.count - Limits.endedOperationsMax))
    }

    private static func isKept(_ operation: LongOperation, at now: UInt64) -> Bool {
        (operation.endedAt ?? now) + Limits.endedOperationSeconds >= now
    }
}
