import Core
import TLS
import Wire

/// The outgoing half of a channel: frames are gathered and encrypted in as few records as fit.
///
/// Small payloads are copied next to their headers; large ones are encrypted from where they lie. One thread.
@safe
struct OutgoingFrames: ~Copyable {
    private static let stagingBytes = 64 << 10
    /// Payloads up to this size are copied: that costs less than the records that a split would add.
    private static let copiedBytesMax = 8 << 10
    /// So many bytes are sent before more is gathered.
    private static let earlyBytes = 48 << 10
    /// Beyond this many bytes waiting, no more requests are taken.
    private static let waitingBytesMax = 8 << 20

    let tls: TLSConnection
    private let staging: UnsafeMutableRawPointer
    private var staged = 0
    private var sending: OutputBuffer?
    /// How much of `sending` the socket has taken.
    private var sent = 0
    private var failure: TLSError?

    init(tls: TLSConnection) {
        self.tls = tls
        unsafe staging = .allocate(byteCount: OutgoingFrames.stagingBytes, alignment: 64)
    }

    deinit {
        unsafe staging.deallocate()
    }

    /// Whether another request may be appended.
    var hasRoom: Bool { tls.output.pendingBytes < OutgoingFrames.waitingBytesMax }

    /// Whether so much waits, and nothing is being sent, that the server should begin with it.
    var isWorthSending: Bool { sending == nil && tls.output.pendingBytes >= OutgoingFrames.earlyBytes }

    /// Whether a send is in flight.
    var isSending: Bool { sending != nil }

    /// The bytes of the send in flight.
    var sendingBytes: UnsafeRawBufferPointer {
        switch sending {
        case .some(let buffer): unsafe UnsafeRawBufferPointer(rebasing: buffer.bytes[sent...])
        case .none: unsafe UnsafeRawBufferPointer(start: nil, count: 0)
        }
    }

    /// Appends a frame without payload.
    mutating func append(_ header: RequestHeader) {
        if staged + Limits.headerBytes > OutgoingFrames.stagingBytes { seal() }
        unsafe header.store(staging + staged)
        staged += Limits.headerBytes
    }

    /// Appends a frame; its payload is encrypted or copied before this returns.
    mutating func append(_ header: RequestHeader, _ payload: UnsafeRawBufferPointer) {
        append(header)
        guard let base = payload.baseAddress, payload.count > 0 else { return }
        if payload.count <= OutgoingFrames.copiedBytesMax {
            if staged + payload.count > OutgoingFrames.stagingBytes { seal() }
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
        for start in stride(from: 0, to: body.count, by: OutgoingFrames.copiedBytesMax) {
            let piece = body[start..<min(start + OutgoingFrames.copiedBytesMax, body.count)]
            if staged + piece.count > OutgoingFrames.stagingBytes { seal() }
            unsafe UnsafeMutableRawBufferPointer(start: staging + staged, count: piece.count).copyBytes(
                from: piece)
            staged += piece.count
        }
    }

    /// Encrypts what was gathered; fails with what went wrong since the last call.
    mutating func flush() throws(TLSError) {
        seal()
        if let failure { throw failure }
    }

    /// Takes what is encrypted for a send, unless one is in flight; false when there is nothing to send.
    mutating func beginSend() -> Bool {
        guard sending == nil, tls.output.pendingBytes > 0 else { return false }
        sending = tls.takeOutput()
        return true
    }

    /// Of the send in flight, `count` bytes went out already. False when that was not all: the rest is still to be sent.
    mutating func noteSent(_ count: Int) -> Bool {
        sent += count
        return unsafe sendingBytes.isEmpty && endSend(0)
    }

    /// Ends the send in flight: `count` bytes more went out. False when that was not all.
    mutating func endSend(_ count: Int) -> Bool {
        guard let buffer = sending.take() else { return false }
        let isAll = sent + count == buffer.count
        sent = 0
        tls.giveBack(buffer)
        return isAll
    }

    private mutating func seal() {
        guard staged > 0 else { return }
        unsafe write(UnsafeRawBufferPointer(start: staging, count: staged))
        staged = 0
    }

    private mutating func write(_ bytes: UnsafeRawBufferPointer) {
        guard failure == nil else { return }
        do throws(TLSError) {
            unsafe try tls.write(bytes)
        } catch {
            failure = error
        }
    }
}
