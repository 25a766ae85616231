import Simulation
import Testing

@testable import SluiceClient

/// Streams of events: where the pieces end makes no difference, and no event is longer than may be.
@Suite struct EventStreamFuzzTests {
    private static let fuzzer = Fuzzer(
        "streams of events",
        texts: [
            "id: 7\nevent: volume.fenced\ndata: {\"volume\":\"db\"}\n\n", ": kept alive\n\n",
            "data: a\r\ndata: b\r\n\r\n", "data\n\ndata:\n\n",
            "retry: 3\nid\ndata:x\n\n", "id: a\0b\ndata: 1\n\n", "event: x\rdata: y\r\rdata: z\n\n",
            "data: \u{e9}\u{1f600}\n\n",
        ],
        tokens: ["\r", "\n", "\r\n", "data:", "data", "id: ", "event: ", ":", "\n\n", "\0", "\u{feff}"])

    @Test func whereThePiecesEndMakesNoDifference() {
        var seen = 0
        Self.fuzzer.run(20_000) { input, place, random in
            var whole = EventStreamParser()
            let events = whole.take(input) ?? []
            seen += events.count
            var parser = EventStreamParser()
            var pieces: [EventStreamParser.Event] = []
            var rest = input[...]
            while !rest.isEmpty {
                let piece = rest.prefix(1 + random.below(5))
                rest = rest.dropFirst(piece.count)
                pieces += parser.take(Array(piece)) ?? []
            }
            #expect(pieces == events, "\(place)")
            for event in events {
                #expect(
                    !event.name.isEmpty && !event.name.utf8.contains(10) && !event.name.utf8.contains(13),
                    "\(place)")
                #expect(
                    event.id?.utf8.contains(0) != true && event.data.utf8.count <= input.count * 3, "\(place)"
                )
            }
        }
        #expect(seen > 5000)
    }

    @Test(arguments: ["data: ", "data", "id: ", ":", "x"]) func aStreamThatNeverEndsAnEventIsGivenUp(
        line: String
    ) {
        var parser = EventStreamParser()
        let piece = [UInt8](String(repeating: line + "\n", count: 1024).utf8)
        let isGivenUp = (0..<2048).contains { _ in parser.take(piece) == nil }
        #expect(isGivenUp)
    }
}
