import Core
import Reactor
import TLS
import Wire

/// The connection's life: connect, handshake, HELLO, bytes in and out, pulse, end.
extension DataChannel {
    // MARK: Opening

    func connectCompleted(_ result: Int32) {
        operations -= 1
        guard ending == nil, let target, let fd = socket?.raw else { return finishEnd() }
        guard result >= 0 else {
            let reason = ReactorError.text(errno: -result)
            return end(.unreachable(address: address.description, reason: reason))
        }
        dialled()
        restartDeadline(seconds: options.connectSeconds)
        operations += 1
        reactor.receiveMultishot(fd: fd, target: target, token: Token.receive)
        do throws(TLSError) {
            _ = try outgoing.tls.handshake()
        } catch {
            return end(.tls(error))
        }
        send()
    }

    /// The handshake is done: checks the protocol and says HELLO.
    private func sayHello() throws(ChannelError) {
        guard outgoing.tls.alpn == DataChannel.protocolName else {
            throw ChannelError.violation("it does not speak \(DataChannel.protocolName)")
        }
        var hello = Hello(
            payloadBytesMax: options.payloadBytesMax, features: options.outlivesConnections ? .resume : [],
            slots: UInt16(min(max(options.depth, 1) + 1, Limits.slotsPerChannelMax)),
            instance: options.instance, clientName: options.clientName)
        if core.isSuspended {
            hello.resumes = core.greeting?.channel
            hello.slots = UInt16(core.slots)
            hello.payloadBytesMax = core.payloadBytesMax
            restartDeadline(seconds: options.resumeSeconds)
        }
        if let ticket = options.ticket {
            hello.session = ticket.session
            hello.secret = unsafe ticket.secret.withBytes { unsafe Array($0) }
        }
        core.asked = hello
        let body = hello.bytes
        outgoing.append(RequestHeader(length: UInt32(body.count), opcode: Opcode.hello.rawValue), body)
        askForBatchEnd()
    }

    /// The server may have to wait for what the lost connection left under way.
    private func restartDeadline(seconds: UInt64) {
        if let deadline { reactor.cancelTimer(deadline) }
        guard let target else { return }
        deadline = reactor.setTimer(
            after: Nanoseconds.seconds(seconds), target: target, token: Token.deadline)
    }

    /// The application protocol that is offered in the handshake.
    public static let protocolName = "sluice/1"

    private func greeted(_ reply: HelloReply) {
        if let deadline { reactor.cancelTimer(deadline) }
        deadline = nil
        greeting = reply
        state = .ready
        armPulse()
        delegate?.channelReady(self)
    }

    // MARK: Bytes in

    func receiveCompleted(_ result: Int32, _ flags: CompletionFlags) {
        if !flags.more { operations -= 1 }
        guard state != .closed else {
            if flags.hasBuffer { reactor.recycle(flags) }
            return finishEnd()
        }
        guard result > 0, flags.hasBuffer else {
            if flags.hasBuffer { reactor.recycle(flags) }
            return end(.lost(result == 0 ? "the server closed it" : ReactorError.text(errno: -result)))
        }
        hasHeard = true
        if unansweredSince != nil { isAnswered() }
        var failure: ChannelError?
        unsafe outgoing.tls.feed(
            reactor.receiveBuffer(flags, count: Int(result)), headroom: Limits.receiveHeadroomBytes)
        do throws(ChannelError) {
            try takeIn()
        } catch {
            failure = error
        }
        outgoing.tls.endInput()
        reactor.recycle(flags)
        deliver()
        if let failure { return end(failure) }
        if !flags.more { return end(.lost("the server closed it")) }
        if outgoing.tls.output.pendingBytes > 0 { askForBatchEnd() }
    }

