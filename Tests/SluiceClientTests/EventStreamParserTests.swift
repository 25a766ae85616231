import Testing

@testable import SluiceClient

@Suite struct EventStreamParserTests {
    private func parse(_ text: String, piece: Int = .max) -> [EventStreamParser.Event]? {
        var parser = EventStreamParser()
        var events: [EventStreamParser.Event] = []
        var rest = Array(text.utf8)[...]
        while !rest.isEmpty {
            guard let more = parser.take(Array(rest.prefix(piece))) else { return nil }
            events += more
            rest = rest.dropFirst(piece)
        }
        return events
    }

    @Test(arguments: [1, 2, 3, 7, .max]) func anEventIsFoundHoweverItIsCut(piece: Int) {
        let text =
            ": hello\nretry: 2000\n\nid: 7\nevent: gap\ndata: {\"a\":1}\n\n: still here\n\nid: 8\ndata:x\n\n"
        #expect(
            parse(text, piece: piece) == [
                .init(id: "7", name: "gap", data: "{\"a\":1}"), .init(id: "8", name: "message", data: "x"),
            ])
    }

    @Test(arguments: ["\n", "\r", "\r\n"]) func anyLineEndWillDo(end: String) {
        let text = ["id: 1", "data: a", "data: b", "", "data: c", "", ""].joined(separator: end)
        #expect(
            parse(text, piece: 1) == [
                .init(id: "1", name: "message", data: "a\nb"), .init(id: "1", name: "message", data: "c"),
            ])
    }

    @Test func whatIsNotEndedOrHasNoDataIsNoEvent() {
        #expect(parse("id: 1\nevent: x\n\ndata: unfinished\n") == [])
        #expect(parse("nonsense\n:::\n\n\n\n") == [])
    }

    @Test func anEventWithoutEndIsRefused() {
        let endless = String(repeating: "data: x\n", count: EventStreamParser.eventBytesMax / 7 + 1)
        #expect(parse(endless) == nil)
        #expect(parse(String(repeating: "x", count: EventStreamParser.eventBytesMax + 1)) == nil)
    }
}
