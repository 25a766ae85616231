import Core
import DriverKit
import Synchronization
import Testing

@testable import Services

@Suite struct EventLogTests {
    private final class Clock: WallClock {
        let seconds = Mutex<UInt64>(1_800_000_000)
        func now() -> UInt64 { seconds.withLock { $0 } }
    }

    private let clock = Clock()

    private func log(capacity: Int = 8) -> EventLog {
        EventLog(wallClock: clock, bounds: EventLog.Bounds(perKind: capacity))
    }

    @Test func eventsAreKeptInOrderWithGrowingIDs() {
        let log = log()
        log.append(pool: "a", DriverHostEvent(state: .recovering, message: "killed by signal 9"))
        clock.seconds.withLock { $0 += 7 }
        log.append(.sessionStarted, subject: "session/1", message: "")
        log.append(pool: "a", DriverHostEvent(state: .running, message: "pid 7"))
        let events = log.events(after: 0, limit: 10).events
        #expect(events.map(\.kind) == [.driverRecovering, .sessionStarted, .driverRunning])
        #expect(events.map(\.at) == [1_800_000_000, 1_800_000_007, 1_800_000_007])
        #expect(events.map(\.subject) == ["pool/a", "session/1", "pool/a"])
        #expect(events[0].message == "killed by signal 9")
        #expect(events[0].id < events[1].id && events[1].id < events[2].id)
        #expect(events[2].id == log.lastID)
    }

    @Test func idsGrowOverARestartWithinASecond() {
        let before = EventLog(wallClock: clock, start: 1_800_000_000_000_000)
        before.append(.sessionStarted, subject: "session/1", message: "")
        let after = EventLog(wallClock: clock, start: 1_800_000_000_000_500)
        after.append(.sessionStarted, subject: "session/2", message: "")
        #expect(after.lastID > before.lastID)
        let batch = after.events(after: before.lastID, limit: 10)
        #expect(batch.events.map(\.subject) == ["session/2"])
        #expect(batch.missedUpTo != nil, "what came between the two logs is not known")
    }

    @Test func pagesGoOnWhereTheLastEnded() {
        let log = log()
        for number in 0..<6 { log.append(.capabilityRevoked, subject: "capability/\(number)", message: "") }
        let first = log.events(after: 0, limit: 4).events
        let second = log.events(after: first[3].id, limit: 4)
        #expect(first.map(\.subject) == (0..<4).map { "capability/\($0)" })
        #expect(second.events.map(\.subject) == (4..<6).map { "capability/\($0)" })
        #expect(second.missedUpTo == nil)
    }

    @Test func theOldestGoAndTheirReaderIsTold() {
        let log = log(capacity: 3)
        for number in 0..<5 { log.append(.capabilityRevoked, subject: "\(number)", message: "") }
        let kept = log.events(after: 0, limit: 10)
        #expect(kept.events.map(\.subject) == ["2", "3", "4"])
        #expect(kept.missedUpTo == nil, "who asks for what is kept misses nothing")
        let first = kept.events[0].id - 2
        let late = log.events(after: first, limit: 10)
        #expect(late.events.map(\.subject) == ["2", "3", "4"])
        #expect(late.missedUpTo == first + 1)
        #expect(log.events(after: first + 1, limit: 10).missedUpTo == nil)
    }

