import Core
import Reactor
import Services
import TLS
import Wire

/// The way out: replies and events into full records, and those into one send at a time.
extension DataConnection {
    /// Whose turn counts for it: its session's, or that of all who have none.
    var flow: Int { channel?.sessionNumber.map { $0 + 1 } ?? 0 }

    func scheduleFlush() {
        if sending.wants() { shard.scheduleOutput(self) }
    }

    /// Sends what waits, up to `piece` bytes and a record more, and returns how many bytes that are; stops receiving
    /// while a request waits for room.
    func flush(_ piece: Int) -> Int {
        sending.takeTurn()
        let half = (channel?.chargedBytes ?? 0) / 2
        let bytes = startSending(min(piece, max(half, shard.options.outputBytesLeast)))
        pauseIfWaiting()
        return bytes
    }

    /// Encrypts what waits, as far as one send goes, and sends it.
    @inline(never)
    private func startSending(_ piece: Int) -> Int {
        guard !sending.isSending, !phase.isClosed else { return 0 }
        if let channel, phase.mayEncrypt, tls.isOpen {
            prepareOutput(min(piece, unsafe rest.count + channel.replyBytesExpected))
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
        tls.dropUnusedOutput()
        if case .finishing(let finishing) = phase, isAnswered(finishing) { close(nil) }
        if case .closing = phase { linger() }
        return 0
    }

    /// Has memory for what is about to be encrypted: grown as it comes, it would be copied.
    @inline(never)
    private func prepareOutput(_ bytes: Int) {
        if bytes > Limits.directBytesMin { tls.prepareOutput(bytes + bytes / 256 + 2 * Limits.recordBytes) }
    }

    /// Whether everything that was taken is answered and the answers are on their way.
    private func isAnswered(_ finishing: ConnectionPhase.Finishing) -> Bool {
        guard let channel else { return true }
        let most = finishing.hasHalfRequest ? 1 : 0
        return unsafe !channel.hasOutput && rest.isEmpty && channel.unansweredRequests <= most
    }

    /// Gathers replies into full records until there is nothing more, or enough for one send.
    private func encrypt(_ channel: ServiceChannel, _ piece: Int) throws(TLSError) {
        shard.gatherer.begin()
        shard.gatheredSlots.removeAll(keepingCapacity: true)
        while tls.output.pendingBytes < piece {
            if unsafe !rest.isEmpty {
                try gatherRest(piece)
                continue
            }
            if channel.hasMessages {
                try gatherMessage(channel)
                continue
            }
            guard let reply = unsafe services.takeReply(channel) else { break }
            try unsafe shard.gatherer.appendHeader(to: tls) { target in
                unsafe ReplyHeader(reply.answer, length: reply.payload.count).store(target)
            }
            if unsafe reply.payload.isEmpty {
                unsafe services.release(channel, slot: reply.answer.slot)
            } else {
                unsafe rest = unsafe reply.payload
                restSlot = unsafe reply.answer.slot
            }
        }
        try shard.gatherer.flush(to: tls)
        for index in 0..<shard.gatheredSlots.count {
            services.release(channel, slot: shard.gatheredSlots[index])
        }
    }

    /// Adds what waits beside the answers of slots: those of control requests, events.
    @inline(never)
    private func gatherMessage(_ channel: ServiceChannel) throws(TLSError) {
        guard let message = services.takeMessage(channel) else { return }
        let frame = frames.frame(message)
        try unsafe frame.span.withUnsafeBytes { bytes throws(TLSError) in
            try unsafe shard.gatherer.appendCopy(bytes, to: tls)
        }
    }

    /// Adds of the payload in hand what fills the record or the piece; the slot is given back when the last of it is
    /// encrypted.
    private func gatherRest(_ piece: Int) throws(TLSError) {
        let room = max(shard.gatherer.room, piece - tls.output.pendingBytes)
        let count = unsafe min(rest.count, room)
        let bytes = unsafe UnsafeRawBufferPointer(rebasing: rest[..<count])
        unsafe rest = unsafe UnsafeRawBufferPointer(rebasing: rest[count...])
        try unsafe shard.gatherer.append(bytes, to: tls)
        if unsafe rest.isEmpty { shard.gatheredSlots.append(restSlot) }
    }

    func send() {
        guard let target else { return }
        let buffer = tls.takeOutput()
        sending.began(now: reactor.now)
        unsafe reactor.send(fd: fd, buffer.bytes, target: target, token: Token.send)
        outgoing = consume buffer
        armTimer()
    }

    func sent(_ result: Int32) {
        sending.ended()
        guard let buffer = outgoing.take() else { return }
        let isComplete = Int(result) == buffer.count
        tls.giveBack(buffer)
        if phase.isClosed { return }
        guard isComplete else { return teardown() }
        if unsafe rest.isEmpty { sending.hurry(false) }
        // What has become ready meanwhile goes out at the end of this batch, together.
        let hasMore = unsafe tls.output.pendingBytes > 0 || !rest.isEmpty || channel?.hasOutput == true
        if hasMore || phase.endsWhenSent { scheduleFlush() }
    }

    /// Forgets the payload in hand; its slot is the channel's, which goes.
    func dropRest() { unsafe rest = unsafe UnsafeRawBufferPointer(start: nil, count: 0) }
}
