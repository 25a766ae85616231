import CNGHTTP2
import HTTPTypes

/// The kinds of frame that callers tell apart.
enum FrameKind: UInt8 {
    case data = 0
    case headers = 1
    case priority = 2
    case resetStream = 3
    case settings = 4
    case pushPromise = 5
    case ping = 6
    case goAway = 7
    case windowUpdate = 8
    case continuation = 9
}

/// The first nine bytes of a frame, as they came.
struct FrameHead {
    /// Nil: a type that this code does not know.
    var kind: FrameKind?
    var stream: Int32
    var length: Int
    var endsStream: Bool
    var isPadded: Bool
}

/// What is to be sent next of a message body.
enum BodyRead {
    /// So many bytes were copied; `isLast`: the body ends with them.
    case bytes(Int, isLast: Bool)
    /// Nothing yet; the session asks again after `resumeBody`.
    case later
    /// The stream is unknown: reset it.
    case gone
}

/// What a session reports while it takes in or gives out bytes. Calls come on the caller's thread, inside
/// `Session.receive` and `Session.appendOutput`; they must not call back into those two.
protocol SessionHandler: AnyObject {
    func sessionBeganFrame(_ head: FrameHead)
    func sessionBeganHeaders(stream: Int32)
    func sessionReceivedField(stream: Int32, name: UnsafeRawBufferPointer, value: UnsafeRawBufferPointer)
    func sessionEndedHeaders(stream: Int32, endsStream: Bool)
    func sessionReceivedBody(stream: Int32, bytes: UnsafeRawBufferPointer)
    func sessionEndedBody(stream: Int32)
    func sessionReceivedGoAway(lastStream: Int32, code: UInt32, message: [UInt8])
    func sessionClosedStream(_ stream: Int32, code: UInt32)
    func sessionReadsBody(stream: Int32, into buffer: UnsafeMutableRawBufferPointer) -> BodyRead
    func sessionSentFrame(stream: Int32, kind: FrameKind?, endsStream: Bool)
}

/// One nghttp2 session: the only place that calls the library. Confined to one thread.
@safe final class Session {
    enum Role { case server, client }

    /// Set by the owner right after it has made the session; the owner outlives it.
    weak var handler: (any SessionHandler)?

    private let pointer: OpaquePointer
    /// Most bytes given to the library between two looks at the budgets.
    private static let sliceBytes = 4096

    init(role: Role, limits: HTTP2Limits) throws(HTTP2Error) {
        guard let callbacks = unsafe Self.makeCallbacks() else { throw .outOfMemory }
        defer { unsafe nghttp2_session_callbacks_del(callbacks) }
        var option: OpaquePointer?
        guard unsafe nghttp2_option_new(&option) == 0, let option = unsafe option else { throw .outOfMemory }
        defer { unsafe nghttp2_option_del(option) }
        unsafe nghttp2_option_set_no_closed_streams(option, 1)
        unsafe nghttp2_option_set_max_outbound_ack(option, max(1, limits.outputFrames))
        unsafe nghttp2_option_set_server_fallback_rfc7540_priorities(option, 0)
        unsafe nghttp2_option_set_peer_max_concurrent_streams(option, 100)
        var session: OpaquePointer?
        let result =
            unsafe role == .server
            ? nghttp2_session_server_new2(&session, callbacks, nil, option)
            : nghttp2_session_client_new2(&session, callbacks, nil, option)
        guard result == 0, let session = unsafe session else { throw .outOfMemory }
        unsafe self.pointer = session
        // SAFETY: the library calls back only inside calls made on `self`, and `deinit` ends the session.
        unsafe nghttp2_session_set_user_data(session, Unmanaged.passUnretained(self).toOpaque())
        try submitSettings(role: role, limits: limits)
    }

    deinit { unsafe nghttp2_session_del(pointer) }

    // MARK: Bytes

    /// Gives bytes to the library, in slices; `goOn` is asked before each slice.
    func receive(_ bytes: UnsafeRawBufferPointer, while goOn: () -> Bool) throws(HTTP2Error) {
        guard let base = bytes.baseAddress else { return }
        var offset = 0
        while offset < bytes.count, goOn() {
            let count = min(Self.sliceBytes, bytes.count - offset)
            let slice = unsafe (base + offset).assumingMemoryBound(to: UInt8.self)
            let taken = unsafe nghttp2_session_mem_recv(pointer, slice, count)
            guard taken >= 0 else { throw .broken(Self.describe(Int32(taken))) }
            offset += count
        }
    }

    /// Appends what is to be sent until `output` holds at least `limit` bytes; true when more is waiting.
    func appendOutput(to output: inout [UInt8], limit: Int) throws(HTTP2Error) -> Bool {
        while output.count < limit {
            var data: UnsafePointer<UInt8>?
            let count = unsafe nghttp2_session_mem_send(pointer, &data)
            guard count >= 0 else { throw .broken(Self.describe(Int32(count))) }
            guard count > 0, let data = unsafe data else { return false }
            unsafe output.append(contentsOf: UnsafeBufferPointer(start: data, count: count))
        }
        return unsafe nghttp2_session_want_write(pointer) != 0
    }

