import Core
import Glibc
import Reactor
import Services
import TLS

/// One connection of the data channel: TLS, frames, and the way to the services and back.
///
/// Confined to its reactor's thread. The descriptor's operations keep the object alive until they have completed.
///
/// What it is at is in four values without I/O, which say what to do: `phase` its life, `receiving` and `sending` what the
/// kernel has, `reader` the stream of requests. This object does it.
@safe
final class DataConnection: CompletionTarget, ChannelOwner {
    let shard: DataShard
    let reactor: Reactor
    let services: ServiceShard
    let fd: Int32
    let tls: TLSConnection
    let peerAddress: String
    var target: TargetID?
    var channel: ServiceChannel?

    var phase: ConnectionPhase
    var receiving = ReceiveState()
    var sending = SendState()
    var reader = FrameReader()
    /// Makes frames of what services say.
    var frames = MessageFrames()
    /// Where the payload that is being read goes.
    var destination = unsafe UnsafeMutableRawBufferPointer(start: nil, count: 0)
    /// Plaintext that arrived behind a request which waits for room, or for time for its signature.
    var held: [UInt8] = []
    /// What `noteUnread` has noted last, in bytes.
    var unreadNoted = 0
    /// Of which node that was.
    var unreadNode: UInt32?
    /// Whether it has opened nothing, or signatures were checked for what it sent last.
    private var asksForSignatures = true
    /// How many signatures may be checked for it that a wake-up has no time for.
    private var lastSignatures = 0
    /// Whether it is probed often, because another client of the same key waits for its end.
    var isDoubted = false

    /// What the kernel is sending.
    var outgoing: OutputBuffer?
    /// What is left of the payload of a reply of which a part has been encrypted, and its slot.
    var rest = unsafe UnsafeRawBufferPointer(start: nil, count: 0)
    var restSlot: UInt16 = 0