    /// Decrypts and takes apart all that has arrived.
    private func takeIn() throws(ChannelError) {
        do throws(TLSError) {
            if !isHandshaken {
                guard try outgoing.tls.handshake() else { return }
                isHandshaken = true
                try sayHelloAfterHandshake()
            }
        } catch {
            throw .tls(error)
        }
        if let ending { throw ending }
        while true {
            let isDirect = core.isRoomDirect
            let count: Int?
            do throws(TLSError) {
                count = try unsafe outgoing.tls.read(into: core.room)
            } catch {
                throw .tls(error)
            }
            guard let count else { return }
            guard count > 0 else { throw .lost("the server closed it") }
            try core.received(count, isDirect: isDirect)
        }
    }

    private func sayHelloAfterHandshake() throws(TLSError) {
        do throws(ChannelError) {
            try sayHello()
        } catch {
            ending = error
        }
    }

    /// Hands out what the replies of this wake-up brought. What is submitted meanwhile is taken; the end
    /// waits.
    func deliver() {
        guard !isDelivering else { return }
        isDelivering = true
        repeat {
            while core.takeCompletions({ delegate?.channelCompleted(self, $0) }) {}
            guard !core.notices.isEmpty else { continue }
            let notices = core.notices
            core.notices = []
            for notice in notices { handle(notice) }
        } while core.completionCount > 0 || !core.notices.isEmpty
        isDelivering = false
        leaveIfAnswered()
        if state == .closed { announceEnd() }
    }

    private func handle(_ notice: ChannelNotice) {
        switch notice {
        case .hello(let reply):
            if state == .connecting { greeted(reply) }
        case .event(let event): heard(event)
        case .settled: delegate?.channelSettled(self)
        case .expired: delegate?.channelExpired(self)
        case .state, .done: controls.end()?.completion(.success(notice))
        case .refused(let opcode, let status, let message):
            controls.end()?.completion(.failure(.refused(opcode, status, message: message)))
        }
        if state == .ready { sendNextControl() }
    }

    /// What the server says unasked, as long as it says no more than any server has a reason for.
    private func heard(_ event: ChannelEvent) {
        guard state != .closed else { return }
        guard eventBudget.take(now: reactor.now) else {
            return end(.violation("the server sends events without end"))
        }
        delegate?.channelEvent(self, event)
    }

    // MARK: Bytes out

    /// Encrypts what was gathered and sends it, unless a send is in flight: that one's end sends the rest.
    func send() {
        do throws(TLSError) {
            try outgoing.flush()
        } catch {
            return end(.tls(error))
        }
        sendPending()
    }

    /// Sends what is encrypted already, now, so that the server works at it while the rest of this wake-up's requests is
    /// being gathered. What the socket takes at once does not wait for a turn of the reactor, so that more may follow.
    func sendEarly() {
        guard target != nil, let fd = socket?.raw, outgoing.beginSend() else { return }
        if unsafe outgoing.noteSent(Sockets.sendNow(fd: fd, outgoing.sendingBytes)) { return }
        sendRest()
        reactor.submit()
    }

    private func sendPending() {
        guard target != nil, socket != nil, outgoing.beginSend() else { return }
        sendRest()
    }

    private func sendRest() {
        guard let target, let fd = socket?.raw else { return }
        operations += 1
        unsafe reactor.send(fd: fd, outgoing.sendingBytes, target: target, token: Token.send)
    }

    func sendCompleted(_ result: Int32) {
        operations -= 1
        let isAll = outgoing.endSend(Int(max(result, 0)))
        if state == .closed {
            if isAll, outgoing.tls.output.pendingBytes > 0 { sendPending() } else { hangUp() }
            return finishEnd()
        }
        guard isAll else {
            return end(.lost(result < 0 ? ReactorError.text(errno: -result) : "the server stopped reading"))
        }
        if controls.waiting != nil { sendNextControl() }
        if repeating != nil { goOnRepeating() }
        send()
    }

    // MARK: Pulse

    private func armPulse() {
        guard let target else { return }
        pulse = reactor.setTimer(after: DataChannel.pulseNanoseconds, target: target, token: Token.pulse)
    }

