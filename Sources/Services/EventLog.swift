import Collections
import Core
import DriverKit
import Synchronization

/// The server's latest events, in memory, and those who wait for the next ones.
///
/// A reader holds nothing but a place in the log, so a slow one costs no memory: it finds a gap instead of what was
/// pushed out meanwhile. Any thread; nothing blocks for longer than copying a few events.
public final class EventLog: Sendable {
    /// What a reader finds after its place.
    public struct Batch: Sendable, Hashable {
        /// The events, in order of their ids.
        public let events: [ServerEvent]
        /// The id of the last event that the reader has missed, because the log is bounded or began later.
        public let missedUpTo: UInt64?
    }

    private struct State {
        /// Of each class (by `isCausedByClients`) the latest events, in order.
        var kept: [Bool: Deque<ServerEvent>] = [:]
        var lastID: UInt64
        /// The newest event that the log no longer has.
        var droppedUpTo: UInt64
        var waiters: [UInt64: CheckedContinuation<Void, Never>] = [:]
        var nextWaiter: UInt64 = 0
        var subscribers = 0
        var isFinished = false
    }

    private let wallClock: any WallClock
    private let capacity: Int
    private let state: Mutex<State>

    /// An empty log.
    ///
    /// - Parameter start: the ids are greater than this, which is to be no less than any id of the log before: the
    ///   Unix time in microseconds, which grows faster than events come and stays exact in JSON. nil takes the
    ///   clock's whole seconds, too coarse for a server that restarts at once.
    /// - Parameter capacity: the most events that are kept of those that the server causes, and as many again of
    ///   those that clients cause.
    public init(
        wallClock: any WallClock, start: UInt64? = nil, capacity: Int = Limits.eventsKeptMax
    ) {
        self.wallClock = wallClock
        self.capacity = capacity
        let start = start ?? wallClock.now() &* 1_000_000
        state = Mutex(State(lastID: start, droppedUpTo: start))
    }

    /// Adds an event and wakes the readers.
    public func append(_ kind: ServerEvent.Kind, subject: String, message: String) {
        let now = wallClock.now()
        let text = EventLog.bounded(message)
        let waiters = state.withLock { state in
            state.lastID += 1
            let event = ServerEvent(
                id: state.lastID, at: now, kind: kind, subject: subject, message: text)
            var events = state.kept.removeValue(forKey: kind.isCausedByClients) ?? []
            events.append(event)
            if events.count > capacity, let oldest = events.popFirst() {
                state.droppedUpTo = max(state.droppedUpTo, oldest.id)
            }
            state.kept[kind.isCausedByClients] = events
            return EventLog.takeWaiters(&state)
        }
        for waiter in waiters { waiter.resume() }
    }

    /// Adds what a pool's driver host came to.
    public func append(pool: String, _ event: DriverHostEvent) {
        append(ServerEvent.Kind(event.state), subject: "pool/\(pool)", message: event.message)
    }

    /// The id of the newest event.
    public var lastID: UInt64 { state.withLock { $0.lastID } }

    /// At most `limit` events that came after `id`; 0 for all that are kept.
    public func events(after id: UInt64, limit: Int) -> Batch {
        state.withLock { EventLog.batch($0, after: id, limit: limit) }
    }

    /// A reader of what comes after `id`; nil when there are `Limits.eventSubscribersMax` already.
    ///
    /// - Parameter id: of the last event that the reader knows; 0 for all that are kept, nil for new ones only.
    public func subscribe(after id: UInt64?) -> EventSubscription? {
        let place: UInt64? = state.withLock { state in
            guard state.subscribers < Limits.eventSubscribersMax else { return nil }
            state.subscribers += 1
            return id ?? state.lastID
        }
        return place.map { EventSubscription(log: self, after: $0) }
    }

    /// Ends every subscription, also later ones: the server is stopping. Events are still taken and listed.
    public func finish() {
        let waiters = state.withLock { state in
            state.isFinished = true
            return EventLog.takeWaiters(&state)
        }
        for waiter in waiters { waiter.resume() }
    }

    // MARK: For subscriptions