    @Test func clientsCannotPushOutWhatTheServerSays() {
        let log = log(capacity: 3)
        log.append(pool: "a", DriverHostEvent(state: .quarantined, message: "lost 5 hosts"))
        for number in 0..<100 { log.append(.sessionStarted, subject: "session/\(number)", message: "") }
        #expect(
            log.events(after: 0, limit: 10).events.map(\.subject)
                == ["pool/a", "session/97", "session/98", "session/99"])
    }

    @Test func manyOfOneKindPushOutNoneOfAnother() {
        let log = log(capacity: 3)
        log.append(pool: "a", DriverHostEvent(state: .quarantined, message: "lost 8 hosts"))
        log.append(.volumeFenced, subject: "volume/a", message: "")
        for number in 0..<1000 { log.append(.capabilityRevoked, subject: "\(number)", message: "") }
        #expect(
            log.events(after: 0, limit: 10).events.map(\.subject)
                == ["pool/a", "volume/a", "997", "998", "999"])
    }

    /// It took four seconds of issuing and revoking its own to erase everything.
    @Test func aNodeDoesNotPushOutWhatOthersDid() {
        let log = EventLog(wallClock: clock)
        log.append(.capabilityRevoked, subject: "by an administrator", message: "")
        log.append(.capabilityRevoked, subject: "by another node", message: "", by: "node:good")
        for number in 0..<5000 {
            log.append(.capabilityRevoked, subject: "\(number)", message: "", by: "node:bad")
            log.append(.sessionStarted, subject: "\(number)", message: "", by: "address:192.0.2.\(number)")
        }
        let kept = log.events(after: 0, limit: 10_000).events
        #expect(kept.prefix(2).map(\.subject) == ["by an administrator", "by another node"])
        #expect(kept.filter { $0.by == "node:bad" }.count == Limits.eventsKeptPerClientMax)
        let strangers = kept.filter { $0.kind == .sessionStarted }
        #expect(strangers.count <= Limits.eventsKeptOfClientsMax)
        #expect(strangers.count > Limits.eventsKeptOfClientsMax / 2)
    }

    @Test func strangersGiveWayToNodes() {
        let log = EventLog(wallClock: clock)
        for number in 0..<60 { log.append(.sessionStarted, subject: "\(number)", message: "", by: "node:n") }
        for number in 0..<5000 {
            log.append(.sessionStarted, subject: "s", message: "", by: "address:192.0.2.\(number)")
        }
        #expect(log.events(after: 0, limit: 10_000).events.filter { $0.by == "node:n" }.count == 60)
    }

    @Test func whatIsKnownOfEarlierRunsIsThere() {
        let before = log()
        for number in 0..<5 { before.append(.volumeFenced, subject: "\(number)", message: "") }
        let after = EventLog(wallClock: clock, start: 1, history: before.history)
        #expect(after.events(after: 0, limit: 10).events == before.events(after: 0, limit: 10).events)
        after.append(.volumeFenced, subject: "new", message: "")
        let reader = after.events(after: before.lastID, limit: 10)
        #expect(reader.events.map(\.subject) == ["new"] && reader.missedUpTo == nil)
    }

    @Test func eventsGoAfterNinetyDays() {
        let log = log()
        log.append(.volumeFenced, subject: "old", message: "")
        clock.seconds.withLock { $0 += Limits.eventSecondsKept + 1 }
        log.append(.volumeFenced, subject: "new", message: "")
        #expect(log.events(after: 0, limit: 10).events.map(\.subject) == ["new"])
    }

    @Test func anIDThatWasNeverGivenGetsEverything() {
        let log = log()
        log.append(.capabilityRevoked, subject: "a", message: "")
        let batch = log.events(after: .max, limit: 10)
        #expect(batch.events.map(\.subject) == ["a"])
        #expect(batch.missedUpTo != nil)
    }

    @Test func aLongMessageIsCutBetweenCharacters() {
        let log = log()
        log.append(.sessionStarted, subject: "a", message: String(repeating: "ä€😀", count: 1000))
        let message = log.events(after: 0, limit: 1).events[0].message
        #expect(message.utf8.count <= Limits.eventMessageBytesMax)
        #expect(message.utf8.count > Limits.eventMessageBytesMax - 8)
        #expect(message.hasSuffix("…"))
        #expect(message.dropLast().allSatisfy { "ä€😀".contains($0) })
    }

    @Test func everyStateOfAHostIsAKindOfEvent() {
        let kinds = DriverHostReport.State.allCases.map { ServerEvent.Kind($0).rawValue }
        #expect(kinds == DriverHostReport.State.allCases.map { "driver.\($0.rawValue)" })
    }

    // MARK: Subscriptions

    @Test func aReaderWaitsForWhatComes() async throws {
        let log = log()
        log.append(.capabilityRevoked, subject: "before", message: "")
        let reader = try #require(log.subscribe(after: nil))
        async let batch = reader.next()
        log.append(.capabilityRevoked, subject: "after", message: "")
        #expect(await batch?.events.map(\.subject) == ["after"])
    }

    @Test(.timeLimit(.minutes(1))) func everyReaderGetsEveryEventInOrder() async throws {
        let log = log(capacity: 4000)
        let readers = try (0..<8).map { _ in try #require(log.subscribe(after: nil)) }
        await withTaskGroup(of: [String].self) { group in
            for reader in readers {
                group.addTask {
                    var seen: [String] = []
                    while seen.count < 2000, let batch = await reader.next() {
                        #expect(batch.missedUpTo == nil)
                        #expect(batch.events.count <= Limits.eventsPerBatchMax)
                        seen += batch.events.map(\.subject)
                    }
                    return seen
                }
            }
            group.addTask {
                for number in 0..<2000 {
                    log.append(.capabilityRevoked, subject: "\(number)", message: "")
                    if number.isMultiple(of: 64) { await Task.yield() }
                }
                return []
            }
            for await seen in group where !seen.isEmpty { #expect(seen == (0..<2000).map(String.init)) }
        }
    }

    @Test func aSlowReaderIsToldOfAGapOnce() async throws {
        let log = log(capacity: 2)
        let reader = try #require(log.subscribe(after: nil))
        for number in 0..<5 { log.append(.capabilityRevoked, subject: "\(number)", message: "") }
        let batch = try #require(await reader.next())
        #expect(batch.missedUpTo != nil)
        #expect(batch.events.map(\.subject) == ["3", "4"])
        log.append(.capabilityRevoked, subject: "5", message: "")
        #expect(await reader.next()?.missedUpTo == nil)
    }

    @Test func theEndOfTheLogEndsItsReaders() async throws {
        let log = log()
        let waiting = try #require(log.subscribe(after: nil))
        async let last = waiting.next()
        log.finish()
        #expect(await last == nil)
        let late = try #require(log.subscribe(after: nil))
        #expect(await late.next() == nil)
    }

    /// The limit is for a reader that never returns: hundreds of other tests may have their turns first.
    @Test(.timeLimit(.minutes(10))) func aCancelledReaderReturns() async throws {
        let log = log()
        for _ in 0..<200 {
            let reader = try #require(log.subscribe(after: nil))
            let task = Task { await reader.next() }
            await Task.yield()
            task.cancel()
            #expect(await task.value == nil)
        }
    }

    @Test func theNumberOfReadersIsBounded() {
        let log = log()
        var readers = (0..<Limits.eventSubscribersMax).compactMap { _ in log.subscribe(after: nil) }
        #expect(readers.count == Limits.eventSubscribersMax)
        #expect(log.subscribe(after: nil) == nil)
        readers.removeLast()
        #expect(log.subscribe(after: nil) != nil)
    }
}