    /// False when the library expects neither to read nor to write any more.
    var isActive: Bool {
        unsafe nghttp2_session_want_read(pointer) != 0 || nghttp2_session_want_write(pointer) != 0
    }

    /// Frames waiting to be sent that are not body bytes.
    var outputFrames: Int { unsafe nghttp2_session_get_outbound_queue_size(pointer) }

    // MARK: Submitting

    /// Starts an answer; false when the stream is gone.
    func respond(stream: Int32, head: HTTP2HeadBlock, hasBody: Bool) -> Bool {
        unsafe head.withFields { fields, count in
            var provider = unsafe Self.bodyProvider
            return unsafe withUnsafePointer(to: &provider) { provider in
                unsafe nghttp2_submit_response(pointer, stream, fields, count, hasBody ? provider : nil) == 0
            }
        }
    }

    /// Sends an interim head such as 100; false when the stream is gone.
    func respondInterim(stream: Int32, head: HTTP2HeadBlock) -> Bool {
        unsafe head.withFields { fields, count in
            let none = UInt8(NGHTTP2_FLAG_NONE.rawValue)
            return unsafe nghttp2_submit_headers(pointer, none, stream, nil, fields, count, nil) == 0
        }
    }

    /// Starts a request; nil when no stream can be opened on this connection any more.
    func request(head: HTTP2HeadBlock, hasBody: Bool) -> Int32? {
        unsafe head.withFields { fields, count in
            var provider = unsafe Self.bodyProvider
            return unsafe withUnsafePointer(to: &provider) { provider in
                let stream = unsafe nghttp2_submit_request(
                    pointer, nil, fields, count, hasBody ? provider : nil, nil)
                return stream > 0 ? stream : nil
            }
        }
    }

    /// Says that more of a body can be read.
    func resumeBody(stream: Int32) { _ = unsafe nghttp2_session_resume_data(pointer, stream) }

    /// Ends one stream.
    func reset(stream: Int32, code: HTTP2ErrorCode) {
        let none = UInt8(NGHTTP2_FLAG_NONE.rawValue)
        _ = unsafe nghttp2_submit_rst_stream(pointer, none, stream, code.rawValue)
    }

    /// Tells the peer that no stream after those seen so far will be served.
    func goAway(code: HTTP2ErrorCode) {
        let none = UInt8(NGHTTP2_FLAG_NONE.rawValue)
        let last = unsafe nghttp2_session_get_last_proc_stream_id(pointer)
        _ = unsafe nghttp2_submit_goaway(pointer, none, last, code.rawValue, nil, 0)
    }

    /// Tells the peer why, and ends the connection with what is already queued.
    func terminate(code: HTTP2ErrorCode) {
        _ = unsafe nghttp2_session_terminate_session(pointer, code.rawValue)
    }

    /// True when the other side has ended its half of the stream, or the stream is gone.
    func isRemoteClosed(stream: Int32) -> Bool {
        unsafe nghttp2_session_get_stream_remote_close(pointer, stream) != 0
    }

    private func submitSettings(role: Role, limits: HTTP2Limits) throws(HTTP2Error) {
        func entry(_ id: nghttp2_settings_id, _ value: Int) -> nghttp2_settings_entry {
            nghttp2_settings_entry(settings_id: Int32(id.rawValue), value: UInt32(clamping: value))
        }
        var entries = [
            entry(
                NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, min(max(1, limits.streamWindowBytes), Int(Int32.max))),
            entry(NGHTTP2_SETTINGS_MAX_HEADER_LIST_SIZE, limits.headerBytes),
            entry(NGHTTP2_SETTINGS_ENABLE_PUSH, 0),
        ]
        if role == .server {
            entries.append(entry(NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS, limits.concurrentStreams))
        }
        let none = UInt8(NGHTTP2_FLAG_NONE.rawValue)
        guard unsafe nghttp2_submit_settings(pointer, none, entries, entries.count) == 0 else {
            throw .outOfMemory
        }
        let window = Int32(clamping: max(65_535, limits.connectionWindowBytes))
        guard unsafe nghttp2_session_set_local_window_size(pointer, none, 0, window) == 0 else {
            throw .outOfMemory
        }
    }

    private static func describe(_ code: Int32) -> String { unsafe String(cString: nghttp2_strerror(code)) }
}

// MARK: - Callbacks

