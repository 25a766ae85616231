import Core
import Glibc
import Reactor
import Services
import TLS
import Wire

/// One connection of the data channel: TLS, frames, and the way to the services and back.
///
/// Confined to its reactor's thread. The descriptor's operations keep the object alive until they have completed.
@safe
final class DataConnection: CompletionTarget, ChannelOwner {
    enum Phase {
        /// TLS is not established.
        case handshake
        /// HELLO has not arrived.
        case greeting
        /// HELLO waits for the end of the connection whose channel it resumes, for as long as that takes.
        case resuming
        case open
        /// What waits is sent, then the connection ends.
        case closing
        /// Everything was sent; waiting for the peer to notice.
        case lingering
        case closed
    }

    let shard: DataShard
    let reactor: Reactor
    let services: ServiceShard
    let fd: Int32
    let tls: TLSConnection
    let peerAddress: String
    private(set) var target: TargetID?
    private(set) var phase = Phase.handshake
    private(set) var channel: ServiceChannel?

    var reader = FrameReader()
    /// Where the payload that is being read goes.
    private var destination = unsafe UnsafeMutableRawBufferPointer(start: nil, count: 0)
    /// Plaintext that arrived behind a request which waits for room.
    private var held: [UInt8] = []
    private var isReceiving = false
    private var isCancellingReceive = false
    private var peerHasClosed = false
    /// Whether the client said that it closes; without that the connection is lost.
    private var isClosedByClient = false
    /// Whether no further request is taken, and the connection ends when those before are answered.
    private(set) var isFinishing = false
    /// Whether the last of those requests has not arrived whole, so that it is never answered.
    private(set) var hasHalfRequest = false
    /// Whether it is received from piece by piece, in its turn, because it sends much and others are there.
    private var isMetered = false
    private var isInputScheduled = false
    /// Whether what has arrived waits for its session's turn.
    private var isInputPutOff = false
    private var isPolling = false
    /// What `noteUnread` has noted last, in bytes.
    var unreadNoted = 0
    /// Whether what it sends has to be taken soon, because its buffer is needed.
    var isHurried = false
    /// Whether it is probed often, because another client of the same key waits for its end.
    private var isDoubted = false

    var sending: OutputBuffer?
    var isSending = false
    var isFlushScheduled = false
    /// What is left of the payload of a reply of which a part has been encrypted, and its slot.
    var rest = unsafe UnsafeRawBufferPointer(start: nil, count: 0)
    var restSlot: UInt16 = 0

    let begunAt: UInt64
    var sendBegunAt: UInt64 = 0
    var frameBegunAt: UInt64 = 0
    var frameTimed: UInt64 = 0
    var heardAt: UInt64 = 0
    var closeBegunAt: UInt64 = 0
    var timer: TimerID?
    var timerDue: UInt64 = .max

    enum Token {
        static let receive: UInt32 = 1
        static let send: UInt32 = 2
        static let timer: UInt32 = 3
        static let close: UInt32 = 4
        static let readable: UInt32 = 5
        static let doubt: UInt32 = 6
    }

    init(shard: DataShard, fd: Int32, tls: TLSConnection, peerAddress: String) {
        self.shard = shard
        self.fd = fd
        self.tls = tls
        self.peerAddress = peerAddress
        reactor = shard.reactor
        services = shard.services
        begunAt = shard.reactor.now
        heardAt = begunAt
    }

    /// Starts to receive.
    func begin() {
        target = reactor.register(self)
        receive()
        armTimer()
    }

    // MARK: Completions

    /// An operation of this connection has completed.
    func completed(token: UInt32, result: Int32, flags: CompletionFlags) {
        switch token {
        case Token.receive: received(result, flags)
        case Token.send: sent(result)
        case Token.timer: timerFired()
        case Token.doubt: doubtEnded()
        case Token.readable:
            isPolling = false
            receive()
        default: break
        }
    }

