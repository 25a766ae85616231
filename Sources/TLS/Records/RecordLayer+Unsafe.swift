import COpenSSL
import Core
import Glibc

/// The records of an established TLS 1.3 connection (RFC 8446 §5): application data, alerts, key updates.
///
/// OpenSSL does the handshake and all cryptography. Its own record layer copies every byte twice in each
/// direction and costs about as much again as a small record's encryption, so records are made and opened
/// here: ciphertext is decrypted from where it arrived to where the caller wants it, and plaintext is
/// encrypted from where it lies to where it is sent from.
@safe
final class RecordLayer {
    /// Content of one record.
    static let contentBytesMax = 16 << 10
    /// Body of one record: content, inner type, padding, tag.
    private static let bodyBytesMax = contentBytesMax + 256
    /// Records protected with one key before it is replaced; AES-GCM allows 2^24.5 (RFC 8446 §5.5).
    static let recordsPerKeyMax: UInt64 = 1 << 23
    /// Records without application data that a peer may send one after the other.
    private static let recordsWithoutDataMax = 32
    /// A message after the handshake, such as a session ticket that nobody asked for.
    private static let handshakeMessageBytesMax = 20 << 10

    private let input: TLSInput
    private let output: TLSOutput
    private let pool: TLSBufferPool
    private let reader: RecordCipher
    private let writer: RecordCipher
    private let isServer: Bool
    private let recordsPerKey: UInt64

    /// Decrypted bytes that did not fit into the caller's buffer.
    private var kept = unsafe UnsafeMutableRawBufferPointer(start: nil, count: 0)
    private var keptStart = 0
    private var keptEnd = 0
    private var handshakeBytes: [UInt8] = []
    private var recordsWithoutData = 0
    private var owesKeyUpdate = false
    private var state = State.open

    private enum State {
        case open
        case peerClosed
        case failed(TLSError)
    }

    private(set) var isWriteClosed = false

    init(
        transport: CipherTransport, reader: RecordCipher, writer: RecordCipher, isServer: Bool,
        recordsPerKey: UInt64 = recordsPerKeyMax
    ) {
        input = transport.input
        output = transport.output
        pool = transport.pool
        self.reader = reader
        self.writer = writer
        self.isServer = isServer
        self.recordsPerKey = recordsPerKey
    }

    deinit {
        unsafe pool.give(kept)
    }

    /// Bytes that were decrypted and not read yet.
    var keptBytes: Int { keptEnd - keptStart }

    var hasFailed: Bool {
        if case .failed = state { true } else { false }
    }

    // MARK: Reading

    func read(into buffer: UnsafeMutableRawBufferPointer) throws(TLSError) -> Int? {
        guard let base = buffer.baseAddress else { preconditionFailure("a buffer without memory") }
        var total = keptStart < keptEnd ? unsafe takeKept(buffer) : 0
        while total < buffer.count {
            guard case .open = state else { break }
            switch input.nextRecord(bodyBytesMax: Self.bodyBytesMax) {
            case .complete(let record, let bodyBytes):
                let room = unsafe UnsafeMutableRawBufferPointer(
                    start: base + total, count: buffer.count - total)
                total += unsafe open(record, bodyBytes: bodyBytes, into: room)
                input.use(RecordCipher.headerBytes + bodyBytes)
            case .incomplete:
                if total > 0 { return total }
                input.endLoan()
                return nil
            case .tooLong: fail(.recordOverflow, "a record is too long")
            }
        }
        if total > 0 { return total }
        input.discard()
        if case .failed(let error) = state { throw error }
        return 0
    }

