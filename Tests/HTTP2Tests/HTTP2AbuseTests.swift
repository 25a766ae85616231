import HTTPTypes
import Testing

@testable import HTTP2

/// What hostile clients do, and what it may cost.
@Suite struct HTTP2AbuseTests {
    private let clock = ManualClock()

    private func makeServer(_ limits: HTTP2Limits = .init()) throws -> HTTP2Server {
        let server = try HTTP2Server(limits: limits, clock: clock)
        _ = try server.take(RawFrame.start)
        return server
    }

    @Test func rapidResetEndsTheConnectionAfterTheBudget() throws {
        let server = try makeServer()
        var attack: [UInt8] = []
        for index in 0..<5000 {
            let stream = UInt32(2 * index + 1)
            attack += RawFrame.get(stream: stream) + RawFrame.reset(stream: stream)
        }
        let events = try server.take(attack)
        #expect(events.isEmpty)
        #expect(RawFrame.goAwayCode(try server.output()) == .enhanceYourCalm)
        #expect(server.isFinished)
        // Bytes are looked at in slices of 4 KiB; nothing is done for what comes after the budget is spent.
        #expect(server.openStreams <= 64)
    }

    @Test func resetsInTimeAreNoAttack() throws {
        let server = try makeServer()
        for index in 0..<500 {
            let stream = UInt32(2 * index + 1)
            clock.nanoseconds += 200_000_000
            #expect(try server.take(RawFrame.get(stream: stream)).count == 1)
            #expect(try server.take(RawFrame.reset(stream: stream)).count == 1)
            #expect(RawFrame.goAwayCode(try server.output()) == nil)
        }
        #expect(!server.isFinished)
    }

    @Test func makingTheServerResetStreamsCountsAsWell() throws {
        let server = try makeServer()
        var output: [UInt8] = []
        for index in 0..<200 where !server.isFinished {
            let stream = UInt32(2 * index + 1)
            // A window that overflows is a stream error (RFC 9113 §6.9.1): the server has to reset the
            // stream.
            let overflow = RawFrame.frame(type: 8, flags: 0, stream: stream, RawFrame.bigEndian(0x7fff_ffff))
            _ = try server.take(RawFrame.get(stream: stream, ends: false) + overflow)
            output += try server.output()
        }
        #expect(RawFrame.goAwayCode(output) == .enhanceYourCalm)
        #expect(server.isFinished)
    }

    @Test func streamsBeyondTheMaximumAreRefusedAndThenCostTheConnection() throws {
        var limits = HTTP2Limits()
        limits.concurrentStreams = 4
        let server = try makeServer(limits)
        _ = try server.output()
        var requests = 0
        var output: [UInt8] = []
        for index in 0..<300 where !server.isFinished {
            requests += try server.take(RawFrame.get(stream: UInt32(2 * index + 1))).count
            output += try server.output()
        }
        #expect(requests == 4)
        #expect(RawFrame.resetCode(output, stream: 9) == .refusedStream)
        #expect(RawFrame.goAwayCode(output) == .enhanceYourCalm)
    }

    @Test(arguments: [
        RawFrame.frame(type: 6, flags: 0, stream: 0, [UInt8](repeating: 1, count: 8)),
        RawFrame.frame(type: 4, flags: 0, stream: 0, []),
        RawFrame.frame(type: 2, flags: 0, stream: 1, [0, 0, 0, 0, 16]),
        RawFrame.frame(type: 8, flags: 0, stream: 0, [0, 0, 0, 1]),
    ])
    func aFloodOfControlFramesEndsTheConnection(frame: [UInt8]) throws {
        let server = try makeServer()
        var output: [UInt8] = []
        for _ in 0..<2000 where !server.isFinished {
            _ = try server.take(frame)
            output += try server.output()
        }
        #expect(RawFrame.goAwayCode(output) == .enhanceYourCalm)
        #expect(server.isFinished)
    }