    private func received(_ result: Int32, _ flags: CompletionFlags) {
        if !flags.more {
            isReceiving = false
            isCancellingReceive = false
        }
        if flags.hasBuffer {
            if result > 0 {
                unsafe take(
                    reactor.receiveBuffer(flags, count: Int(result)), headroom: Limits.receiveHeadroomBytes)
            }
            reactor.recycle(flags)
        }
        if phase == .closed { return }
        if result > 0, flags.more { return result >= Limits.meteredBytesMin ? meter() : () }
        if result <= 0, result != -ECANCELED, result != -ENOBUFS {
            peerHasClosed = true
            // What was put off may end with the client's word that it closes.
            if isInputPutOff, reader.part != .waiting, !isFinishing { pump() }
            // Half a frame that the peer left behind is not executed.
            return teardown()
        }
        if !isReceiving, reader.part != .waiting { receive() }
    }

    private func receive() {
        guard !isReceiving, phase != .closed, let target else { return }
        if shard.hasMuchUnread { isMetered = true }
        if isMetered, phase == .open {
            guard !isInputScheduled, !isPolling else { return }
            isInputScheduled = true
            return shard.scheduleInput(self)
        }
        isReceiving = true
        reactor.receiveMultishot(fd: fd, target: target, token: Token.receive)
    }

    /// Goes over to receiving piece by piece, where others would wait for what this connection sends.
    private func meter() {
        guard !isMetered, phase == .open, services.isShared, let target else { return }
        isMetered = true
        guard isReceiving, !isCancellingReceive else { return }
        isCancellingReceive = true
        reactor.cancel(target: target, token: Token.receive)
    }

    /// Stops receiving while a request waits for room.
    func pauseIfWaiting() {
        guard reader.part == .waiting, isReceiving, !isCancellingReceive, let target else { return }
        isCancellingReceive = true
        reactor.cancel(target: target, token: Token.receive)
    }

    /// Has what has arrived wait: the wake-up has taken up as many requests as others can be made to wait for.
    private func putInputOff() {
        isInputPutOff = true
        guard !isInputScheduled else { return }
        isInputScheduled = true
        shard.scheduleInput(self)
    }

    /// Takes up what was put off, or receives a piece, of a metered connection; returns how many bytes that were.
    func receivePiece(_ buffer: UnsafeMutableRawBufferPointer) -> Int {
        isInputScheduled = false
        if isInputPutOff {
            isInputPutOff = false
            let count = tls.unreadInputBytes
            if phase == .open, reader.part != .waiting, !isFinishing {
                pump()
                noteUnread()
                if !isReceiving, reader.part != .waiting { receive() }
            }
            return count - tls.unreadInputBytes
        }
        guard isMetered, !isReceiving, reader.part != .waiting, phase == .open, let target else { return 0 }
        let count = unsafe Glibc.recv(fd, buffer.baseAddress, buffer.count, Int32(MSG_DONTWAIT))
        guard count > 0 else {
            let error = errno
            if count < 0, error == EAGAIN || error == EINTR {
                isPolling = true
                reactor.poll(fd: fd, events: UInt32(POLLIN), target: target, token: Token.readable)
                return 0
            }
            peerHasClosed = true
            teardown()
            return 0
        }
        if !shard.hasMuchUnread, count < Limits.meteredBytesEnd || !services.isShared { isMetered = false }
        unsafe take(UnsafeRawBufferPointer(rebasing: buffer[..<count]))
        if reader.part != .waiting { receive() }
        return count
    }

    /// Decrypts and executes what has arrived.
    private func take(_ ciphertext: UnsafeRawBufferPointer, headroom: Int = 0) {
        guard phase != .closing, phase != .lingering, phase != .closed else { return }
        heardAt = reactor.now
        unsafe tls.feed(ciphertext, headroom: headroom)
        if isInputPutOff || (phase == .open && reader.part != .waiting && !shard.hasTimeForInput) {
            putInputOff()
        } else if reader.part != .waiting, !isFinishing {
            pump()
        }
        tls.endInput()
        if tls.unreadInputBytes > Limits.unreadBytesMax { close("it sends more than it was told to") }
        noteUnread()
    }