    /// Looks twice a second whether the server lives. A second of silence while something is awaited is answered with a
    /// PING; half a second more says that the server does not answer, and silence after that ends the connection, soon if not
    /// even the network answers. An idle channel says PING often enough for the server's idle limit.
    func pulsed() {
        pulse = nil
        guard state == .ready else { return }
        quietPulses = hasHeard ? 0 : quietPulses + 1
        hasHeard = false
        if core.inFlight + core.givenUp > 0 || !controls.isEmpty {
            awaitedPulses = quietPulses == 0 ? 0 : awaitedPulses + 1
            let seconds = awaitedPulses / DataChannel.pulsesPerSecond
            if seconds >= 3 * max(options.pulseSeconds, 1) { return end(.timedOut("a PING")) }
            if seconds >= DataChannel.unheardSeconds, let fd = socket?.raw,
                Sockets.isUnheard(fd: fd, milliseconds: UInt32(DataChannel.unheardSeconds * 1000))
            {
                return end(.timedOut("the network is silent"))
            }
            if awaitedPulses > DataChannel.pulsesPerSecond { isUnanswered() }
            if seconds > 0, controls.isEmpty { ping() }
        } else {
            awaitedPulses = 0
            if let idle = greeting?.idleSeconds, idle > 0,
                quietPulses * 3 >= UInt64(idle) * DataChannel.pulsesPerSecond
            {
                ping()
            }
        }
        armPulse()
    }

    /// Not even a PING was answered, which no driver and no other client holds up.
    private func isUnanswered() {
        guard unansweredSince == nil else { return }
        unansweredSince = reactor.now &- awaitedPulses * DataChannel.pulseNanoseconds
        delegate?.channelIsUnanswered(self)
    }

    private func isAnswered() {
        unansweredSince = nil
        delegate?.channelIsAnswered(self)
    }

    private static let pulseNanoseconds: UInt64 = 500_000_000
    private static let pulsesPerSecond: UInt64 = 1_000_000_000 / pulseNanoseconds

    private func ping() {
        control(.ping, handle: 0, body: []) { _ in }
    }

    /// For how long a network may acknowledge nothing before a new connection is tried.
    private static let unheardSeconds: UInt64 = 2

    // MARK: The end

    /// Ends the connection because of `error`: the peer is told as far as possible, then the socket goes.
    /// Requests wait for the next connection if the session goes on, and end otherwise.
    func end(_ error: ChannelError) {
        guard state != .closed else { return }
        ending = error
        let wasIdle = state == .idle
        state = .closed
        for timer in [deadline, pulse].compactMap({ $0 }) { reactor.cancelTimer(timer) }
        deadline = nil
        pulse = nil
        repeating = nil
        // close_notify would end the channel at the server too.
        let outlives = !error.isDeliberate && (core.isSuspended || core.canResume)
        if outlives { core.suspend() } else { core.abandon(.ioError) }
        if wasIdle {
            deliver()
            return
        }
        if outlives { hangUp() } else { sayGoodbye() }
        deliver()
        finishEnd()
    }

    /// Sends what waits and a close_notify, for a second at most.
    private func sayGoodbye() {
        outgoing.tls.close()
        if !outgoing.isSending { sendPending() }
        if outgoing.isSending, let target {
            _ = reactor.setTimer(after: DataChannel.lingerNanoseconds, target: target, token: Token.linger)
        } else {
            hangUp()
        }
    }

    private static let lingerNanoseconds: UInt64 = 1_000_000_000

    /// Makes the operations of the socket end.
    func hangUp() {
        guard let target, let fd = socket?.raw, operations > 0 else { return }
        Sockets.shutdown(fd: fd)
        reactor.cancel(target: target, token: Token.connect)
        reactor.cancel(target: target, token: Token.receive)
    }

    /// Lets go of the socket and the reactor once the kernel has nothing of ours.
    private func finishEnd() {
        guard state == .closed, operations == 0, let target else { return }
        socket = nil
        self.target = nil
        reactor.unregister(target)
    }

    private func announceEnd() {
        guard let listener = delegate, let ending else { return }
        delegate = nil
        for entry in controls.removeAll() { entry.completion(.failure(ending)) }
        listener.channelClosed(self, ending)
    }
}