extension Session {
    private static let bodyProvider = unsafe nghttp2_data_provider(
        source: nghttp2_data_source(fd: 0),
        read_callback: { _, stream, buffer, length, flags, _, context in
            guard let buffer = unsafe buffer, let flags = unsafe flags,
                let handler = unsafe Session.handler(context)
            else {
                return Int(NGHTTP2_ERR_CALLBACK_FAILURE.rawValue)
            }
            let room = unsafe UnsafeMutableRawBufferPointer(start: buffer, count: length)
            switch unsafe handler.sessionReadsBody(stream: stream, into: room) {
            case .bytes(let count, let isLast):
                if isLast { unsafe flags.pointee |= UInt32(NGHTTP2_DATA_FLAG_EOF.rawValue) }
                return count
            case .later: return Int(NGHTTP2_ERR_DEFERRED.rawValue)
            case .gone: return Int(NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE.rawValue)
            }
        })

    private static func handler(_ context: UnsafeMutableRawPointer?) -> (any SessionHandler)? {
        guard let context = unsafe context else { return nil }
        return unsafe Unmanaged<Session>.fromOpaque(context).takeUnretainedValue().handler
    }

    private static func endsStream(_ head: nghttp2_frame_hd) -> Bool {
        head.flags & UInt8(NGHTTP2_FLAG_END_STREAM.rawValue) != 0
    }

    private static func makeCallbacks() -> OpaquePointer? {
        var made: OpaquePointer?
        guard unsafe nghttp2_session_callbacks_new(&made) == 0, let callbacks = unsafe made else {
            return nil
        }
        unsafe setHeaderCallbacks(callbacks)
        unsafe setFrameCallbacks(callbacks)
        unsafe nghttp2_session_callbacks_set_on_data_chunk_recv_callback(callbacks) {
            _, _, stream, data, count, context in
            unsafe Session.handler(context)?.sessionReceivedBody(
                stream: stream, bytes: UnsafeRawBufferPointer(start: data, count: count))
            return 0
        }
        unsafe nghttp2_session_callbacks_set_on_stream_close_callback(callbacks) { _, stream, code, context in
            unsafe Session.handler(context)?.sessionClosedStream(stream, code: code)
            return 0
        }
        return unsafe callbacks
    }

    private static func setHeaderCallbacks(_ callbacks: OpaquePointer) {
        unsafe nghttp2_session_callbacks_set_on_begin_headers_callback(callbacks) { _, frame, context in
            guard let frame = unsafe frame else { return 0 }
            unsafe Session.handler(context)?.sessionBeganHeaders(stream: frame.pointee.hd.stream_id)
            return 0
        }
        unsafe nghttp2_session_callbacks_set_on_header_callback(callbacks) {
            _, frame, name, nameCount, value, valueCount, _, context in
            guard let frame = unsafe frame else { return 0 }
            unsafe Session.handler(context)?.sessionReceivedField(
                stream: frame.pointee.hd.stream_id,
                name: UnsafeRawBufferPointer(start: name, count: nameCount),
                value: UnsafeRawBufferPointer(start: value, count: valueCount))
            return 0
        }
        unsafe nghttp2_session_callbacks_set_on_invalid_header_callback(callbacks) { _, _, _, _, _, _, _, _ in
            NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE.rawValue
        }
    }

    private static func setFrameCallbacks(_ callbacks: OpaquePointer) {
        unsafe nghttp2_session_callbacks_set_on_begin_frame_callback(callbacks) { _, head, context in
            guard let head = unsafe head?.pointee else { return 0 }
            let padded = head.flags & UInt8(NGHTTP2_FLAG_PADDED.rawValue) != 0
            unsafe Session.handler(context)?.sessionBeganFrame(
                FrameHead(
                    kind: FrameKind(rawValue: head.type), stream: head.stream_id, length: head.length,
                    endsStream: Session.endsStream(head), isPadded: padded))
            return 0
        }
        unsafe nghttp2_session_callbacks_set_on_frame_recv_callback(callbacks) { _, frame, context in
            guard let frame = unsafe frame, let handler = unsafe Session.handler(context) else { return 0 }
            let head = unsafe frame.pointee.hd
            switch FrameKind(rawValue: head.type) {
            case .data:
                if Session.endsStream(head) { handler.sessionEndedBody(stream: head.stream_id) }
            case .headers:
                handler.sessionEndedHeaders(stream: head.stream_id, endsStream: Session.endsStream(head))
            case .goAway:
                let goAway = unsafe frame.pointee.goaway
                let text = unsafe UnsafeBufferPointer(
                    start: goAway.opaque_data, count: goAway.opaque_data_len)
                unsafe handler.sessionReceivedGoAway(
                    lastStream: goAway.last_stream_id, code: goAway.error_code,
                    message: Array(text.prefix(256)))
            default: break
            }
            return 0
        }
        unsafe nghttp2_session_callbacks_set_on_frame_send_callback(callbacks) { _, frame, context in
            guard let head = unsafe frame?.pointee.hd else { return 0 }
            unsafe Session.handler(context)?.sessionSentFrame(
                stream: head.stream_id, kind: FrameKind(rawValue: head.type),
                endsStream: Session.endsStream(head))
            return 0
        }
    }
}