    /// Takes decrypted bytes for as long as there are any and requests find room.
    private func pump() {
        do throws(TLSError) {
            if phase == .handshake, try !continueHandshake() { return }
            while reader.part != .waiting, phase == .greeting || phase == .open {
                let isDirect = reader.part == .payload && reader.remaining >= Limits.directBytesMin
                let space = unsafe isDirect ? destination : shard.plaintext
                guard let count = try unsafe tls.read(into: space) else { break }
                if count == 0 {
                    isClosedByClient = true
                    return close(nil)
                }
                if isDirect, let channel {
                    payloadGrew(channel, count)
                } else {
                    let bytes = unsafe UnsafeRawBufferPointer(rebasing: space[..<count])
                    let used = unsafe ingest(bytes)
                    if used < count, reader.isHeldBack {
                        unsafe held.append(contentsOf: bytes[used...])
                    }
                }
            }
        } catch {
            if phase == .handshake { logHandshakeFailure(error) }
            return close(phase == .handshake ? nil : "TLS: \(error)")
        }
        noteHalfFrame()
    }

    /// Goes on with the TLS handshake; true when there is a channel.
    private func continueHandshake() throws(TLSError) -> Bool {
        let isDone = try tls.handshake()
        if tls.output.pendingBytes > 0 { scheduleFlush() }
        guard isDone else { return false }
        guard let thumbprint = tls.peerThumbprint, tls.alpn == DataServer.applicationProtocol else {
            close("it presented no key, or speaks another protocol")
            return false
        }
        channel = services.attach(owner: self, thumbprint: thumbprint, peerAddress: peerAddress)
        guard channel != nil else {
            close("the server takes no more channels")
            return false
        }
        phase = .greeting
        return true
    }

    // MARK: Frames

    /// Takes whole and partial frames out of `bytes`; returns how many bytes were used. Stops early only at a request
    /// that has to wait, or the end.
    private func ingest(_ bytes: UnsafeRawBufferPointer) -> Int {
        guard let channel else { return bytes.count }
        var at = 0
        while at < bytes.count {
            let left = bytes.count - at
            switch reader.part {
            case .header:
                if reader.headerCount == 0 { reader.framesBegun &+= 1 }
                if reader.headerCount == 0, left >= Limits.headerBytes, let base = bytes.baseAddress {
                    reader.header = unsafe RequestHeader.load(base + at)
                    at += Limits.headerBytes
                } else {
                    let count = min(left, Limits.headerBytes - reader.headerCount)
                    for index in 0..<count {
                        reader.headerBytes[reader.headerCount + index] = unsafe bytes[at + index]
                    }
                    reader.headerCount += count
                    at += count
                    guard reader.headerCount == Limits.headerBytes else { break }
                    reader.header = unsafe reader.headerBytes.span.withUnsafeBytes {
                        guard let base = $0.baseAddress else {
                            preconditionFailure("32 bytes have an address")
                        }
                        return unsafe RequestHeader.load(base)
                    }
                    reader.headerCount = 0
                }
                accept(channel)
            case .payload:
                let count = min(left, reader.remaining)
                unsafe destination.copyMemory(from: UnsafeRawBufferPointer(rebasing: bytes[at..<at + count]))
                at += count
                payloadGrew(channel, count)
            case .body:
                let count = min(left, reader.remaining)
                unsafe reader.body.append(contentsOf: bytes[at..<at + count])
                reader.remaining -= count
                at += count
                if reader.remaining == 0 { bodyArrived() }
            case .skip:
                let count = min(left, reader.remaining)
                reader.remaining -= count
                at += count
                if reader.remaining == 0 { reader.endFrame() }
            case .waiting, .held, .ended:
                return at
            }
        }
        return at
    }

    /// Offers the header in hand to the services.
    private func accept(_ channel: ServiceChannel) {
        shard.acceptedRequests += 1
        if phase == .greeting {
            let status = reader.header.validate(.greeting)
            guard status == .ok else {
                services.refuseGreeting(channel, reader.header, status)
                return close("its first request is not a valid HELLO")
            }
            return expect(.body)
        }
        switch services.accept(channel, reader.header) {
        case .done: reader.endFrame()
        case .skip: expect(.skip)
        case .body: expect(.body)
        case .payload(let slot):
            expect(.payload)
            reader.slot = slot
            unsafe destination = unsafe services.payloadBuffer(channel, slot: slot)
        case .wait:
            reader.part = .waiting
            scheduleFlush()
        case .end: close("it broke the protocol")
        }
    }

    private func expect(_ part: FrameReader.Part) {
        reader.remaining = Int(reader.header.length)
        reader.part = part
        if reader.remaining == 0 { reader.endFrame() }
    }