    /// Opens one record; returns how many bytes of application data went to `room`. Whatever does not fit is
    /// kept for the next call. Failures and the end of the stream change the state.
    private func open(
        _ record: UnsafePointer<UInt8>, bodyBytes: Int, into room: UnsafeMutableRawBufferPointer
    ) -> Int {
        guard unsafe record[0] == RecordType.applicationData else {
            return fail(.unexpectedMessage, "a record that is not encrypted")
        }
        let innerBytes = bodyBytes - RecordCipher.tagBytes
        guard innerBytes > 0 else { return fail(.badRecordMAC, "a record that is too short") }
        let direct = min(innerBytes, room.count)
        let first = unsafe room.baseAddress!.assumingMemoryBound(to: UInt8.self)
        let rest = innerBytes - direct
        if rest > 0 { keep(rest) }
        let second = unsafe kept.baseAddress?.assumingMemoryBound(to: UInt8.self)
        guard
            unsafe reader.open(record, bodyBytes: bodyBytes, first: first, firstCount: direct, second: second)
        else {
            dropKept()
            return fail(.badRecordMAC, "a record is not authentic")
        }
        var end = innerBytes - 1
        var type = unsafe end >= direct ? second![end - direct] : first[end]
        while type == 0, end > 0 {
            end -= 1
            type = unsafe end >= direct ? second![end - direct] : first[end]
        }
        // With its type and padding it is one byte longer at most (RFC 8446 §5.4).
        guard end <= Self.contentBytesMax, innerBytes <= Self.contentBytesMax + 1 else {
            return fail(.recordOverflow, "a record is too long")
        }
        if type == RecordType.applicationData, handshakeBytes.isEmpty {
            if end > 0 { recordsWithoutData = 0 } else { countRecordWithoutData() }
            keptEnd = max(end - direct, 0)
            if keptEnd == 0, rest > 0 { dropKept() }
            return min(end, direct)
        }
        var content = unsafe Array(UnsafeRawBufferPointer(start: first, count: min(end, direct)))
        if end > direct { unsafe content += UnsafeRawBufferPointer(start: second, count: end - direct) }
        dropKept()
        countRecordWithoutData()
        receive(type: type, content)
        return 0
    }

    /// Handles a record that is no application data.
    private func receive(type: UInt8, _ content: [UInt8]) {
        guard !hasFailed else { return }
        switch type {
        case RecordType.alert where handshakeBytes.isEmpty && content.count == 2:
            receiveAlert(content[1])
        case RecordType.handshake where !content.isEmpty:
            handshakeBytes += content
            receiveHandshakeMessages()
        default:
            fail(.unexpectedMessage, "a record of an unexpected type")
        }
    }

    private func receiveAlert(_ description: UInt8) {
        switch description {
        case Alert.closeNotify.rawValue: state = .peerClosed
        case Alert.userCanceled.rawValue: break
        default:
            state = .failed(.peerAlert(Alert.name(description)))
        }
    }

    /// Works through whole messages: a server may get key updates only, a client also tickets, which it ignores.
    private func receiveHandshakeMessages() {
        while handshakeBytes.count >= 4, !hasFailed {
            let length = Int(handshakeBytes[1]) << 16 | Int(handshakeBytes[2]) << 8 | Int(handshakeBytes[3])
            guard length <= Self.handshakeMessageBytesMax else {
                fail(.illegalParameter, "a message that is too long")
                return
            }
            let type = handshakeBytes[0]
            guard type == HandshakeType.keyUpdate || (type == HandshakeType.newSessionTicket && !isServer)
            else {
                fail(.unexpectedMessage, "an unexpected handshake message")
                return
            }
            guard handshakeBytes.count >= 4 + length else { return }
            let body = Array(handshakeBytes[4..<4 + length])
            handshakeBytes.removeFirst(4 + length)
            if type == HandshakeType.keyUpdate { receiveKeyUpdate(body) }
        }
    }

    private func receiveKeyUpdate(_ body: [UInt8]) {
        guard handshakeBytes.isEmpty else {
            fail(.unexpectedMessage, "a message after a key update in the same record")
            return
        }
        guard body == [0] || body == [1] else {
            fail(.illegalParameter, "a key update that asks for nothing known")
            return
        }
        guard reader.update() else {
            fail(.internalError, "a key update: \(ErrorQueue.drain())")
            return
        }
        // Answered with the next write, so that a peer which only asks and never reads costs no memory.
        if body == [1] { owesKeyUpdate = true }
    }

    private func countRecordWithoutData() {
        recordsWithoutData += 1
        if recordsWithoutData > Self.recordsWithoutDataMax {
            fail(.unexpectedMessage, "too many records without data")
        }
    }

    // MARK: Writing

    func write(_ plaintext: UnsafeRawBufferPointer) throws(TLSError) {
        guard !isWriteClosed else { throw .closed }
        if case .failed(let error) = state { throw error }
        guard let base = plaintext.baseAddress, plaintext.count > 0 else { return }
        if owesKeyUpdate { try updateWriteKey(request: false) }
        var start = 0
        while start < plaintext.count {
            if writer.sequence >= recordsPerKey { try updateWriteKey(request: false) }
            let count = min(plaintext.count - start, Self.contentBytesMax)
            let wanted = Self.sealedBytes(plaintext.count - start)
            unsafe try append(type: RecordType.applicationData, base + start, count: count, reserving: wanted)
            start += count
        }
    }