    fileprivate func unsubscribe() {
        state.withLock { $0.subscribers -= 1 }
    }

    /// What comes after `id`, as soon as there is something; nil when the log is finished or the task cancelled.
    fileprivate func next(after id: UInt64, limit: Int) async -> Batch? {
        while !Task.isCancelled {
            let (batch, isFinished) = state.withLock { state in
                (EventLog.batch(state, after: id, limit: limit), state.isFinished)
            }
            if !batch.events.isEmpty || batch.missedUpTo != nil { return batch }
            if isFinished { return nil }
            await wait(beyond: id)
        }
        return nil
    }

    /// Returns when there may be something after `id`, the log is finished or the task cancelled.
    private func wait(beyond id: UInt64) async {
        let number = state.withLock { state in
            state.nextWaiter += 1
            return state.nextWaiter
        }
        await withTaskCancellationHandler {
            await withCheckedContinuation { continuation in
                let waits = state.withLock { state in
                    // Looked at under the lock: whoever cancels later finds the waiter.
                    guard state.lastID <= id, !state.isFinished, !Task.isCancelled else { return false }
                    state.waiters[number] = continuation
                    return true
                }
                if !waits { continuation.resume() }
            }
        } onCancel: {
            state.withLock { $0.waiters.removeValue(forKey: number) }?.resume()
        }
    }

    // MARK: Helpers

    private static func takeWaiters(_ state: inout State) -> [CheckedContinuation<Void, Never>] {
        defer { state.waiters.removeAll(keepingCapacity: true) }
        return Array(state.waiters.values)
    }

    private static func batch(_ state: State, after id: UInt64, limit: Int) -> Batch {
        // A place from before this log, or from a clock that ran ahead, says nothing about what is kept.
        let isForeign = id > state.lastID
        let place = isForeign ? 0 : id
        var found: [ServerEvent] = []
        for events in state.kept.values {
            let first = position(in: events, after: place)
            found += events[first...].prefix(limit)
        }
        found.sort { $0.id < $1.id }
        let hasMissed = id != 0 && (isForeign || id < state.droppedUpTo)
        return Batch(events: Array(found.prefix(limit)), missedUpTo: hasMissed ? state.droppedUpTo : nil)
    }

    private static func position(in events: Deque<ServerEvent>, after id: UInt64) -> Int {
        var low = 0
        var high = events.count
        while low < high {
            let middle = (low + high) / 2
            if events[middle].id <= id { low = middle + 1 } else { high = middle }
        }
        return low
    }

    private static func bounded(_ text: String) -> String {
        guard text.utf8.count > Limits.eventMessageBytesMax else { return text }
        var kept = ""
        for scalar in text.unicodeScalars {
            guard kept.utf8.count + 7 <= Limits.eventMessageBytesMax else { break }
            kept.unicodeScalars.append(scalar)
        }
        return kept + "…"
    }
}

/// One reader of the log; it counts against `Limits.eventSubscribersMax` while it lives.
public final class EventSubscription: Sendable {
    private struct Place {
        var id: UInt64
        /// The gap that was told last.
        var missedUpTo: UInt64 = 0
    }

    private let log: EventLog
    private let place: Mutex<Place>

    fileprivate init(log: EventLog, after id: UInt64) {
        self.log = log
        place = Mutex(Place(id: id))
    }

    deinit { log.unsubscribe() }

    /// The next events, as soon as there are some; nil when the log is finished or the task cancelled. One call at
    /// a time.
    public func next() async -> EventLog.Batch? {
        let id = place.withLock { $0.id }
        guard let batch = await log.next(after: id, limit: Limits.eventsPerBatchMax) else { return nil }
        return place.withLock { place in
            place.id = batch.events.last?.id ?? batch.missedUpTo ?? id
            // One class of events may have lost more than the other: the same gap is told once.
            let isNew = (batch.missedUpTo ?? 0) > place.missedUpTo
            if isNew { place.missedUpTo = batch.missedUpTo ?? 0 }
            return EventLog.Batch(events: batch.events, missedUpTo: isNew ? batch.missedUpTo : nil)
        }
    }
}
