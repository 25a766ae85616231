import Simulation
import Testing

@testable import ControlPlane

/// Targets of requests: what is taken has one reading, which is that of its bytes.
@Suite struct RequestTargetFuzzTests {
    private static let fuzzer = Fuzzer(
        "request targets",
        texts: [
            "/", "/v1/volumes", "/v1/volumes/db/markers/monday?since=a&limit=10", "/v1/nodes/web-1/enroll?",
            "/v1/events?after=7&kind=a%20b+c&kind=", "/v1//volumes/", "/%76%31/volumes/a%2Fb",
            "/v1/é/%C3%A9?%C3%A9=é",
            // A mark joins itself to the character before, which is not that character any more.
            "/\u{301}v1/volumes", "/v1/\u{301}volumes", "/v1?a=\u{301}b&\u{301}c=d", "/v1?\u{301}a",
        ],
        tokens: [
            "%00", "%", "%2", "%2f", "%ff", "%C3", "+", "&", "=", "/", "?", "#", "..", "\u{301}", "\0",
            "\r\n", "//",
        ])

    @Test func whatIsTakenHasOneReading() {
        var taken = 0
        Self.fuzzer.run(20_000) { input, place, _ in
            let text = String(decoding: input, as: UTF8.self)
            guard let target = RequestTarget(text) else { return }
            taken += 1
            let sides = text.utf8.split(
                separator: UInt8(ascii: "?"), maxSplits: 1, omittingEmptySubsequences: false)
            #expect(Array(target.path.utf8) == Array(sides[0]), "\(place): \(text)")
            let slashes = sides[0].count(where: { $0 == UInt8(ascii: "/") })
            let isEnded = sides[0].last == UInt8(ascii: "/")
            #expect(target.segments.count == slashes - (isEnded ? 1 : 0), "\(place): \(text)")
            let items = sides.count > 1 ? sides[1].split(separator: UInt8(ascii: "&")).count : 0
            #expect(target.query.count == items, "\(place): \(text)")
            for piece in target.segments + target.query.flatMap({ [$0.name, $0.value] }) {
                #expect(!piece.utf8.contains(0), "\(place): \(text)")
            }
            let again = RequestTarget(Self.written(target))
            #expect(again?.segments == target.segments && again?.query == target.query, "\(place): \(text)")
        }
        #expect(taken > 1000)
    }

    /// The target with every byte as a number: it has the same reading.
    private static func written(_ target: RequestTarget) -> String {
        let path = target.segments.map { "/" + escaped($0) }.joined() + "/"
        let query = target.query.map { escaped($0.name) + "=" + escaped($0.value) }.joined(separator: "&")
        return path + "?" + query
    }

    private static func escaped(_ text: String) -> String {
        text.utf8.map { "%" + ($0 < 16 ? "0" : "") + String($0, radix: 16) }.joined()
    }
}
