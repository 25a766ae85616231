import HTTPTypes
import Testing

@testable import HTTP2

@Suite struct HTTP2ServerTests {
    private static func get(_ path: String) -> HTTPRequest {
        HTTPRequest(method: .get, scheme: "https", authority: "io.example", path: path)
    }

    private static func post(_ path: String) -> HTTPRequest {
        HTTPRequest(method: .post, scheme: "https", authority: "io.example", path: path)
    }

    @Test func aRequestArrivesWithItsFieldsAndItsAnswerComesBack() throws {
        var pair = try Pair()
        var request = Self.post("/v1/volumes?limit=2")
        request.headerFields[.contentType] = "application/json"
        let stream = try #require(pair.client.request(request, body: Array("{}".utf8)))
        try pair.run()
        let seen = try #require(pair.takeRequests().first)
        #expect(seen.request.method == .post)
        #expect(seen.request.path == "/v1/volumes?limit=2")
        #expect(seen.request.authority == "io.example")
        #expect(seen.request.headerFields[.contentType] == "application/json")
        #expect(seen.body == Array("{}".utf8))
        var response = HTTPResponse(status: .created)
        response.headerFields[.eTag] = "\"7\""
        #expect(pair.server.respond(stream: seen.stream, response, body: Array("made".utf8)))
        try pair.run()
        let answer = try #require(pair.takeResponses().first)
        #expect(answer.stream == stream)
        #expect(answer.response.status == .created)
        #expect(answer.response.headerFields[.eTag] == "\"7\"")
        #expect(answer.response.headerFields[.contentLength] == "4")
        #expect(answer.body == Array("made".utf8))
        #expect(pair.server.openStreams == 0)
        #expect(pair.server.bufferedOutputBytes == 0)
    }

    @Test func aLargeBodyPassesFlowControlInBothDirections() throws {
        var pair = try Pair()
        let body = (0..<900_000).map { UInt8(truncatingIfNeeded: $0 &* 31) }
        _ = pair.client.request(Self.post("/echo"), body: body)
        try pair.run()
        let seen = try #require(pair.takeRequests().first)
        #expect(seen.body == body)
        #expect(pair.server.respond(stream: seen.stream, HTTPResponse(status: .ok), body: seen.body))
        try pair.run()
        #expect(pair.takeResponses().first?.body == body)
    }

    @Test func headGetsTheLengthButNoBody() throws {
        var pair = try Pair()
        let head = HTTPRequest(method: .head, scheme: "https", authority: "a", path: "/")
        _ = pair.client.request(head, body: [])
        try pair.run()
        let seen = try #require(pair.takeRequests().first)
        pair.server.respond(stream: seen.stream, HTTPResponse(status: .ok), body: [1, 2, 3])
        try pair.run()
        let answer = try #require(pair.takeResponses().first)
        #expect(answer.response.headerFields[.contentLength] == "3")
        #expect(answer.body.isEmpty)
    }

    @Test func anAnswerWithoutContentHasNoLength() throws {
        var pair = try Pair()
        _ = pair.client.request(Self.get("/"), body: [])
        try pair.run()
        let stream = try #require(pair.takeRequests().first?.stream)
        pair.server.respond(stream: stream, HTTPResponse(status: .noContent), body: [])
        try pair.run()
        let answer = try #require(pair.takeResponses().first)
        #expect(answer.response.status == .noContent)
        #expect(answer.response.headerFields[.contentLength] == nil)
    }