    var heardAt: UInt64
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
        heardAt = shard.reactor.now
        phase = .handshake(since: shard.reactor.now)
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
            receiving.polled()
            receive()
        default: break
        }
    }

    private func received(_ result: Int32, _ flags: CompletionFlags) {
        if !flags.more { receiving.ended() }
        if flags.hasBuffer {
            if result > 0 {
                unsafe take(
                    reactor.receiveBuffer(flags, count: Int(result)), headroom: Limits.receiveHeadroomBytes)
            }
            reactor.recycle(flags)
        }
        if phase.isClosed { return }
        if result > 0, flags.more { return result >= Limits.meteredBytesMin ? meter() : () }
        if result <= 0, result != -ECANCELED, result != -ENOBUFS {
            // What was put off may end with the client's word that it closes.
            if receiving.isPutOff, !reader.isWaiting { pump(isAtEnd: true) }
            // Half a frame that the peer left behind is not executed.
            return teardown()
        }
        if !receiving.isReceiving, !reader.isWaiting { receive() }
    }

    // MARK: Receiving

    /// Has more received, unless it is.
    func receive() {
        if phase.isClosed { return }
        perform(receiving.more(mayMeter: phase.isServing, hasMuch: shard.unread.isMuch(nodeNumber)))
    }

    /// Goes over to receiving piece by piece, where others would wait for what this connection sends.
    private func meter() {
        if phase.isServing, services.isShared { perform(receiving.meter()) }
    }

    /// Stops receiving while a request waits for room.
    func pauseIfWaiting() {
        if reader.isWaiting, !phase.isClosed { perform(receiving.pause()) }
    }

    private func perform(_ action: ReceiveState.Action) {
        guard let target else { return }
        switch action {
        case .nothing: break
        case .receive: reactor.receiveMultishot(fd: fd, target: target, token: Token.receive)
        case .cancel: reactor.cancel(target: target, token: Token.receive)
        case .waitForTurn:
            if receiving.isPutOff, phase.isOpen, asksForSignatures {
                shard.scheduleSignatures(self)
            } else {
                shard.scheduleInput(self)
            }
        }
    }

    /// Takes up what was put off, or receives a piece, of a metered connection; returns how many bytes that were.
    func receivePiece(_ buffer: UnsafeMutableRawBufferPointer) -> Int {
        if case .arrived = receiving.takeTurn() { return takeUpArrived() }
        guard receiving.isMetered, !receiving.isReceiving, !reader.isWaiting, phase.isServing, let target
        else { return 0 }
        let count = unsafe Glibc.recv(fd, buffer.baseAddress, buffer.count, Int32(MSG_DONTWAIT))
        guard count > 0 else {
            let error = errno
            if count < 0, error == EAGAIN || error == EINTR {
                receiving.poll()
                reactor.poll(fd: fd, events: UInt32(POLLIN), target: target, token: Token.readable)
                return 0
            }
            teardown()
            return 0
        }
        if !shard.unread.isMuch(nodeNumber), count < Limits.meteredBytesEnd || !services.isShared {
            receiving.unmeter()
        }
        unsafe take(UnsafeRawBufferPointer(rebasing: buffer[..<count]))
        if !reader.isWaiting { receive() }
        return count
    }

    private func takeUpArrived() -> Int {
        let count = tls.unreadInputBytes
        if phase.isOpen, !reader.isWaiting {
            pump()
            noteUnread()
            if !receiving.isReceiving, !reader.isWaiting { receive() }
        }
        return count - tls.unreadInputBytes
    }

    /// Decrypts and executes what has arrived.
    private func take(_ ciphertext: UnsafeRawBufferPointer, headroom: Int = 0) {
        guard phase.isHearing else { return }
        heardAt = reactor.now
        unsafe tls.feed(ciphertext, headroom: headroom)
        if receiving.isPutOff || (phase.isOpen && !reader.isWaiting && !hasTimeForInput) {
            perform(receiving.putOff())
        } else if !reader.isWaiting {
            pump()
        }
        tls.endInput()
        if tls.unreadInputBytes > Limits.unreadBytesMax { close("it sends more than it was told to") }
        noteUnread()
    }

    /// Takes decrypted bytes for as long as there are any and requests find room.
    ///
    /// - Parameter isAtEnd: nothing more comes, and there is no later turn for what is left: who has opened something is
    ///   heard to the end, as far as a client goes that waits for answers.
    func pump(isAtEnd: Bool = false) {
        do throws(TLSError) {
            if case .handshake = phase, try !continueHandshake() { return }
            if isAtEnd, rank == .opened { lastSignatures = Limits.slotsPerChannelMax }
            if !held.isEmpty, !reader.isHeldBack, phase.isReading { takeHeld() }
            while !reader.isWaiting, phase.isReading {
                if phase.isOpen, asksForSignatures, !shard.hasTimeForSignatures, lastSignatures == 0 {
                    if !isAtEnd { perform(receiving.putOff()) }
                    break
                }
                let isDirect =
                    if case .payload = reader.part { reader.remaining >= Limits.directBytesMin } else {
                        false
                    }
                let space = unsafe isDirect ? destination : plaintextSpace
                guard let count = try unsafe tls.read(into: space) else { break }
                if count == 0 { return close(nil, isByClient: true) }
                if isDirect, let channel {
                    payloadGrew(channel, count)
                } else {
                    unsafe takePlaintext(UnsafeRawBufferPointer(rebasing: space[..<count]))
                }
            }
        } catch { return fail(error) }
        if phase.isOpen {
            reader.noteHalf(now: reactor.now)
            armTimer()
        }
    }

    /// Takes requests out of plaintext, and keeps what has to wait.
    private func takePlaintext(_ bytes: UnsafeRawBufferPointer) {
        let checked = services.signaturesChecked
        let used = unsafe ingest(bytes)
        asksForSignatures = rank != .opened || services.signaturesChecked != checked
        guard used < bytes.count, !reader.isEnded else { return }
        // Where nothing else holds it back, the next signature does.
        if !reader.isHeldBack { asksForSignatures = true }
        unsafe held.append(contentsOf: bytes[used...])
    }

    private func takeHeld() {
        let bytes = held
        held = []
        unsafe bytes.withUnsafeBytes { unsafe takePlaintext($0) }
    }

    /// Whether a request may be taken up now that may have a signature checked.
    func mayAskForSignature() -> Bool {
        if shard.hasTimeForSignatures { return true }
        guard lastSignatures > 0 else { return false }
        lastSignatures -= 1
        return true
    }

    private var hasTimeForInput: Bool {
        shard.hasTimeForInput && (!asksForSignatures || shard.hasTimeForSignatures)
    }

    /// Where the next piece is decrypted to: a little of it from who asks for signatures to be checked, one or a few of which
    /// are all that a wake-up has time for.
    private var plaintextSpace: UnsafeMutableRawBufferPointer {
        guard phase.isOpen, asksForSignatures else { return unsafe shard.plaintext }
        return unsafe UnsafeMutableRawBufferPointer(rebasing: shard.plaintext[..<Limits.signaturesPieceBytes])
    }

    private func fail(_ error: TLSError) {
        guard case .handshake = phase else { return close("TLS: \(error)") }
        shard.logger.debug("TLS failed", metadata: ["peer": "\(peerAddress)", "reason": "\(error)"])
        close(nil)
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
        phase.becomeGreeting()
        return true
    }
}