    @Test func emptyDataFramesEndTheConnection() throws {
        let server = try makeServer()
        _ = try server.take(RawFrame.get(stream: 1, ends: false))
        let empty = RawFrame.frame(type: 0, flags: 0, stream: 1, [])
        _ = try server.take((0..<2000).flatMap { _ in empty })
        #expect(RawFrame.goAwayCode(try server.output()) == .enhanceYourCalm)
    }

    @Test func acknowledgementsThatAreNeverReadAreBounded() throws {
        var limits = HTTP2Limits()
        limits.controlFrameBurst = 1_000_000
        limits.outputFrames = 200
        let server = try makeServer(limits)
        let ping = RawFrame.frame(type: 6, flags: 0, stream: 0, [UInt8](repeating: 1, count: 8))
        do {
            for _ in 0..<5000 where !server.isFinished { _ = try server.take(ping) }
            #expect(try server.isFinished || RawFrame.goAwayCode(server.output()) != nil)
        } catch HTTP2Error.broken {
            // The library's own limit may come first.
        }
        let left = try server.output()
        #expect(left.count < 64 * 1024)
    }

    @Test func anEndlessHeaderBlockIsNotGathered() throws {
        let server = try makeServer()
        let filler = (0..<100).flatMap { _ in RawFrame.field("x", String(repeating: "y", count: 100)) }
        var failed = false
        do {
            _ = try server.take(RawFrame.frame(type: 1, flags: 1, stream: 1, RawFrame.getFields + filler))
            for _ in 0..<100 where !server.isFinished {
                _ = try server.take(RawFrame.frame(type: 9, flags: 0, stream: 1, filler))
            }
        } catch { failed = true }
        let output = failed ? [] : try server.output()
        #expect(failed || server.isFinished || RawFrame.goAwayCode(output) != nil)
    }

