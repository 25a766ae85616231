import Core
import DequeModule
import DriverKit
import Synchronization

/// Who keeps events beyond the process. Any thread; must not wait.
public protocol EventKeeper: Sendable {
    /// An event was added; what this pushed out is not told, it follows from the events.
    func keep(_ event: ServerEvent)
}

/// What of earlier runs of the server is known at its start.
public struct EventHistory: Sendable, Hashable {
    /// The events, in order of their ids.
    public var events: [ServerEvent] = []
    /// The newest event that is no longer kept; nil when nothing is known of earlier runs.
    public var droppedUpTo: UInt64?

    /// Nothing.
    public init() {}
}

/// The server's latest events, and those who wait for the next ones.
///
/// Events are kept by kind: many of one kind push out none of another. Those that a node or another client caused are
/// kept by who caused them, besides: nobody pushes out what others did. A reader holds nothing but a place in the log,
/// so a slow one costs no memory: it finds a gap instead of what was pushed out meanwhile. Any thread; nothing blocks
/// for longer than copying a few events.
public final class EventLog: Sendable {
    /// What a reader finds after its place.
    public struct Batch: Sendable, Hashable {
        /// The events, in order of their ids.
        public let events: [ServerEvent]
        /// The id of the last event that the reader has missed, because the log is bounded or began later.
        public let missedUpTo: UInt64?
    }

    /// How many events are kept.
    public struct Bounds: Sendable {
        /// Of one kind, of those that nobody outside caused.
        public var perKind: Int
        /// Of one kind that one client caused.
        public var perClient = Limits.eventsKeptPerClientMax
        /// Of one kind that all clients caused.
        public var allClients = Limits.eventsKeptOfClientsMax
        /// How long, in seconds.
        public var seconds = Limits.eventSecondsKept

        /// Bounds with a number of their own for what nobody outside caused.
        public init(perKind: Int = Limits.eventsKeptMax) { self.perKind = perKind }
    }

    /// The events of one kind that one client caused, or that no client did.
    private struct Place: Hashable {
        let kind: ServerEvent.Kind
        let by: String?
    }

    private struct State {
        /// Each in order of the ids.
        var kept: [Place: Deque<ServerEvent>] = [:]
        /// How many of a kind clients caused.
        var ofClients: [ServerEvent.Kind: Int] = [:]
        var lastID: UInt64
        /// The newest event that the log no longer has.
        var droppedUpTo: UInt64
        var waiters: [UInt64: CheckedContinuation<Void, Never>] = [:]
        var nextWaiter: UInt64 = 0
        var subscribers = 0
        var isFinished = false
    }

    private let wallClock: any WallClock
    private let bounds: Bounds
    private let keeper: (any EventKeeper)?
    private let state: Mutex<State>

    /// A log with what is known of earlier runs.
    ///
    /// - Parameter start: the ids are greater than this, which is to be no less than any id of the log before: the
    ///   Unix time in microseconds, which grows faster than events come and stays exact in JSON. nil takes the
    ///   clock's whole seconds, too coarse for a server that restarts at once.
    /// - Parameter keeper: hears of every event from now on.
    public init(
        wallClock: any WallClock, start: UInt64? = nil, bounds: Bounds = Bounds(),
        history: EventHistory = EventHistory(), keeper: (any EventKeeper)? = nil
    ) {
        self.wallClock = wallClock
        self.bounds = bounds
        self.keeper = keeper
        let start = max(start ?? wallClock.now() &* 1_000_000, history.events.last?.id ?? 0)
        var state = State(lastID: start, droppedUpTo: history.droppedUpTo ?? start)
        for event in history.events { EventLog.keep(event, bounds, &state) }
        self.state = Mutex(state)
    }

    /// Adds an event and wakes the readers.
    ///
    /// - Parameter by: the client that caused it, such as `node:compute-1`; nil where the server or an administrator
    ///   did.
    public func append(_ kind: ServerEvent.Kind, subject: String, message: String, by: String? = nil) {
        let now = wallClock.now()
        let text = EventLog.bounded(message)
        let waiters = state.withLock { state in
            state.lastID += 1
            let event = ServerEvent(
                id: state.lastID, at: now, kind: kind, subject: subject, message: text,
                by: by.map { String($0.prefix(Limits.eventCallerCharactersMax)) })
            EventLog.keep(event, bounds, &state)
            // Under the lock, so that the keeper hears of events in order.
            keeper?.keep(event)
            return EventLog.takeWaiters(&state)
        }
        for waiter in waiters { waiter.resume() }
    }