    /// One record with the content, `count` bytes in pieces none of which is empty, at most 16 KiB.
    func writeRecord(_ content: UnsafeBufferPointer<iovec>, count: Int) throws(TLSError) {
        precondition(count > 0 && count <= Self.contentBytesMax, "not the content of one record")
        guard !isWriteClosed else { throw .closed }
        if case .failed(let error) = state { throw error }
        if owesKeyUpdate || writer.sequence >= recordsPerKey { try updateWriteKey(request: false) }
        let target = unsafe output.reserve(count + RecordCipher.overheadBytes).baseAddress!
        guard
            unsafe writer.seal(
                type: RecordType.applicationData, content, count: count,
                to: target.assumingMemoryBound(to: UInt8.self))
        else { throw sealingFailed() }
        output.commit(count + RecordCipher.overheadBytes)
    }

    /// Sends a key update and goes on with the next key; with `request` the peer is to do the same.
    func updateWriteKey(request: Bool) throws(TLSError) {
        try append(type: RecordType.handshake, [HandshakeType.keyUpdate, 0, 0, 1, request ? 1 : 0])
        guard writer.update() else { throw sealingFailed() }
        owesKeyUpdate = false
    }

    func close() {
        guard !isWriteClosed, !hasFailed else { return }
        isWriteClosed = true
        try? append(type: RecordType.alert, [Alert.closeNotify.level, Alert.closeNotify.rawValue])
    }

    /// Ciphertext bytes for `count` bytes of application data.
    private static func sealedBytes(_ count: Int) -> Int {
        count + (count + contentBytesMax - 1) / contentBytesMax * RecordCipher.overheadBytes
    }

    private func append(type: UInt8, _ content: [UInt8]) throws(TLSError) {
        try unsafe content.withUnsafeBufferPointer { bytes throws(TLSError) in
            unsafe try append(
                type: type, bytes.baseAddress, count: bytes.count,
                reserving: bytes.count + RecordCipher.overheadBytes)
        }
    }

    @inline(__always)
    private func append(
        type: UInt8, _ content: UnsafeRawPointer?, count: Int, reserving: Int
    ) throws(TLSError) {
        let target = unsafe output.reserve(reserving).baseAddress!.assumingMemoryBound(to: UInt8.self)
        guard unsafe writer.seal(type: type, content, count: count, to: target) else {
            throw sealingFailed()
        }
        output.commit(count + RecordCipher.overheadBytes)
    }

    private func sealingFailed() -> TLSError {
        let error = TLSError.library(ErrorQueue.drain())
        state = .failed(error)
        return error
    }

    // MARK: Helpers

    /// Ends the connection because of what the peer did, and tells it why.
    @discardableResult
    private func fail(_ alert: Alert, _ text: String) -> Int {
        ERR_clear_error()
        if !isWriteClosed { try? append(type: RecordType.alert, [alert.level, alert.rawValue]) }
        isWriteClosed = true
        if !hasFailed { state = .failed(.protocolViolation(text)) }
        return 0
    }

    private func takeKept(_ buffer: UnsafeMutableRawBufferPointer) -> Int {
        let count = min(buffer.count, keptEnd - keptStart)
        unsafe buffer.copyMemory(from: UnsafeRawBufferPointer(rebasing: kept[keptStart..<keptStart + count]))
        keptStart += count
        if keptStart == keptEnd { dropKept() }
        return count
    }

    /// Makes room for `count` bytes that do not fit into the caller's buffer; there are none kept now.
    private func keep(_ count: Int) {
        unsafe kept = pool.take(count)
    }

    private func dropKept() {
        unsafe pool.give(kept)
        unsafe kept = unsafe UnsafeMutableRawBufferPointer(start: nil, count: 0)
        keptStart = 0
        keptEnd = 0
    }
}

/// Handshake messages that may follow a handshake (RFC 8446 §4.6).
enum HandshakeType {
    static let newSessionTicket: UInt8 = 4
    static let keyUpdate: UInt8 = 24
}
