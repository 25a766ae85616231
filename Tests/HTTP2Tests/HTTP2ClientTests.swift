import HTTPTypes
import Testing

@testable import HTTP2

@Suite struct HTTP2ClientTests {
    private static let get = HTTPRequest(method: .get, scheme: "https", authority: "a", path: "/")

    private static func failure(_ events: [HTTP2ClientEvent]) -> HTTP2StreamFailure? {
        for event in events { if case .failed(_, let failure) = event { return failure } }
        return nil
    }

    @Test func anAnswerBeyondTheLimitFailsThatRequestOnly() throws {
        var limits = HTTP2Limits()
        limits.bodyBytes = 100
        var pair = try Pair(clientLimits: limits)
        _ = pair.client.request(Self.get, body: [])
        try pair.run()
        let stream = try #require(pair.takeRequests().first?.stream)
        pair.server.respond(
            stream: stream, HTTPResponse(status: .ok), body: [UInt8](repeating: 0, count: 101))
        try pair.run()
        let failure = try #require(Self.failure(pair.clientEvents))
        #expect(failure.reason.contains("larger than 100 bytes"))
        pair.clientEvents.removeAll()
        _ = pair.client.request(Self.get, body: [])
        try pair.run()
        let next = try #require(pair.takeRequests().first?.stream)
        pair.server.respond(stream: next, HTTPResponse(status: .ok), body: [1])
        try pair.run()
        #expect(pair.takeResponses().first?.body == [1])
    }

    @Test func aRefusedStreamMayBeSentAgain() throws {
        var pair = try Pair()
        _ = pair.client.request(Self.get, body: [])
        try pair.run()
        pair.server.reset(stream: 1, code: .refusedStream)
        try pair.run()
        let failure = try #require(Self.failure(pair.clientEvents))
        #expect(failure.isUnprocessed)
        #expect(failure.code == .refusedStream)
    }

    @Test func aResetStreamMayNotBeSentAgain() throws {
        var pair = try Pair()
        _ = pair.client.request(Self.get, body: [])
        try pair.run()
        pair.server.reset(stream: 1, code: .internalError)
        try pair.run()
        #expect(Self.failure(pair.clientEvents)?.isUnprocessed == false)
    }

    @Test func requestsThatTheServerNeverSawBeforeItsGoodbyeAreMarked() throws {
        var pair = try Pair()
        _ = pair.client.request(Self.get, body: [])
        try pair.run()
        pair.server.shutdown()
        let goodbye = try pair.server.output()
        _ = pair.client.request(Self.get, body: [])
        _ = try pair.client.output()
        pair.clientEvents = try pair.client.take(goodbye)
        #expect(pair.client.isDraining)
        #expect(Self.failure(pair.clientEvents)?.isUnprocessed == true)
    }
}
