import Core
import Wire

/// Frames are gathered in so many bytes.
private let stagingBytes = 64 << 10
/// Payloads up to this size are copied: that costs less than the records that a split would add.
private let copiedBytesMax = 8 << 10
/// So many bytes are sent before more is gathered.
private let earlyBytes = 48 << 10
/// Beyond this many bytes waiting, no more requests are taken.
private let waitingBytesMax = 8 << 20

/// The outgoing half of a channel: frames are gathered and written in as few pieces, which are records, as fit.
///
/// Small payloads are copied next to their headers; large ones are written from where they lie. One thread.
@safe
struct OutgoingFrames<Sink: FrameSink>: ~Copyable {
    let sink: Sink
    private let staging: UnsafeMutableRawPointer
    private var staged = 0
    private var failure: ChannelError?

    init(sink: Sink) {
        self.sink = sink
        unsafe staging = .allocate(byteCount: stagingBytes, alignment: 64)
    }

    deinit {
        unsafe staging.deallocate()
    }

    /// Whether another request may be appended.
    var hasRoom: Bool { sink.pendingBytes < waitingBytesMax }

    /// Whether so much waits that the server should begin with it.
    var isWorthSending: Bool { sink.pendingBytes >= earlyBytes }

    /// Appends a frame without payload.
    mutating func append(_ header: RequestHeader) {
        if staged + Limits.headerBytes > stagingBytes { seal() }
        unsafe header.store(staging + staged)
        staged += Limits.headerBytes
    }

    /// Appends a frame; its payload is written or copied before this returns.
    mutating func append(_ header: RequestHeader, _ payload: UnsafeRawBufferPointer) {
        append(header)
        guard let base = payload.baseAddress, payload.count > 0 else { return }
        if payload.count <= copiedBytesMax {
            if staged + payload.count > stagingBytes { seal() }
            unsafe (staging + staged).copyMemory(from: base, byteCount: payload.count)
            staged += payload.count
        } else {
            seal()
            unsafe write(payload)
        }
    }

    /// Appends a frame with a body of its own.
    mutating func append(_ header: RequestHeader, _ body: [UInt8]) {
        append(header)
        for start in stride(from: 0, to: body.count, by: copiedBytesMax) {
            let piece = body[start..<min(start + copiedBytesMax, body.count)]
            if staged + piece.count > stagingBytes { seal() }
            unsafe UnsafeMutableRawBufferPointer(start: staging + staged, count: piece.count).copyBytes(
                from: piece)
            staged += piece.count
        }
    }

    /// Writes what was gathered; fails with what went wrong since the last call.
    mutating func flush() throws(ChannelError) {
        seal()
        if let failure { throw failure }
    }

    private mutating func seal() {
        guard staged > 0 else { return }
        unsafe write(UnsafeRawBufferPointer(start: staging, count: staged))
        staged = 0
    }

    private mutating func write(_ bytes: UnsafeRawBufferPointer) {
        guard failure == nil else { return }
        do throws(ChannelError) {
            unsafe try sink.write(bytes)
        } catch {
            failure = error
        }
    }
}
