/// Takes a stream of server-sent events apart (WHATWG HTML, §9.2.6). Pieces may end anywhere.
public struct EventStreamParser: Sendable {
    /// One event.
    public struct Event: Sendable, Hashable {
        /// The id that a later request gives as `Last-Event-ID`; nil before the first event that has one.
        public var id: String?
        /// The name; `message` when the server gave none.
        public var name: String
        /// The data, lines joined by a line feed.
        public var data: String
    }

    /// The most bytes of one event.
    public static let eventBytesMax = 1 << 20

    private var line: [UInt8] = []
    private var lastWasReturn = false
    private var id: String?
    private var name = ""
    private var data: [String] = []
    private var eventBytes = 0

    /// A parser at the beginning of a stream.
    public init() {}

    /// Takes the next piece and returns the events that it completes; nil when an event is longer than
    /// `eventBytesMax`.
    public mutating func take(_ bytes: [UInt8]) -> [Event]? {
        var events: [Event] = []
        for byte in bytes {
            let endsReturn = lastWasReturn && byte == UInt8(ascii: "\n")
            lastWasReturn = byte == UInt8(ascii: "\r")
            if endsReturn { continue }
            guard lastWasReturn || byte == UInt8(ascii: "\n") else {
                eventBytes += 1
                guard eventBytes <= Self.eventBytesMax else { return nil }
                line.append(byte)
                continue
            }
            if let event = endLine() { events.append(event) }
        }
        return events
    }

    private mutating func endLine() -> Event? {
        defer { line.removeAll(keepingCapacity: true) }
        guard !line.isEmpty else { return endEvent() }
        let parts = line.split(separator: UInt8(ascii: ":"), maxSplits: 1, omittingEmptySubsequences: false)
        var value = parts.count > 1 ? parts[1] : []
        if value.first == UInt8(ascii: " ") { value = value.dropFirst() }
        let text = String(decoding: value, as: UTF8.self)
        switch String(decoding: parts[0], as: UTF8.self) {
        case "event": name = text
        case "data": data.append(text)
        case "id" where !value.contains(0): id = text
        default: break  // Comments, `retry` and what nobody knows.
        }
        return nil
    }

    private mutating func endEvent() -> Event? {
        defer {
            name = ""
            data = []
            eventBytes = 0
        }
        guard !data.isEmpty else { return nil }
        return Event(id: id, name: name.isEmpty ? "message" : name, data: data.joined(separator: "\n"))
    }
}
