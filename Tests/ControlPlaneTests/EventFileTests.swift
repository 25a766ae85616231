import Core
import DriverKit
import Foundation
import Logging
import Services
import Testing

@testable import ControlPlane

@Suite struct EventFileTests {
    private struct Clock: WallClock {
        func now() -> UInt64 { 1_800_000_000 }
    }

    private let folder = NSTemporaryDirectory() + "sluice-events-" + UUID().uuidString
    private var path: String { folder + "/events.jsonl" }

    private func log(bounds: EventLog.Bounds = EventLog.Bounds()) throws -> (EventLog, EventFile) {
        var logger = Logger(label: "test")
        logger.logLevel = .critical
        let file = EventFile(path: path, logger: logger)
        let log = EventLog(
            wallClock: Clock(), bounds: bounds, history: file.load(now: Clock().now()), keeper: file)
        try file.follow { log.history }
        return (log, file)
    }

    private func makeFolder() throws {
        try FileManager.default.createDirectory(atPath: folder, withIntermediateDirectories: true)
    }

    private func contents() throws -> String { try String(contentsOfFile: path, encoding: .utf8) }

    @Test func eventsOutliveTheServer() throws {
        try makeFolder()
        defer { try? FileManager.default.removeItem(atPath: folder) }
        let (log, file) = try log()
        log.append(.volumeFenced, subject: "volume/a", message: "by\n\"someone\" \u{1b}")
        log.append(.capabilityRevoked, subject: "capability/1", message: "of node n1: x", by: "node:n1")
        file.finish()
        let before = log.events(after: 0, limit: 10).events
        let (next, _) = try self.log()
        #expect(next.events(after: 0, limit: 10).events == before && before.count == 2)
        #expect(
            next.events(after: before[0].id, limit: 10).missedUpTo == nil, "nothing is missed over a restart")
        next.append(.volumeFenced, subject: "volume/b", message: "")
        #expect(next.lastID > before[1].id)
    }

    @Test func aDamagedFileIsReadAsFarAsItGoesAndMendedAtOnce() throws {
        try makeFolder()
        defer { try? FileManager.default.removeItem(atPath: folder) }
        let (log, file) = try log()
        for number in 0..<3 { log.append(.volumeFenced, subject: "volume/\(number)", message: "") }
        file.finish()
        let whole = try contents()
        let damages = [
            whole + #"{"at":"2027-01-15T08:00"#, "\u{0}\u{1}garbage\n" + whole, whole + whole,
            whole.replacingOccurrences(
                of: "volume.fenced", with: "volume.unheard-of", options: [],
                range: whole.range(of: "volume.fenced")),
        ]
        for damage in damages {
            try damage.write(toFile: path, atomically: true, encoding: .utf8)
            let (next, file) = try self.log()
            let subjects = next.events(after: 0, limit: 10).events.map(\.subject)
            #expect(subjects.suffix(2) == ["volume/1", "volume/2"])
            file.finish()
            #expect(file.load(now: Clock().now()).events == next.history.events)
            #expect(try contents().hasSuffix("\n"))
        }
    }

    @Test func theFileIsAsBoundedAsTheLog() throws {
        try makeFolder()
        defer { try? FileManager.default.removeItem(atPath: folder) }
        let (log, file) = try log(bounds: EventLog.Bounds(perKind: 20))
        log.append(pool: "a", DriverHostEvent(state: .quarantined, message: "lost 8 hosts"))
        for number in 0..<20_000 {
            log.append(
                .volumeFenced, subject: "volume/\(number)", message: String(repeating: "x", count: 400))
        }
        file.finish(milliseconds: 60_000)
        #expect(try contents().utf8.count < 3 << 20)
        let (next, _) = try self.log(bounds: EventLog.Bounds(perKind: 20))
        #expect(next.history.events == log.history.events)
        #expect(next.history.events.first?.subject == "pool/a")
        #expect(next.events(after: next.history.events[0].id, limit: 1).missedUpTo == log.history.droppedUpTo)
    }

    @Test func aDiskThatTakesNothingIsSaidAndCaughtUpWith() throws {
        defer { try? FileManager.default.removeItem(atPath: folder) }
        let (log, file) = try log()
        log.append(.volumeFenced, subject: "volume/a", message: "")
        while file.problem == nil {}
        #expect(file.problem?.contains("No such file") == true)
        try makeFolder()
        log.append(.volumeFenced, subject: "volume/b", message: "")
        file.finish()
        #expect(file.problem == nil)
        #expect(file.load(now: Clock().now()).events.map(\.subject) == ["volume/a", "volume/b"])
    }

    @Test func whatIsTooOldGoes() throws {
        try makeFolder()
        defer { try? FileManager.default.removeItem(atPath: folder) }
        let (log, file) = try log()
        log.append(.volumeFenced, subject: "volume/a", message: "")
        file.finish()
        #expect(file.load(now: Clock().now() + Limits.eventSecondsKept).events.count == 1)
        let late = file.load(now: Clock().now() + Limits.eventSecondsKept + 1)
        #expect(late.events.isEmpty && late.droppedUpTo == log.lastID)
    }
}