    /// Everything that is kept.
    public var history: EventHistory {
        // Sorted outside of the lock: whoever appends does not wait for that.
        let (kept, droppedUpTo) = state.withLock { ($0.kept, $0.droppedUpTo) }
        var history = EventHistory()
        history.events = kept.values.flatMap { Array($0) }.sorted { $0.id < $1.id }
        history.droppedUpTo = droppedUpTo
        return history
    }

    /// Takes an event in, and lets go of those for which there is no room or that are too old.
    private static func keep(_ event: ServerEvent, _ bounds: Bounds, _ state: inout State) {
        let place = Place(kind: event.kind, by: event.by)
        state.kept[place, default: []].append(event)
        if event.by != nil { state.ofClients[event.kind, default: 0] += 1 }
        while hasTooMany(place, bounds, at: event.at, state) { drop(place, &state) }
        if event.by != nil, state.ofClients[event.kind, default: 0] > bounds.allClients {
            thin(event.kind, to: bounds.allClients - bounds.allClients / 8, &state)
        }
    }

    /// Lets go of events of a kind that clients caused, many at once, so that the next ones cost little. Events of
    /// clients that are no nodes go first, always those of the client that has the most, and among such of the one
    /// that the log has not heard of for the longest time.
    private static func thin(_ kind: ServerEvent.Kind, to count: Int, _ state: inout State) {
        for takesNodes in [false, true] {
            var places = state.kept.keys.filter { place in
                place.kind == kind && place.by.map { $0.hasPrefix("node:") == takesNodes } ?? false
            }
            while state.ofClients[kind, default: 0] > count, !places.isEmpty {
                let sizes = places.map { (place: $0, count: state.kept[$0]?.count ?? 0) }
                let most = sizes.map(\.count).max() ?? 0
                let fullest = sizes.filter { $0.count == most }.map(\.place).sorted {
                    state.kept[$0]?.last?.id ?? 0 < state.kept[$1]?.last?.id ?? 0
                }
                for place in fullest.prefix(state.ofClients[kind, default: 0] - count) { drop(place, &state) }
                places.removeAll { state.kept[$0] == nil }
            }
        }
    }

    private static func hasTooMany(_ place: Place, _ bounds: Bounds, at now: UInt64, _ state: State) -> Bool {
        guard let events = state.kept[place], events.count > 1 else { return false }
        return events.count > (place.by == nil ? bounds.perKind : bounds.perClient)
            || events[0].at &+ bounds.seconds < now
    }

    private static func drop(_ place: Place, _ state: inout State) {
        guard let oldest = state.kept[place]?.popFirst() else { return }
        state.droppedUpTo = max(state.droppedUpTo, oldest.id)
        if state.kept[place]?.isEmpty == true { state.kept[place] = nil }
        if place.by != nil { state.ofClients[place.kind, default: 0] -= 1 }
    }

    /// Adds what a pool's driver host came to.
    public func append(pool: String, _ event: DriverHostEvent) {
        let remedy =
            event.state == .quarantined
            ? ". No other is started until somebody does so by 'sluice pool restart \(pool)'" : ""
        append(ServerEvent.Kind(event.state), subject: "pool/\(pool)", message: event.message + remedy)
    }

    /// The id of the newest event.
    public var lastID: UInt64 { state.withLock { $0.lastID } }

    /// At most `limit` of the events that are wanted and came after `id`; 0 for all that are kept.
    public func events(
        after id: UInt64, limit: Int, where isWanted: (ServerEvent) -> Bool = { _ in true }
    ) -> Batch {
        state.withLock { EventLog.batch($0, after: id, limit: limit, where: isWanted) }
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
                    // Under the lock: a cancellation that comes later finds the waiter.
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

    private static func batch(
        _ state: State, after id: UInt64, limit: Int, where isWanted: (ServerEvent) -> Bool = { _ in true }
    ) -> Batch {
        // A place from before this log, or from a clock that ran ahead, says nothing about what is kept.
        let isForeign = id > state.lastID
        let place = isForeign ? 0 : id
        var found: [ServerEvent] = []
        for events in state.kept.values {
            let first = position(in: events, after: place)
            var left = limit
            for event in events[first...] where isWanted(event) {
                found.append(event)
                left -= 1
                if left == 0 { break }
            }
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