    private func payloadGrew(_ channel: ServiceChannel, _ count: Int) {
        reader.remaining -= count
        unsafe destination = unsafe UnsafeMutableRawBufferPointer(rebasing: destination[count...])
        guard reader.remaining == 0 else { return }
        let slot = reader.slot
        unsafe destination = unsafe UnsafeMutableRawBufferPointer(start: nil, count: 0)
        reader.endFrame()
        services.payloadArrived(channel, slot: slot)
    }

    private func bodyArrived() {
        guard let channel else { return }
        let body = reader.body
        reader.endFrame()
        if phase == .open { return services.control(channel, reader.header, body: body) }
        switch services.hello(channel, reader.header, body: body) {
        case .accepted: phase = .open
        case .refused: close("its HELLO was refused")
        case .undecided:
            phase = .resuming
            reader.part = .held
        }
    }

    // MARK: ChannelOwner

    func channelHasOutput() { scheduleFlush() }

    func channelMayContinue() {
        guard reader.part == .waiting, let channel else { return }
        accept(channel)
        readOn()
    }

    /// Takes up what had to wait, and what comes after it.
    private func readOn() {
        if reader.part != .waiting, !held.isEmpty {
            let bytes = held
            held = []
            let used = unsafe bytes.withUnsafeBytes { unsafe ingest($0) }
            if used < bytes.count, reader.part == .waiting { held = Array(bytes[used...]) }
        }
        guard reader.part != .waiting else { return }
        pump()
        noteUnread()
        if reader.part != .waiting, !isReceiving { receive() }
    }

    func channelMustClose(_ reason: String) { close(reason) }

    func channelMustSkip(slot: UInt16) {
        switch reader.part {
        case .payload where reader.slot == slot:
            unsafe destination = unsafe UnsafeMutableRawBufferPointer(start: nil, count: 0)
        case .body where reader.header.slot == slot: reader.body.removeAll()
        default: return
        }
        reader.part = .skip
    }

    func channelIsInTheWay() {
        let patience = UInt64(Limits.inTheWayMilliseconds) * 1_000_000
        let isDeaf =
            isSending && reactor.now &- sendBegunAt > patience
            && Sockets.isUntaken(fd: fd, milliseconds: Limits.inTheWayMilliseconds)
        let isSilent = reader.isInsideFrame && reactor.now &- heardAt > patience
        guard isDeaf || isSilent, phase == .open else { return }
        shard.logger.info(
            "channel closed by the server",
            metadata: [
                "peer": "\(peerAddress)",
                "reason":
                    "it \(isDeaf ? "does not read" : "does not go on writing"), and others of its node wait for that",
            ])
        teardown()
    }

    func channelMustHurry() {
        isHurried = true
        armTimer()
    }

    func channelWasSuperseded() {
        shard.logger.info("channel goes on elsewhere", metadata: ["peer": "\(peerAddress)"])
        teardown()
    }

    func channelIsDisconnected(_ reason: String) {
        shard.logger.info(
            "channel disconnected", metadata: ["peer": "\(peerAddress)", "reason": "\(reason)"])
        teardown()
    }

    func channelIsDoubted() {
        guard phase == .open else { return }
        if Sockets.isUnheard(fd: fd, milliseconds: Limits.unheardMilliseconds) {
            shard.logger.info(
                "channel closed by the server",
                metadata: ["peer": "\(peerAddress)", "reason": "nobody is at its other end"])
            return teardown()
        }
        guard !isDoubted, let target else { return }
        isDoubted = true
        Sockets.setKeepAlive(fd: fd, idleSeconds: 1, intervalSeconds: 1)
        _ = reactor.setTimer(after: Limits.doubtNanoseconds, target: target, token: Token.doubt)
    }

    private func doubtEnded() {
        isDoubted = false
        Sockets.setKeepAlive(
            fd: fd, idleSeconds: Limits.keepAliveSeconds, intervalSeconds: Limits.keepAliveIntervalSeconds)
    }

    func channelWasGreeted(isAccepted: Bool) {
        guard phase == .resuming else { return }
        guard isAccepted else { return close("its HELLO was refused") }
        phase = .open
        heardAt = reactor.now
        reader.part = .header
        readOn()
    }

    // MARK: Time

