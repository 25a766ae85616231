import Core
import HTTPTypes

@testable import HTTP2

/// A clock that goes when it is told to. Used by one test on one thread.
final class ManualClock: MonotonicClock, @unchecked Sendable {
    // SAFETY: each test makes its own and stays on its own thread.
    var nanoseconds: UInt64 = 1_000_000_000
    func now() -> UInt64 { nanoseconds }
}

extension HTTP2Server {
    /// What a call of `receive` came to, gathered.
    func take(_ bytes: [UInt8]) throws(HTTP2Error) -> [HTTP2ServerEvent] {
        var events: [HTTP2ServerEvent] = []
        try unsafe bytes.withBytes { (bytes) throws(HTTP2Error) in
            try unsafe receive(bytes) { events.append($0) }
        }
        return events
    }

    func output() throws(HTTP2Error) -> [UInt8] {
        var bytes: [UInt8] = []
        while try appendOutput(to: &bytes, limit: bytes.count + 65536) {}
        return bytes
    }
}

extension HTTP2Client {
    func take(_ bytes: [UInt8]) throws(HTTP2Error) -> [HTTP2ClientEvent] {
        var events: [HTTP2ClientEvent] = []
        try unsafe bytes.withBytes { (bytes) throws(HTTP2Error) in
            try unsafe receive(bytes) { events.append($0) }
        }
        return events
    }

    func output() throws(HTTP2Error) -> [UInt8] {
        var bytes: [UInt8] = []
        while try appendOutput(to: &bytes, limit: bytes.count + 65536) {}
        return bytes
    }
}

/// A client and a server of this module that talk in memory.
struct Pair {
    let clock = ManualClock()
    let client: HTTP2Client
    let server: HTTP2Server
    var serverEvents: [HTTP2ServerEvent] = []
    var clientEvents: [HTTP2ClientEvent] = []
    /// Everything that the client sent, for replay.
    var clientBytes: [UInt8] = []

    init(serverLimits: HTTP2Limits = .init(), clientLimits: HTTP2Limits = .init()) throws {
        client = try HTTP2Client(limits: clientLimits)
        server = try HTTP2Server(limits: serverLimits, clock: clock)
    }

    /// Carries bytes until both sides are silent.
    mutating func run() throws {
        while true {
            let fromClient = try client.output()
            clientBytes += fromClient
            serverEvents += try server.take(fromClient)
            let fromServer = try server.output()
            server.deliverPendingEvents { serverEvents.append($0) }
            clientEvents += try client.take(fromServer)
            if fromClient.isEmpty && fromServer.isEmpty { return }
        }
    }

    /// The requests that the server has seen, oldest first; forgets them.
    mutating func takeRequests() -> [(stream: Int32, request: HTTPRequest, body: [UInt8])] {
        defer { serverEvents.removeAll() }
        return serverEvents.compactMap { event in
            if case .request(let stream, let request, let body) = event {
                (stream, request, body)
            } else {
                nil
            }
        }
    }

    /// The whole answers that the client has seen; forgets every event.
    mutating func takeResponses() -> [(stream: Int32, response: HTTPResponse, body: [UInt8])] {
        defer { clientEvents.removeAll() }
        return clientEvents.compactMap { event in
            if case .response(let stream, let response, let body) = event {
                (stream, response, body)
            } else {
                nil
            }
        }
    }
}

/// Frames made by hand, for what a proper client never sends.
enum RawFrame {
    static let preface = Array("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".utf8)
    static let settings = frame(type: 4, flags: 0, stream: 0, [])
    static let start = preface + settings

    static func frame(type: UInt8, flags: UInt8, stream: UInt32, _ payload: [UInt8]) -> [UInt8] {
        let count = UInt32(payload.count)
        let head: [UInt8] = [
            UInt8(truncatingIfNeeded: count >> 16), UInt8(truncatingIfNeeded: count >> 8),
            UInt8(truncatingIfNeeded: count), type, flags,
        ]
        return head + bigEndian(stream) + payload
    }

    static func bigEndian(_ value: UInt32) -> [UInt8] {
        [24, 16, 8, 0].map { UInt8(truncatingIfNeeded: value >> $0) }
    }

    /// A literal field without indexing; name and value shorter than 127 bytes.
    static func field(_ name: String, _ value: String) -> [UInt8] {
        [0, UInt8(name.utf8.count)] + Array(name.utf8) + [UInt8(value.utf8.count)] + Array(value.utf8)
    }

    static let getFields: [UInt8] = [0x82, 0x84, 0x87] + field(":authority", "a")

    /// HEADERS of `GET /` (END_HEADERS, and END_STREAM when `ends`), with more fields.
    static func get(stream: UInt32, ends: Bool = true, more: [UInt8] = []) -> [UInt8] {
        frame(type: 1, flags: ends ? 5 : 4, stream: stream, getFields + more)
    }

    static func reset(stream: UInt32, code: UInt32 = 8) -> [UInt8] {
        frame(type: 3, flags: 0, stream: stream, bigEndian(code))
    }

    struct Seen: Equatable {
        var type: UInt8
        var flags: UInt8
        var stream: UInt32
        var payload: [UInt8]
    }

    /// The frames in what a server sent.
    static func parse(_ bytes: [UInt8]) -> [Seen] {
        var frames: [Seen] = []
        var offset = 0
        while offset + 9 <= bytes.count {
            let count = bytes[offset..<offset + 3].reduce(0) { $0 << 8 | Int($1) }
            let stream = bytes[offset + 5..<offset + 9].reduce(UInt32(0)) { $0 << 8 | UInt32($1) }
            let end = min(bytes.count, offset + 9 + count)
            frames.append(
                Seen(
                    type: bytes[offset + 3], flags: bytes[offset + 4], stream: stream,
                    payload: Array(bytes[offset + 9..<end])))
            offset = end
        }
        return frames
    }

    /// The error code of the GOAWAY among what a server sent.
    static func goAwayCode(_ bytes: [UInt8]) -> HTTP2ErrorCode? {
        parse(bytes).first { $0.type == 7 }.map { code($0.payload.dropFirst(4)) }
    }

    /// The error code of the RST_STREAM for a stream among what a server sent.
    static func resetCode(_ bytes: [UInt8], stream: UInt32) -> HTTP2ErrorCode? {
        parse(bytes).first { $0.type == 3 && $0.stream == stream }.map { code($0.payload[...]) }
    }

    private static func code(_ bytes: ArraySlice<UInt8>) -> HTTP2ErrorCode {
        HTTP2ErrorCode(rawValue: bytes.prefix(4).reduce(UInt32(0)) { $0 << 8 | UInt32($1) })
    }
}
