import Core
import DequeModule

@testable import Services

/// The catalog's records of sessions: what was saved becomes durable in order, when the simulation says so.
final class SimulatedStore {
    private enum Entry {
        case save(Identifier, SavedSession?)
        case saveWriter(Identifier, VolumeWriter?)
        case call(@Sendable (Bool) -> Void)
    }

    private var queue = Deque<Entry>()
    private(set) var sessions: [Identifier: SavedSession] = [:]
    private(set) var writers: [Identifier: VolumeWriter] = [:]

    /// Saves and calls that wait.
    var waiting: Int { queue.count }

    func save(_ id: Identifier, _ session: SavedSession?) { queue.append(.save(id, session)) }

    func save(volume: Identifier, _ writer: VolumeWriter?) { queue.append(.saveWriter(volume, writer)) }

    func afterSaving(_ body: @escaping @Sendable (Bool) -> Void) { queue.append(.call(body)) }

    /// Writes some of what waits; false when nothing does.
    func sync(_ count: Int) -> Bool {
        guard !queue.isEmpty else { return false }
        for _ in 0..<count + 1 {
            switch queue.popFirst() {
            case .save(let id, let session): sessions[id] = session
            case .saveWriter(let id, let writer): writers[id] = writer
            case .call(let body): body(true)
            case nil: break
            }
        }
        return true
    }

    /// The server's process is gone: of what waits, so much had become durable.
    func lose(_ count: Int) {
        if count > 0 { _ = sync(count - 1) }
        let lost = queue
        queue.removeAll()
        for case .call(let body) in lost { body(false) }
    }

    /// Nobody is told of what was saved.
    func dropCalls() {
        queue.removeAll { entry in
            if case .call = entry { true } else { false }
        }
    }

    /// The records are of a machine that was restarted since.
    func forgetSessions() { sessions.removeAll() }
}

// SAFETY: it is used on the simulation's only thread.
/// The store as one life of the server knows it.
final class StoreOfLife: SessionStore, @unchecked Sendable {
    private let store: SimulatedStore
    private let driver: SimulatedDriver
    private let work: SteppedWork

    private let bug: PlantedBug?

    init(_ store: SimulatedStore, _ driver: SimulatedDriver, _ work: SteppedWork, _ bug: PlantedBug?) {
        self.bug = bug
        self.store = store
        self.driver = driver
        self.work = work
    }

    func save(_ id: Identifier, _ session: SavedSession?) {
        if !driver.isDead, bug != .storeForgets { store.save(id, session) }
    }

    func save(volume: Identifier, _ writer: VolumeWriter?) {
        if !driver.isDead { store.save(volume: volume, writer) }
    }

    func afterSaving(_ body: @escaping @Sendable (Bool) -> Void) {
        let isDead = driver.isDead
        if isDead || bug == .openDoesNotWaitForStore {
            work.add { body(!isDead) }
        } else {
            store.afterSaving(body)
        }
    }
}