    @Test func aStreamingAnswerArrivesPieceByPiece() throws {
        var pair = try Pair()
        let stream = try #require(pair.client.request(Self.get("/v1/events"), body: [], streaming: true))
        try pair.run()
        _ = pair.takeRequests()
        #expect(pair.server.respondStreaming(stream: stream, HTTPResponse(status: .ok)))
        try pair.run()
        var text: [UInt8] = []
        for piece in ["data: 1\n\n", "data: 2\n\n"] {
            #expect(pair.server.write(stream: stream, Array(piece.utf8), end: false))
            try pair.run()
            guard case .data(stream, let bytes) = try #require(pair.clientEvents.last) else {
                Issue.record("no data came")
                return
            }
            text += bytes
        }
        #expect(String(decoding: text, as: UTF8.self) == "data: 1\n\ndata: 2\n\n")
        #expect(pair.server.write(stream: stream, [], end: true))
        try pair.run()
        guard case .end(stream) = try #require(pair.clientEvents.last) else {
            Issue.record("the end did not come")
            return
        }
        #expect(!pair.server.write(stream: stream, [1], end: false))
    }

    @Test func aCancelledRequestIsReportedOnceAndCannotBeAnswered() throws {
        var pair = try Pair()
        let stream = try #require(pair.client.request(Self.get("/"), body: []))
        try pair.run()
        pair.serverEvents.removeAll()
        pair.client.cancel(stream: stream)
        try pair.run()
        #expect(pair.serverEvents.count == 1)
        guard case .aborted(stream) = pair.serverEvents[0] else {
            Issue.record("got \(pair.serverEvents)")
            return
        }
        #expect(!pair.server.respond(stream: stream, HTTPResponse(status: .ok), body: []))
    }

    @Test func aSecondAnswerIsRefused() throws {
        var pair = try Pair()
        _ = pair.client.request(Self.get("/"), body: [])
        try pair.run()
        let stream = try #require(pair.takeRequests().first?.stream)
        #expect(pair.server.respond(stream: stream, HTTPResponse(status: .ok), body: []))
        #expect(!pair.server.respond(stream: stream, HTTPResponse(status: .ok), body: []))
        try pair.run()
        #expect(pair.takeResponses().count == 1)
    }

    @Test func aBodyBeyondTheLimitIsRejectedAndTheClientStillGetsTheAnswer() throws {
        var limits = HTTP2Limits()
        limits.bodyBytes = 1000
        var pair = try Pair(serverLimits: limits)
        _ = pair.client.request(Self.post("/"), body: [UInt8](repeating: 1, count: 200_000))
        try pair.run()
        guard case .rejected(let stream, .bodyTooLarge, let request?) = try #require(pair.serverEvents.first)
        else {
            Issue.record("got \(pair.serverEvents)")
            return
        }
        #expect(request.path == "/")
        #expect(pair.server.respond(stream: stream, HTTPResponse(status: .contentTooLarge), body: [7]))
        try pair.run()
        #expect(pair.takeResponses().first?.response.status == .contentTooLarge)
        #expect(pair.server.openStreams == 0)
    }

    @Test func aHeadBeyondTheLimitIsRejected() throws {
        var pair = try Pair()
        var request = Self.get("/")
        request.headerFields[.userAgent] = String(repeating: "x", count: 17_000)
        _ = pair.client.request(request, body: [])
        try pair.run()
        guard case .rejected(let stream, .headTooLarge, nil) = try #require(pair.serverEvents.first) else {
            Issue.record("got \(pair.serverEvents)")
            return
        }
        let status = HTTPResponse.Status(code: 431)
        #expect(pair.server.respond(stream: stream, HTTPResponse(status: status), body: []))
        try pair.run()
        #expect(pair.takeResponses().first?.response.status.code == 431)
    }

    @Test func allBodiesTogetherAreLimited() throws {
        var limits = HTTP2Limits()
        limits.connectionBodyBytes = 30_000
        let server = try HTTP2Server(limits: limits, clock: ManualClock())
        _ = try server.take(RawFrame.start)
        var rejected = 0
        for index in 0..<4 {
            let stream = UInt32(2 * index + 1)
            let head = RawFrame.get(stream: stream, ends: false)
            let data = RawFrame.frame(type: 0, flags: 0, stream: stream, [UInt8](repeating: 0, count: 10_000))
            for event in try server.take(head + data) {
                if case .rejected(_, .connectionBusy, _) = event { rejected += 1 }
            }
        }
        #expect(rejected == 1)
    }

    @Test func answersBeyondTheOutputLimitResetTheStream() throws {
        var limits = HTTP2Limits()
        limits.outputBytes = 100_000
        let server = try HTTP2Server(limits: limits, clock: ManualClock())
        let events = try server.take(RawFrame.start + RawFrame.get(stream: 1) + RawFrame.get(stream: 3))
        #expect(events.count == 2)
        let body = [UInt8](repeating: 0, count: 90_000)
        #expect(server.respond(stream: 1, HTTPResponse(status: .ok), body: body))
        #expect(!server.respond(stream: 3, HTTPResponse(status: .ok), body: body))
        #expect(RawFrame.resetCode(try server.output(), stream: 3) == .enhanceYourCalm)
        #expect(server.bufferedOutputBytes <= 100_000)
    }

    @Test func expectContinueIsAnswered() throws {
        let server = try HTTP2Server(limits: .init(), clock: ManualClock())
        let expect = RawFrame.field("expect", "100-continue")
        _ = try server.take(RawFrame.start + RawFrame.get(stream: 1, ends: false, more: expect))
        let headers = RawFrame.parse(try server.output()).filter { $0.type == 1 }
        #expect(headers.count == 1)
        #expect(headers.first?.flags == 4)
    }

    @Test func shutdownLetsTheRequestUnderWayFinishAndTakesNoMore() throws {
        var pair = try Pair()
        let stream = try #require(pair.client.request(Self.get("/"), body: []))
        try pair.run()
        pair.server.shutdown()
        try pair.run()
        #expect(pair.client.isDraining)
        #expect(pair.client.request(Self.get("/"), body: []) == nil)
        #expect(!pair.server.isFinished)
        pair.server.respond(stream: stream, HTTPResponse(status: .ok), body: [])
        try pair.run()
        #expect(pair.takeResponses().count == 1)
        #expect(pair.server.isFinished)
    }

    @Test func aHeadBlockServesManyAnswers() throws {
        var pair = try Pair()
        var block = HTTP2HeadBlock(status: 200)
        block.append(name: "content-type", value: "application/json")
        for _ in 0..<3 { _ = pair.client.request(Self.get("/"), body: []) }
        try pair.run()
        for seen in pair.takeRequests() {
            #expect(pair.server.respond(stream: seen.stream, block, body: [1]))
        }
        try pair.run()
        let answers = pair.takeResponses()
        #expect(answers.count == 3)
        #expect(answers.allSatisfy { $0.response.headerFields[.contentType] == "application/json" })
        #expect(answers.allSatisfy { $0.body == [1] })
    }
}
