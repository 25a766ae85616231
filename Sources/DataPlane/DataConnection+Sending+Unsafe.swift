import Core
import Reactor
import Services
import TLS

/// The way out: replies and events into full records, and those into one send at a time.
extension DataConnection {
    /// Whose turn counts for it: its session's, or that of all who have none.
    var flow: Int { channel?.sessionNumber.map { $0 + 1 } ?? 0 }

    func scheduleFlush() {
        guard !isFlushScheduled else { return }
        isFlushScheduled = true
        shard.scheduleOutput(self)
    }

    /// Sends what waits, up to `piece` bytes and a record more, and returns how many bytes that are; stops receiving
    /// while a request waits for room.
    func flush(_ piece: Int) -> Int {
        isFlushScheduled = false
        let half = (channel?.chargedBytes ?? 0) / 2
        let bytes = startSending(min(piece, max(half, shard.options.outputBytesLeast)))
        pauseIfWaiting()
        return bytes
    }

    /// Encrypts what waits, as far as one send goes, and sends it.
    private func startSending(_ piece: Int) -> Int {
        guard !isSending, phase != .closed else { return 0 }
        if let channel, phase != .lingering, tls.isOpen {
            do throws(TLSError) { try encrypt(channel, piece) } catch {
                teardown()
                return 0
            }
        }
        let bytes = tls.output.pendingBytes
        if bytes > 0 {
            send()
            return bytes
        }
        if isFinishing, phase == .open, isAnswered { close(nil) }
        if phase == .closing { linger() }
        return 0
    }

    /// Whether everything that was taken is answered and the answers are on their way.
    private var isAnswered: Bool {
        guard let channel else { return true }
        let most = hasHalfRequest ? 1 : 0
        return unsafe !channel.hasOutput && rest.isEmpty && channel.unansweredRequests <= most
    }

    /// Gathers replies into full records until there is nothing more, or enough for one send.
    private func encrypt(_ channel: ServiceChannel, _ piece: Int) throws(TLSError) {
        recordUsed = 0
        while tls.output.pendingBytes < piece {
            if unsafe !rest.isEmpty {
                try gatherRest(piece, channel)
                continue
            }
            if let frame = services.takeFrame(channel) {
                try unsafe frame.span.withUnsafeBytes { bytes throws(TLSError) in try unsafe gather(bytes) }
                continue
            }
            guard let reply = unsafe services.takeReply(channel) else { break }
            if Limits.recordBytes - recordUsed < Limits.headerBytes { try flushRecord() }
            guard let base = unsafe shard.record.baseAddress else { return }
            unsafe reply.header.store(base + recordUsed)
            recordUsed += Limits.headerBytes
            if unsafe reply.payload.isEmpty {
                unsafe services.release(channel, slot: reply.slot)
            } else {
                unsafe rest = unsafe reply.payload
                restSlot = unsafe reply.slot
            }
        }
        try flushRecord()
    }

    /// Adds of the payload in hand what fills the record or the piece; the slot is given back after the last of it.
    private func gatherRest(_ piece: Int, _ channel: ServiceChannel) throws(TLSError) {
        let room = max(Limits.recordBytes - recordUsed, piece - tls.output.pendingBytes)
        let count = unsafe min(rest.count, room)
        let bytes = unsafe UnsafeRawBufferPointer(rebasing: rest[..<count])
        unsafe rest = unsafe UnsafeRawBufferPointer(rebasing: rest[count...])
        try unsafe gather(bytes)
        if unsafe rest.isEmpty { services.release(channel, slot: restSlot) }
    }

    /// Adds bytes to the record in hand; whole records' worth of a long payload is encrypted from where it lies.
    private func gather(_ bytes: UnsafeRawBufferPointer) throws(TLSError) {
        var at = 0
        while at < bytes.count {
            let left = bytes.count - at
            if recordUsed == 0, left >= Limits.recordBytes {
                let whole = left & ~(Limits.recordBytes - 1)
                try unsafe tls.write(UnsafeRawBufferPointer(rebasing: bytes[at..<at + whole]))
                at += whole
                continue
            }
            let count = min(left, Limits.recordBytes - recordUsed)
            let target = unsafe UnsafeMutableRawBufferPointer(rebasing: shard.record[recordUsed...])
            unsafe target.copyMemory(from: UnsafeRawBufferPointer(rebasing: bytes[at..<at + count]))
            recordUsed += count
            at += count
            if recordUsed == Limits.recordBytes { try flushRecord() }
        }
    }

    private func flushRecord() throws(TLSError) {
        guard recordUsed > 0 else { return }
        let count = recordUsed
        recordUsed = 0
        try unsafe tls.write(UnsafeRawBufferPointer(rebasing: shard.record[..<count]))
    }

    func send() {
        guard let target else { return }
        let buffer = tls.takeOutput()
        isSending = true
        sendBegunAt = reactor.now
        unsafe reactor.send(fd: fd, buffer.bytes, target: target, token: Token.send)
        sending = consume buffer
        armTimer()
    }

    func sent(_ result: Int32) {
        isSending = false
        guard let buffer = sending.take() else { return }
        let isComplete = Int(result) == buffer.count
        tls.giveBack(buffer)
        guard phase != .closed else { return }
        guard isComplete else { return teardown() }
        // What has become ready meanwhile goes out at the end of this batch, together.
        let hasMore = unsafe tls.output.pendingBytes > 0 || !rest.isEmpty || channel?.hasOutput == true
        if hasMore || phase == .closing || isFinishing {
            scheduleFlush()
        }
    }
}
