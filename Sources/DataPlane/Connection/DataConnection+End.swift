import Core
import Glibc
import Logging
import Reactor
import Services

/// What ends a connection: time, the services, the server.
extension DataConnection {
    // MARK: Time

    /// The next moment at which something is late; nil when nothing is awaited.
    private var deadline: UInt64? {
        if phase.isClosed { return nil }
        let options = shard.options
        var due = phase.deadline(
            ConnectionPhase.Patience(
                hello: options.helloNanoseconds, linger: options.lingerNanoseconds,
                lastLinger: Limits.lastLingerNanoseconds))
        if phase.isServing {
            if let since = reader.halfSince { due = min(due, since + options.frameNanoseconds) }
            if shard.idleNanoseconds > 0 { due = min(due, heardAt + shard.idleNanoseconds) }
        }
        due = min(
            due,
            sending.deadline(patience: options.sendNanoseconds, hurried: Limits.hurriedSendNanoseconds))
        return due == .max ? nil : due
    }

    /// Has the timer fire no later than the next deadline; one that fires earlier looks again.
    func armTimer() {
        guard let due = deadline, due < timerDue, let target else { return }
        if let timer { reactor.cancelTimer(timer) }
        timerDue = due
        let now = reactor.now
        timer = reactor.setTimer(after: due > now ? due - now : 0, target: target, token: Token.timer)
    }

    func timerFired() {
        timer = nil
        timerDue = .max
        guard let due = deadline else { return }
        guard due <= reactor.now else { return armTimer() }
        if sending.isLookDue(now: reactor.now) { return endDeaf() }
        switch phase.lateness(isSending: sending.isSending) {
        case .close(let reason): close(reason)
        case .teardown: return teardown()
        }
        if sending.isSending { teardown() }
    }

    /// Ends a connection that ends with the server when its client takes nothing: nothing is waited for that does not come.
    private func endDeaf() {
        let patience = Limits.inTheWayMilliseconds
        sending.look(at: reactor.now + Limits.deafLookNanoseconds)
        guard let since = sending.since, reactor.now &- since >= UInt64(patience) * 1_000_000,
            Sockets.isUntaken(fd: fd, milliseconds: patience)
        else { return armTimer() }
        logEnd("the server is stopping, and it does not read")
        teardown()
    }

    // MARK: What services say of the connection

    func channelMustClose(_ reason: String) { close(reason) }

    func channelIsInTheWay() {
        let patience = UInt64(Limits.inTheWayMilliseconds) * 1_000_000
        let isDeaf =
            sending.since.map { reactor.now &- $0 > patience } ?? false
            && Sockets.isUntaken(fd: fd, milliseconds: Limits.inTheWayMilliseconds)
        let isSilent = reader.isInsideFrame && reactor.now &- heardAt > patience
        guard isDeaf || isSilent, phase.isServing else { return }
        logEnd(
            "it \(isDeaf ? "does not read" : "does not go on writing"), and others of its node wait for that")
        teardown()
    }

    func channelMustHurry() {
        sending.hurry(true)
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
        guard phase.isServing else { return }
        if Sockets.isUnheard(fd: fd, milliseconds: Limits.unheardMilliseconds) {
            logEnd("nobody is at its other end")
            return teardown()
        }
        guard !isDoubted, let target else { return }
        isDoubted = true
        Sockets.setKeepAlive(fd: fd, idleSeconds: 1, intervalSeconds: 1)
        _ = reactor.setTimer(after: Limits.doubtNanoseconds, target: target, token: Token.doubt)
    }

    func doubtEnded() {
        isDoubted = false
        Sockets.setKeepAlive(
            fd: fd, idleSeconds: Limits.keepAliveSeconds, intervalSeconds: Limits.keepAliveIntervalSeconds)
    }

    // MARK: The end

    /// Sends what waits and then ends the connection; nothing more that arrives is looked at. A reason is logged.
    ///
    /// - Parameter isByClient: whether the client said that it closes; without that it may go on with the channel.
    func close(_ reason: String?, isByClient: Bool = false) {
        guard phase.close(now: reactor.now, isByClient: isByClient) else { return }
        if let reason { logEnd(reason) }
        reader.end()
        held = []
        scheduleFlush()
        armTimer()
    }

    private func logEnd(_ reason: String) {
        shard.logger.info(
            "channel closed by the server", metadata: ["peer": "\(peerAddress)", "reason": "\(reason)"])
    }

    /// Takes no further request, and ends the connection when those that it has are answered. Its client may go on with
    /// the channel, on this server's next start or elsewhere.
    func finish() {
        guard phase.finish(hasHalfRequest: reader.isInsideRequest) else {
            return close("the server is stopping")
        }
        if let channel { services.announceEnd(channel) }
        sending.look(at: reactor.now + Limits.deafLookNanoseconds)
        reader.end()
        held = []
        scheduleFlush()
        armTimer()
    }

    /// Everything was sent: says so, and leaves the peer time to read it before the descriptor goes.
    func linger() {
        if tls.isOpen {
            tls.close()
            if tls.output.pendingBytes > 0 { return send() }
        }
        phase.linger()
        _ = Glibc.shutdown(fd, Int32(SHUT_WR))
        receive()
    }

    /// Ends the connection now.
    func teardown() {
        guard let target, let isByClient = phase.end() else { return }
        reader.end()
        held = []
        noteUnread()
        if let timer { reactor.cancelTimer(timer) }
        timer = nil
        self.target = nil
        if let channel {
            dropRest()
            services.detach(channel, isClosedByClient: isByClient)
            self.channel = nil
        }
        // By name: what is cancelled by descriptor is looked for among all that the kernel has, of every connection.
        if receiving.isReceiving { reactor.cancel(target: target, token: Token.receive) }
        if receiving.isPolled { reactor.cancel(target: target, token: Token.readable) }
        if sending.isSending { reactor.cancel(target: target, token: Token.send) }
        reactor.close(fd: fd, target: target, token: Token.close)
        reactor.unregister(target)
        shard.remove(self)
    }
}