    @Test func aHeaderBombOfIndexedFieldsIsHeldToTheLimit() throws {
        let server = try makeServer()
        // One large field enters the table, then a reference of one byte repeats it 10,000 times.
        let large = [0x40, 1] + Array("b".utf8) + [0x7f, 0xa1, 0x1e] + [UInt8](repeating: 65, count: 4000)
        let bomb = RawFrame.getFields + large + [UInt8](repeating: 0xbe, count: 10_000)
        let events = try server.take(RawFrame.frame(type: 1, flags: 5, stream: 1, bomb))
        guard case .rejected(1, .headTooLarge, nil) = try #require(events.first) else {
            Issue.record("got \(events)")
            return
        }
        #expect(server.respond(stream: 1, HTTPResponse(status: .init(code: 431)), body: []))
    }

    @Test(arguments: [
        ("no :path", [0x82, 0x87]),
        ("two methods", [0x82, 0x83, 0x84, 0x87]),
        ("upper-case name", RawFrame.getFields + RawFrame.field("Bad", "1")),
        ("connection field", RawFrame.getFields + RawFrame.field("connection", "close")),
        ("pseudo field after others", RawFrame.field("a", "b") + RawFrame.getFields),
        ("unknown pseudo field", RawFrame.getFields + RawFrame.field(":evil", "1")),
        ("line break in a value", RawFrame.getFields + RawFrame.field("a", "b\r\nc: d")),
        ("method with a space", RawFrame.field(":method", "GE T") + [0x84, 0x87]),
        ("wrong content-length", RawFrame.getFields + RawFrame.field("content-length", "5")),
    ])
    func aMalformedRequestIsAStreamError(name: String, block: [UInt8]) throws {
        let server = try makeServer()
        let events = try server.take(RawFrame.frame(type: 1, flags: 5, stream: 1, block))
        #expect(events.isEmpty, "\(name)")
        let output = try server.output()
        #expect(RawFrame.resetCode(output, stream: 1) == .protocolError, "\(name)")
        // The connection serves the next request.
        #expect(try server.take(RawFrame.get(stream: 3)).count == 1, "\(name)")
    }

    @Test(arguments: [
        "GET / HTTP/1.1\r\nhost: a\r\n\r\n", "POST /v1/volumes HTTP/1.1\r\n", "OPTIONS * HTTP/1.0\r\n\r\n",
        "PUT / HTTP/1.1\r\n", "PRI / HTTP/1.1\r\nhost: a\r\n\r\n",
    ])
    func aClientOfHTTP1GetsAReadableRefusal(request: String) throws {
        for split in 0..<8 {
            let server = try HTTP2Server(limits: .init(), clock: clock)
            var refusal: [UInt8]?
            do {
                _ = try server.take(Array(request.utf8.prefix(split)))
                _ = try server.take(Array(request.utf8.dropFirst(split)))
            } catch {
                if case .notHTTP2(let bytes) = error { refusal = bytes }
            }
            let text = String(decoding: try #require(refusal), as: UTF8.self)
            #expect(text.hasPrefix("HTTP/1.1 505 "))
            #expect(text.contains("curl"))
            #expect(text.contains("--http2"))
            let parts = text.split(separator: "\r\n\r\n", maxSplits: 1)
            #expect(text.contains("content-length: \(parts[1].utf8.count)\r\n"))
        }
    }

    @Test func garbageIsNotAnswered() throws {
        for garbage in [[0, 1, 2], Array("hello world, this is no HTTP".utf8), [0x16, 3, 1, 2, 0, 1]]
            as [[UInt8]]
        {
            let server = try HTTP2Server(limits: .init(), clock: clock)
            #expect(throws: HTTP2Error.notHTTP2(refusal: nil)) { try server.take(garbage) }
        }
    }

    @Test func thePrefaceMayComeByteByByte() throws {
        let server = try HTTP2Server(limits: .init(), clock: clock)
        var events = 0
        for byte in RawFrame.start + RawFrame.get(stream: 1) { events += try server.take([byte]).count }
        #expect(events == 1)
    }

    @Test func aRequestThatTricklesIsOverdue() throws {
        let server = try makeServer()
        _ = try server.take(RawFrame.get(stream: 1, ends: false))
        for _ in 0..<30 {
            clock.nanoseconds += 1_000_000_000
            _ = try server.take(RawFrame.frame(type: 0, flags: 0, stream: 1, [1]))
        }
        #expect(server.overdue(now: clock.now()) == nil)
        clock.nanoseconds += 1_000_000_000
        #expect(server.overdue(now: clock.now()) == .request)
    }

    @Test func anAnswerThatIsNotTakenIsOverdue() throws {
        let server = try makeServer()
        _ = try server.take(RawFrame.get(stream: 1))
        server.respond(stream: 1, HTTPResponse(status: .ok), body: [UInt8](repeating: 1, count: 200_000))
        _ = try server.output()
        clock.nanoseconds += 60_000_000_000
        #expect(server.overdue(now: clock.now()) == nil)
        clock.nanoseconds += 1_000_000_000
        #expect(server.overdue(now: clock.now()) == .answer)
    }

    @Test func anAnswerThatIsTakenDropByDropIsOverdueInTheEnd() throws {
        let server = try makeServer()
        _ = try server.take(RawFrame.get(stream: 1))
        server.respond(stream: 1, HTTPResponse(status: .ok), body: [UInt8](repeating: 1, count: 200_000))
        _ = try server.output()
        for _ in 0..<10 {
            clock.nanoseconds += 30_000_000_000
            let drop = RawFrame.bigEndian(1)
            _ = try server.take(
                RawFrame.frame(type: 8, flags: 0, stream: 1, drop)
                    + RawFrame.frame(type: 8, flags: 0, stream: 0, drop))
            _ = try server.output()
            #expect(server.overdue(now: clock.now()) == nil)
        }
        clock.nanoseconds += 1_000_000_000
        #expect(server.overdue(now: clock.now()) == .answer)
    }
}