    /// The next moment at which something is late; nil when nothing is awaited.
    private var deadline: UInt64? {
        var due = UInt64.max
        switch phase {
        case .resuming: break
        case .handshake, .greeting: due = begunAt + shard.options.helloNanoseconds
        case .closing, .lingering: due = closeBegunAt + lingerNanoseconds
        case .open:
            if frameTimed == reader.framesBegun, reader.isInsideFrame {
                due = frameBegunAt + shard.options.frameNanoseconds
            }
            if shard.idleNanoseconds > 0 { due = min(due, heardAt + shard.idleNanoseconds) }
        case .closed: return nil
        }
        if isSending {
            let patience = isHurried ? Limits.hurriedSendNanoseconds : shard.options.sendNanoseconds
            due = min(due, sendBegunAt + patience)
        }
        return due == .max ? nil : due
    }

    /// Who ends with the server is not to hold up its next start.
    private var lingerNanoseconds: UInt64 {
        isFinishing
            ? min(shard.options.lingerNanoseconds, Limits.lastLingerNanoseconds)
            : shard.options.lingerNanoseconds
    }

    /// Has the timer fire no later than the next deadline; one that fires earlier looks again.
    func armTimer() {
        guard let due = deadline, due < timerDue, let target else { return }
        if let timer { reactor.cancelTimer(timer) }
        timerDue = due
        let now = reactor.now
        timer = reactor.setTimer(after: due > now ? due - now : 0, target: target, token: Token.timer)
    }

    private func timerFired() {
        timer = nil
        timerDue = .max
        guard let due = deadline else { return }
        guard due <= reactor.now else { return armTimer() }
        switch phase {
        case .handshake, .greeting: close("it did not say HELLO in time")
        case .open, .resuming: close(isSending ? "it does not read" : "it sent no whole request in time")
        case .closing, .lingering, .closed: return teardown()
        }
        if isSending { teardown() }
    }

    /// Starts the clock for a frame of which only a part has arrived.
    private func noteHalfFrame() {
        guard phase == .open else { return }
        if reader.isInsideFrame, frameTimed != reader.framesBegun {
            frameTimed = reader.framesBegun
            frameBegunAt = reactor.now
        }
        armTimer()
    }

    // MARK: The end

    /// Sends what waits and then ends the connection; nothing more that arrives is looked at. A reason is logged.
    func close(_ reason: String?) {
        switch phase {
        case .closing, .lingering, .closed: return
        case .handshake, .greeting, .resuming, .open: break
        }
        if let reason {
            shard.logger.info(
                "channel closed by the server", metadata: ["peer": "\(peerAddress)", "reason": "\(reason)"])
        }
        phase = .closing
        reader.part = .ended
        held = []
        closeBegunAt = reactor.now
        scheduleFlush()
        armTimer()
    }

    /// Takes no further request, and ends the connection when those that it has are answered. Its client may go on with
    /// the channel, on this server's next start or elsewhere.
    func finish() {
        guard phase == .open, !isFinishing else { return close("the server is stopping") }
        if let channel { services.announceEnd(channel) }
        isFinishing = true
        hasHalfRequest = reader.part == .payload || reader.part == .body
        reader.part = .ended
        held = []
        scheduleFlush()
    }

    /// Everything was sent: says so, and leaves the peer time to read it before the descriptor goes.
    func linger() {
        if tls.isOpen {
            tls.close()
            if tls.output.pendingBytes > 0 { return send() }
        }
        phase = .lingering
        _ = Glibc.shutdown(fd, Int32(SHUT_WR))
        receive()
        if peerHasClosed { teardown() }
    }

    /// Ends the connection now.
    func teardown() {
        guard phase != .closed, let target else { return }
        phase = .closed
        reader.part = .ended
        held = []
        noteUnread()
        if let timer { reactor.cancelTimer(timer) }
        timer = nil
        self.target = nil
        if let channel {
            unsafe rest = unsafe UnsafeRawBufferPointer(start: nil, count: 0)
            services.detach(channel, isClosedByClient: isClosedByClient)
            self.channel = nil
        }
        reactor.cancelAll(fd: fd)
        reactor.close(fd: fd, target: target, token: Token.close)
        reactor.unregister(target)
        shard.remove(self)
    }

    private func logHandshakeFailure(_ error: TLSError) {
        shard.logger.debug("TLS failed", metadata: ["peer": "\(peerAddress)", "reason": "\(error)"])
    }
}
