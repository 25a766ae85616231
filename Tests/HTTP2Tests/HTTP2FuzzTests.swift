import Core
import HTTPTypes
import Simulation
import Testing

@testable import HTTP2

/// Seeded mutation of what real clients send: any bytes end in an event, an error or silence, within bounds.
@Suite struct HTTP2FuzzTests {
    /// What a client of this module sends in a few requests of several kinds.
    private static func recordedClient() throws -> [UInt8] {
        var pair = try Pair()
        for index in 0..<6 {
            let method: HTTPRequest.Method = index % 2 == 0 ? .get : .post
            var request = HTTPRequest(
                method: method, scheme: "https", authority: "io:7480", path: "/v1/volumes/\(index)")
            request.headerFields[.accept] = "application/json"
            request.headerFields[.userAgent] = "fuzz/\(index)"
            let body = [UInt8](repeating: UInt8(index), count: method == .post ? 3000 : 0)
            let stream = pair.client.request(request, body: body)
            try pair.run()
            if index == 3, let stream { pair.client.cancel(stream: stream) }
            for seen in pair.takeRequests() {
                pair.server.respond(stream: seen.stream, HTTPResponse(status: .ok), body: [1, 2, 3])
            }
            try pair.run()
        }
        return pair.clientBytes
    }

    private static func mutate(_ bytes: [UInt8], with random: inout SplitMix) -> [UInt8] {
        var result = bytes
        for _ in 0..<Int.random(in: 1...8, using: &random) {
            guard !result.isEmpty else { return result }
            let at = Int.random(in: 0..<result.count, using: &random)
            let length = min(result.count - at, Int.random(in: 1...40, using: &random))
            switch UInt8.random(in: 0...5, using: &random) {
            case 0: result[at] ^= 1 << UInt8.random(in: 0...7, using: &random)
            case 1: result[at] = UInt8.random(in: 0...255, using: &random)
            case 2: result.removeSubrange(at..<at + length)
            case 3: result.insert(contentsOf: result[at..<at + length], at: at)
            case 4: result.removeSubrange(at...)
            default:
                let from = Int.random(in: 0...(result.count - length), using: &random)
                result.replaceSubrange(at..<at + length, with: Array(result[from..<from + length]))
            }
        }
        return result
    }

    @Test func mutatedClientsNeverCrashTheServerOrFillItsMemory() throws {
        let corpus = try Self.recordedClient()
        var random = SplitMix(seed: 0x51_1ce)
        var limits = HTTP2Limits()
        limits.bodyBytes = 2000
        var requests = 0
        var errors = 0
        for _ in 0..<3000 * Fuzzer.factor {
            let server = try HTTP2Server(limits: limits, clock: ManualClock())
            var input = Self.mutate(Array(corpus.dropFirst(24)), with: &random)
            input.insert(contentsOf: connectionPreface, at: 0)
            var offset = 0
            do {
                while offset < input.count {
                    let count = min(input.count - offset, Int.random(in: 1...700, using: &random))
                    for event in try server.take(Array(input[offset..<offset + count])) {
                        switch event {
                        case .request(let stream, _, let body):
                            requests += 1
                            #expect(body.count <= limits.bodyBytes)
                            server.respond(stream: stream, HTTPResponse(status: .ok), body: body)
                        case .rejected(let stream, _, _):
                            server.respond(stream: stream, HTTPResponse(status: .badRequest), body: [])
                        case .aborted: break
                        }
                    }
                    _ = try server.output()
                    #expect(server.openStreams <= limits.concurrentStreams)
                    offset += count
                }
            } catch { errors += 1 }
            if server.isFinished { errors += 1 }
        }
        // The mutations neither break everything nor nothing.
        #expect(requests > 1000)
        #expect(errors > 10)
    }

    @Test func mutatedServersNeverCrashTheClient() throws {
        var recorded: [UInt8] = []
        let clock = ManualClock()
        do {
            let server = try HTTP2Server(limits: .init(), clock: clock)
            for event in try server.take(RawFrame.start + RawFrame.get(stream: 1) + RawFrame.get(stream: 3)) {
                guard case .request(let stream, _, _) = event else { continue }
                var response = HTTPResponse(status: .ok)
                response.headerFields[.contentType] = "application/json"
                server.respond(stream: stream, response, body: [UInt8](repeating: 9, count: 500))
            }
            recorded = try server.output()
        }
        var random = SplitMix(seed: 77)
        var answers = 0
        for _ in 0..<3000 * Fuzzer.factor {
            let client = try HTTP2Client(limits: .init())
            let request = HTTPRequest(method: .get, scheme: "https", authority: "a", path: "/")
            _ = client.request(request, body: [])
            _ = client.request(request, body: [], streaming: true)
            _ = try client.output()
            do {
                for event in try client.take(Self.mutate(recorded, with: &random)) {
                    if case .response = event { answers += 1 }
                }
                _ = try client.output()
            } catch { continue }
        }
        #expect(answers > 100)
    }
}
