import Core
import Reactor
import Wire

/// The timers of a channel.
enum ChannelTimer {
    static let deadline: UInt32 = 1
    static let pulse: UInt32 = 2
}

/// The connection's life: HELLO, bytes in and out, pulse, end. What the link calls has its name in it.
extension DataChannel {
    // MARK: Opening

    /// For the link: somebody took the connection.
    func linkConnected() {
        dialled()
        restartDeadline(seconds: options.connectSeconds)
    }

    /// For the link: it is secured. Says HELLO.
    func linkSecured() {
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
            after: Nanoseconds.seconds(seconds), target: target, token: ChannelTimer.deadline)
    }

    private func greeted(_ reply: HelloReply) {
        if let deadline { reactor.cancelTimer(deadline) }
        deadline = nil
        greeting = reply
        state = .ready
        armPulse()
        delegate?.channelReady(self)
    }

    // MARK: Bytes in

    /// For the link: something has arrived, whatever it is.
    func linkHeard() {
        hasHeard = true
        if unansweredSince != nil { isAnswered() }
    }

    /// Takes apart all that has arrived; returns what was wrong with it.
    func linkHasInput() -> ChannelError? {
        do throws(ChannelError) {
            while true {
                let isDirect = core.isRoomDirect
                guard let count = try unsafe link.read(into: core.room) else { return nil }
                guard count > 0 else { return .lost("the server closed it") }
                try core.received(count, isDirect: isDirect)
            }
        } catch {
            return error
        }
    }

    /// For the link: all that has arrived is taken. Hands out what it brought, and ends if `failure` says that it
    /// was the last.
    func linkHasNoMore(_ failure: ChannelError?) {
        deliver()
        if let failure { return end(failure) }
        if link.pendingBytes > 0 { askForBatchEnd() }
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

    /// Passes on what the server says unasked, as long as it says no more than any server has a reason for.
    private func heard(_ event: ChannelEvent) {
        guard state != .closed else { return }
        guard eventBudget.take(now: reactor.now) else {
            return end(.violation("the server sends events without end"))
        }
        delegate?.channelEvent(self, event)
    }

    // MARK: Bytes out

    /// Writes what was gathered and sends it, unless a send is in flight: that one's end sends the rest.
    func send() {
        do throws(ChannelError) {
            try outgoing.flush()
        } catch {
            return end(error)
        }
        link.send()
    }

    /// For the link: a send is over.
    func linkHasSent() {
        if controls.waiting != nil { sendNextControl() }
        if repeating != nil { goOnRepeating() }
        send()
    }

    // MARK: Pulse

    private func armPulse() {
        guard let target else { return }
        pulse = reactor.setTimer(
            after: DataChannel.pulseNanoseconds, target: target, token: ChannelTimer.pulse)
    }

    /// Looks twice a second whether the server lives. A second of silence while something is awaited is answered
    /// with a PING; half a second more says that the server does not answer, and silence after that ends the
    /// connection, soon if not even the network answers. An idle channel says PING often enough for the server's
    /// idle limit.
    func pulsed() {
        pulse = nil
        guard state == .ready else { return }
        quietPulses = hasHeard ? 0 : quietPulses + 1
        hasHeard = false
        if core.inFlight + core.givenUp > 0 || !controls.isEmpty {
            awaitedPulses = quietPulses == 0 ? 0 : awaitedPulses + 1
            let seconds = awaitedPulses / DataChannel.pulsesPerSecond
            if seconds >= 3 * max(options.pulseSeconds, 1) { return end(.timedOut("a PING")) }
            if seconds >= DataChannel.unheardSeconds,
                link.isUnheard(milliseconds: UInt32(DataChannel.unheardSeconds * 1000))
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

    /// Tells that not even a PING was answered, which no driver and no other client holds up.
    private func isUnanswered() {
        guard unansweredSince == nil else { return }
        unansweredSince = reactor.now &- awaitedPulses * DataChannel.pulseNanoseconds
        delegate?.channelIsUnanswered(self)
    }

    private func isAnswered() {
        unansweredSince = nil
        delegate?.channelIsAnswered(self)
    }

    private static var pulseNanoseconds: UInt64 { 500_000_000 }
    private static var pulsesPerSecond: UInt64 { 1_000_000_000 / pulseNanoseconds }

    private func ping() {
        control(.ping, handle: 0, body: []) { _ in }
    }

    /// For how long a network may acknowledge nothing before a new connection is tried.
    private static var unheardSeconds: UInt64 { 2 }

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
        if let target { reactor.unregister(target) }
        target = nil
        if !wasIdle { link.end(inOrder: !outlives) }
        deliver()
    }

    private func announceEnd() {
        guard let listener = delegate, let ending else { return }
        delegate = nil
        for entry in controls.removeAll() { entry.completion(.failure(ending)) }
        listener.channelClosed(self, ending)
    }
}
