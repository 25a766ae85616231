import Core
import DriverKit
import Foundation
import HTTPTypes
import Services
import SluiceClient
import Synchronization
import TestSupport
import Testing

@testable import ControlPlane

@Suite struct EventListTests {
    @Test func eventsAreListedInPages() async throws {
        try await withControlPlane { rig async throws in
            for number in 0..<5 {
                rig.events.append(
                    pool: "p\(number)", DriverHostEvent(state: .recovering, message: "killed by signal 9"))
            }
            var seen: [JSONValue] = []
            var target = "/v1/events?limit=2"
            while true {
                let page = try await rig.ask(.get, target)
                guard case .array(let items) = page.json["items"] else { break }
                #expect(items.count <= 2)
                seen += items
                guard case .string(let cursor) = page.json["nextCursor"] else { break }
                target = "/v1/events?limit=2&cursor=\(cursor)"
            }
            #expect(seen.map { $0["subject"] } == (0..<5).map { .string("pool/p\($0)") })
            #expect(seen.allSatisfy { $0["kind"] == .string("driver.recovering") })
        }
    }

    @Test func eventsAreChosenByKindResourceAndTime() async throws {
        let clock = MovableClock()
        try await withControlPlane(clock: clock) { rig async throws in
            let now = clock.now()
            rig.events.append(.volumeFenced, subject: "volume/a", message: "1")
            rig.events.append(.volumeFenced, subject: "volume/b", message: "2", by: "node:n1")
            clock.advance(100)
            for number in 3..<6 {
                rig.events.append(
                    .sessionLost, subject: "session/\(number)", message: "\(number)", by: "node:n1")
            }
            func messages(_ query: String) async throws -> [String] {
                let answer = try await rig.ask(.get, "/v1/events?\(query)")
                guard case .array(let items) = answer.json["items"] else { return [answer.text] }
                return items.compactMap { if case .string(let text)? = $0["message"] { text } else { nil } }
            }
            #expect(try await messages("kind=volume.fenced") == ["1", "2"])
            #expect(try await messages("kind=session") == ["3", "4", "5"])
            #expect(try await messages("kind=session.lost,volume&resource=node/n1") == ["2", "3", "4", "5"])
            #expect(try await messages("resource=volume/a") == ["1"])
            #expect(try await messages("sinceSeconds=50") == ["3", "4", "5"])
            #expect(try await messages("sinceTime=\(Timestamp.text(now + 50))") == ["3", "4", "5"])
            #expect(try await messages("sinceSeconds=18446744073709551615").count == 5)
            // A page is full of what is wanted, whatever lies between.
            let page = try await rig.ask(.get, "/v1/events?resource=node/n1&limit=2")
            guard case .string(let cursor)? = page.json["nextCursor"] else {
                Issue.record("no next page: \(page.text)")
                return
            }
            #expect(try await messages("resource=node/n1&limit=9&cursor=\(cursor)") == ["4", "5"])
            for wrong in [
                "kind=", "kind=volume,", "kind=vol", "kind=nothing", "resource=a/b/c", "resource=/",
                "resource=a", "resource=a/b", "resource=volume/", "resource=volume",
                "sinceSeconds=-1", "sinceSeconds=x", "sinceTime=now",
                "sinceTime=2026-01-01T00:00:00Z&sinceSeconds=1",
            ] {
                #expect(
                    try await rig.ask(.get, "/v1/events?\(wrong)").code == "INVALID_PARAMETER", "\(wrong)")
            }
        }
    }

    @Test func whatCannotBeMeantIsRefused() async throws {
        try await withControlPlane { rig async throws in
            let stream: HTTPFields = [.accept: "text/event-stream"]
            #expect(
                try await rig.ask(.get, "/v1/events?limit=1", headers: stream).code == "INVALID_PARAMETER")
            for id in ["x", "-1", "18446744073709551616", "1x"] {
                var headers = stream
                headers[.lastEventID] = id
                #expect(try await rig.ask(.get, "/v1/events", headers: headers).code == "INVALID_HEADER")
            }
            let cursor = PageRequest.cursor(after: "not a number")
            #expect(try await rig.ask(.get, "/v1/events?cursor=\(cursor)").code == "INVALID_CURSOR")
        }
    }

    @Test(arguments: [
        ("text/event-stream", true), ("Text/Event-Stream;q=0.9, */*", true), ("*/*", false),
        ("application/json", false), ("text/event-streams", false),
    ])
    func onlyWhoAsksForAStreamByNameGetsOne(accept: String, isStream: Bool) async throws {
        try await withControlPlane { rig async throws in
            let answer = try await rig.ask(.get, "/v1/events", headers: [.accept: accept])
            #expect(answer.status == 200)
            #expect(answer.isStream == isStream)
            #expect(
                answer.headers[.contentType] == (isStream ? "text/event-stream" : "application/json"))
        }
    }

    @Test func theNumberOfFollowersIsBounded() async throws {
        try await withControlPlane { rig async throws in
            let stream: HTTPFields = [.accept: "text/event-stream"]
            var others = (0..<Limits.eventSubscribersMax).compactMap { _ in rig.events.subscribe(after: nil) }
            #expect(others.count == Limits.eventSubscribersMax)
            #expect(try await rig.ask(.get, "/v1/events", headers: stream).code == "BUSY")
            #expect(try await rig.ask(.get, "/v1/events").status == 200)
            others.removeAll()
            #expect(try await rig.ask(.get, "/v1/events", headers: stream).status == 200)
        }
    }

    @Test func oneEventIsOneLineWhateverItSays() throws {
        let log = EventLog(wallClock: FixedClock())
        log.append(.sessionStarted, subject: "session/1", message: "a\nb\r\ndata: c\n\n\"d\"\u{2028}")
        let text = String(decoding: EventStream.text(log.events(after: 0, limit: 9)), as: UTF8.self)
        let lines = text.split(separator: "\n", omittingEmptySubsequences: false)
        #expect(lines.count == 5)
        #expect(lines[0] == "id: \(log.lastID)")
        #expect(lines[1] == "event: session.started")
        #expect(lines[2].hasPrefix(#"data: {"at":"2027-01-15T08:00:00Z","id":"#))
        #expect(!text.contains("\r"))
    }

    private struct FixedClock: WallClock {
        func now() -> UInt64 { 1_800_000_000 }
    }
}

