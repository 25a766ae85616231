import Core
import HTTPTypes
import Services

extension ControlPlane {
    /// `GET /v1/events`: a page of what is kept, or, for who accepts `text/event-stream`, what happens from now on.
    func readEvents(_ context: RequestContext) async throws(Problem) -> ControlResponse {
        if EventStream.isWanted(by: context.request) { return try streamEvents(context) }
        let page = try context.page()
        let filter = try EventFilter(context, now: wallClock.now())
        var after: UInt64 = 0
        if let text = page.after {
            guard let id = UInt64(text) else {
                throw Problem(.invalidCursor, "the cursor is not one that this server gave", field: "cursor")
            }
            after = id
        }
        let events = events.events(after: after, limit: page.limit + 1, where: filter.takes).events
        return page.answer(events.map { (String($0.id), EventStream.json($0)) })
    }

    /// Server-sent events (WHATWG HTML, §9.2), until the client goes away, its certificate ends or the server stops.
    private func streamEvents(_ context: RequestContext) throws(Problem) -> ControlResponse {
        let request = context.request
        if let item = request.query.first(where: { !EventFilter.parameters.contains($0.name) }) {
            throw Problem(
                .invalidParameter, "a stream of events has no pages", field: item.name,
                expected: "\(EventFilter.parameters.joined(separator: ", ")), or Accept: application/json")
        }
        let filter = try EventFilter(context, now: wallClock.now())
        let place = try EventStream.place(of: request)
        guard let subscription = events.subscribe(after: place) else {
            throw Problem(
                .busy, "\(Limits.eventSubscribersMax) clients follow the events already",
                expected: "to list them: Accept: application/json")
        }
        let peer = request.peer
        var response = ControlResponse(
            status: .ok, headers: [.contentType: "text/event-stream"]
        ) { [self] writer in
            guard await writer.write(EventStream.opening) else { return }
            while let batch = await subscription.next() {
                guard isAllowed(peer) else { return }
                let text = EventStream.text(batch, where: filter.takes)
                if text.isEmpty { continue }
                guard await writer.write(text) else { return }
            }
        }
        response.heartbeat = EventStream.heartbeat
        return response
    }
}

/// How events are written.
enum EventStream {
    /// Shows at once that the stream is there; a client that loses it comes back after so many milliseconds.
    static let opening = Array(": events of this server\nretry: 2000\n\n".utf8)
    /// Keeps the connection from looking dead.
    static let heartbeat = Array(": nothing new\n\n".utf8)

    /// Whether the request accepts a stream by name, as every `EventSource` does.
    static func isWanted(by request: ControlRequest) -> Bool {
        (request.headers[.accept] ?? "").split(separator: ",").contains { range in
            let type = range.prefix { $0 != ";" }.filter { $0 != " " && $0 != "\t" }
            return type.lowercased() == "text/event-stream"
        }
    }

    /// The last event that the client knows; nil when it wants new ones only.
    static func place(of request: ControlRequest) throws(Problem) -> UInt64? {
        guard let text = request.headers[.lastEventID], !text.isEmpty else { return nil }
        guard text.utf8.count <= 20, text.utf8.allSatisfy({ (0x30...0x39).contains($0) }),
            let id = UInt64(text)
        else {
            throw Problem(
                .invalidHeader, "Last-Event-ID is not the id of an event", field: "Last-Event-ID",
                expected: "the id of the last event that you have; 0 for all that are kept")
        }
        return id
    }

    static func json(_ event: ServerEvent) -> JSONValue {
        var members: [String: JSONValue] = [
            "id": .integer(event.id), "at": .string(Timestamp.text(event.at)),
            "kind": .string(event.kind.rawValue), "subject": .string(event.subject),
            "message": .string(event.message),
        ]
        members["by"] = event.by.map { .string($0) }
        return .object(members)
    }

    /// The events that are wanted as the stream has them, after a word about those that are lost.
    static func text(
        _ batch: EventLog.Batch, where isWanted: (ServerEvent) -> Bool = { _ in true }
    ) -> [UInt8] {
        var bytes: [UInt8] = []
        if let missed = batch.missedUpTo {
            let data = JSONValue.object([
                "missedUpTo": .integer(missed),
                "message": .string("events were lost: they are no longer kept, or the server was restarted"),
            ])
            // It has no id: a client that comes back after it is told of the gap again.
            append(name: "gap", id: nil, data, to: &bytes)
        }
        for event in batch.events where isWanted(event) {
            append(name: event.kind.rawValue, id: event.id, json(event), to: &bytes)
        }
        return bytes
    }

    private static func append(name: String, id: UInt64?, _ data: JSONValue, to bytes: inout [UInt8]) {
        if let id { bytes += Array("id: \(id)\n".utf8) }
        bytes += Array("event: \(name)\ndata: ".utf8)
        // The text of a value has a line end at its end only, so that it is one line of data.
        bytes += data.text
        bytes.append(UInt8(ascii: "\n"))
    }
}

extension HTTPField.Name {
    /// `Last-Event-ID`: where a stream of events goes on.
    static let lastEventID = HTTPField.Name(known: "last-event-id")
}