/// The stream over a real connection.
@Suite(.serialized, .blocking, .timeLimit(.minutes(2))) struct EventStreamTests {
    private typealias Event = EventStreamParser.Event

    /// Follows until `isDone`, on this thread.
    private func follow(
        _ server: ServerUnderTest, after id: String, until isDone: ([Event]) -> Bool
    ) throws -> [Event] {
        var seen: [Event] = []
        try server.client().follow("/v1/events", lastEventID: id, silenceSeconds: 20) { event in
            seen.append(event)
            return !isDone(seen)
        }
        return seen
    }

    private func serve(
        _ rig: ControlRig, limits: ControlServerLimits = ControlServerLimits()
    ) throws -> ServerUnderTest {
        let plane = rig.plane
        // Whoever the test's certificate names is the administrator that the data folder knows.
        let admin = rig.admin
        return try ServerUnderTest(limits: limits) { request in
            var request = request
            if request.peer.role == .admin { request.peer = admin }
            return await plane.respond(to: request)
        }
    }

    private func append(_ rig: ControlRig, _ pool: String) {
        rig.events.append(pool: pool, DriverHostEvent(state: .recovering, message: "killed by signal 9"))
    }

    @Test func anEventArrivesAsItHappensAndAFollowerResumes() async throws {
        try await withControlPlane { rig async throws in
            let server = try serve(rig)
            append(rig, "first")
            let seen = try follow(server, after: "0") { seen in
                if seen.count == 1 { append(rig, "second") }
                return seen.count == 2
            }
            #expect(seen.map(\.name) == ["driver.recovering", "driver.recovering"])
            #expect(seen[1].data.contains(#""subject":"pool/second""#))
            append(rig, "third")
            let resumed = try follow(server, after: try #require(seen[0].id)) { $0.count == 2 }
            #expect(resumed[0] == seen[1])
            #expect(resumed[1].data.contains(#""subject":"pool/third""#))
            await server.server.stop()
        }
    }

    @Test func aFollowerThatCameTooLateIsToldOfTheGap() async throws {
        try await withControlPlane(eventsKept: 2) { rig async throws in
            let server = try serve(rig)
            append(rig, "0")
            let first = rig.events.lastID
            for number in 1..<5 { append(rig, "\(number)") }
            let seen = try follow(server, after: "\(first)") { $0.count == 3 }
            #expect(seen.map(\.name) == ["gap", "driver.recovering", "driver.recovering"])
            #expect(seen[0].data.contains(#""missedUpTo":\#(first + 2)"#))
            #expect(seen[0].id == nil)
            #expect(seen[1].data.contains(#""subject":"pool/3""#))
            await server.server.stop()
        }
    }

    @Test func thousandsOfEventsComeThroughASmallWindowInOrder() async throws {
        try await withControlPlane(eventsKept: 5000) { rig async throws in
            let server = try serve(rig)
            for number in 0..<5000 { append(rig, "\(number)") }
            let seen = try follow(server, after: "0") { $0.count == 5000 }
            let ids = seen.compactMap { $0.id.flatMap(UInt64.init) }
            #expect(ids.count == 5000)
            #expect(zip(ids, ids.dropFirst()).allSatisfy { $0 + 1 == $1 })
            await server.server.stop()
        }
    }

    @Test func theEndOfTheServerEndsTheStreamInOrder() async throws {
        try await withControlPlane { rig async throws in
            let server = try serve(rig)
            append(rig, "a")
            let seen = try follow(server, after: "0") { _ in
                rig.plane.drain()
                return false
            }
            #expect(seen.count == 1)
            await server.server.stop()
        }
    }

    @Test func aFollowerWithoutTheRoleIsRefusedWithAProblem() async throws {
        try await withControlPlane { rig async throws in
            let server = try serve(rig)
            #expect {
                try server.client(role: nil).follow("/v1/events") { _ in true }
            } throws: { error in
                (error as? ClientError)?.status == 401
                    && (error as? ClientError)?.code == "UNAUTHENTICATED"
            }
            await server.server.stop()
        }
    }

    @Test func aFollowerThatGoesAwayGivesItsPlaceBack() async throws {
        try await withControlPlane { rig async throws in
            let server = try serve(rig)
            append(rig, "a")
            for _ in 0..<(Limits.eventSubscribersMax * 2) {
                // A place is given back when the server has seen the client go, which may be a moment later.
                var seen: [Event] = []
                repeat {
                    do {
                        seen = try follow(server, after: "0") { _ in true }
                    } catch let error as ClientError where error.code == "BUSY" {
                        await Task.yield()
                    }
                } while seen.isEmpty
                #expect(seen.count == 1)
            }
            await server.server.stop()
        }
    }

    @Test func aFollowerThatDoesNotReadLosesItsConnectionAndItsPlace() async throws {
        try await withControlPlane(eventsKept: 20_000) { rig async throws in
            var limits = ControlServerLimits()
            limits.sendSeconds = 1
            limits.http.stallSeconds = 1
            let server = try serve(rig, limits: limits)
            for _ in 0..<20_000 {
                rig.events.append(
                    .capabilityRevoked, subject: "x", message: String(repeating: "x", count: 400))
            }
            let others = (1..<Limits.eventSubscribersMax).compactMap { _ in rig.events.subscribe(after: nil) }
            #expect(others.count == Limits.eventSubscribersMax - 1)
            var place: EventSubscription?
            #expect {
                _ = try follow(server, after: "0") { seen in
                    // The thread that reads the socket is kept here until the server has given up on it.
                    while place == nil { place = rig.events.subscribe(after: nil) }
                    return seen.count == 20_000
                }
            } throws: { error in
                (error as? ClientError)?.code == "CONNECTION_BROKEN"
            }
            #expect(place != nil)
            await server.server.stop()
        }
    }

    @Test func aSilentStreamHasAHeartbeat() async throws {
        var limits = ControlServerLimits()
        limits.heartbeatSeconds = 1
        let isHeard = Signal()
        let server = try ServerUnderTest(limits: limits) { _ in
            var response = ControlResponse(
                status: .ok, headers: [.contentType: "text/event-stream"]
            ) { writer in
                guard await writer.write(Array("data: begin\n\n".utf8)) else { return }
                await isHeard.wait()
                _ = await writer.write(Array("data: end\n\n".utf8))
            }
            response.heartbeat = Array("data: beat\n\n".utf8)
            return response
        }
        var beats = 0
        var last = ""
        try server.client().follow("/v1/events", silenceSeconds: 20) { event in
            if event.data == "beat" { beats += 1 }
            if beats == 2 { Task { await isHeard.raise() } }
            last = event.data
            return true
        }
        #expect(beats >= 2)
        #expect(last == "end")
        await server.server.stop()
    }
}
