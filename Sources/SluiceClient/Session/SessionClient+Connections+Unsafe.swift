import Core
import Reactor
import Wire

/// How the channels of a session come, go and come back.
extension SessionClient {
    // MARK: Connecting

    func connect(_ member: SessionMember<Link>) {
        member.phase = .connecting
        var setup = options.channel
        setup.ticket = ticketOfSession
        setup.outlivesConnections = options.reconnects
        if let interruption {
            setup.dialMilliseconds = Backoff.dialMilliseconds(
                since: reactor.now - interruption.since, usual: usualDial, longest: setup.dialMilliseconds)
        }
        do throws(ChannelError) {
            let channel = DataChannel(
                reactor: reactor, link: try transport.makeLink(to: places.current, on: reactor),
                options: setup, core: member.core, delegate: self)
            member.channel = channel
            member.placesRound = places.round
            channel.connect()
        } catch {
            if isReady { tryAgain(member, error, reached: true) } else { end(error) }
        }
    }

    /// The first channel starts, joins or resumes the session and opens the resource; the others follow once
    /// that has worked.
    public func channelReady(_ channel: DataChannel<Link>) {
        guard let member = member(of: channel), ending == nil else { return }
        places.worked(channel.address)
        usualDial = channel.dialNanoseconds ?? usualDial
        if ticketOfSession == nil {
            ticketOfSession = channel.ticket
            sessionBegan = reactor.now
        }
        open(member)
    }

    func open(_ member: SessionMember<Link>) {
        guard let channel = member.channel, ending == nil else { return }
        member.phase = .opening
        // The claim of our own session is no obstacle; only a successor wants what a dead process holds.
        let takesOver = options.takesOver && !isReady
        member.openedWith = options.capability
        channel.open(
            capability: options.capability, kind: rules.kind, rights: options.rights, takesOver: takesOver
        ) { [self] result in
            guard member.channel === channel, ending == nil else { return }
            switch result {
            case .success(let (handle, resource)): opened(member, channel, handle, resource)
            case .failure(let error): notOpened(member, error)
            }
        }
    }

    private func opened(
        _ member: SessionMember<Link>, _ channel: DataChannel<Link>, _ handle: UInt32,
        _ described: ResourceState
    ) {
        switch rules.judge(described, isOpened: true, known: state) {
        case .over(let error): end(error)
        // Another server may be right: the client asks this one again, or another, and what waits is not lost for that.
        case .notBelieved(let fault): channel.end(.violation(fault))
        case .taken(let believed, let findings):
            conflictSince = nil
            member.handle = handle
            take(believed, findings, handle: handle)
            channel.repeatUnanswered(handle: handle, isShared: findings.isShared)
        }
    }

    private func notOpened(_ member: SessionMember<Link>, _ error: ChannelError) {
        guard case .refused = error else { return }
        switch ReconnectVerdict(error) {
        case .conflict:
            guard options.takesOver, isPatient else { return end(error) }
            member.phase = .conflicted
            setTimer(member, after: SessionTimes.conflictPauseNanoseconds)
        case .newCapability where isReady:
            interrupted(error)
            guard member.phase != .needsCapability else { return }
            // The user has brought another capability meanwhile.
            guard member.openedWith == options.capability else { return open(member) }
            // The capability that waits to be taken has expired meanwhile.
            let expired = renewal
            renewal = nil
            expired?(.failure(error))
            guard ending == nil else { return }
            let isFirst = !members.contains { $0.phase == .needsCapability }
            member.phase = .needsCapability
            if isFirst { needsCapability() }
        case .retry where isReady:
            interrupted(error)
            member.phase = .conflicted
            setTimer(
                member, after: max(member.backoff.next(random: randomNumber()), Backoff.firstNanoseconds))
        case .retry where error.status == .busy && isPatient:
            member.phase = .conflicted
            setTimer(member, after: SessionTimes.conflictPauseNanoseconds)
        case .retry, .newSession, .newCapability, .final: end(error)
        }
    }

    /// Whether an obstacle has been there for so short a time that it may go by itself.
    private var isPatient: Bool {
        let since = conflictSince ?? reactor.now
        conflictSince = since
        return reactor.now - since < SessionTimes.conflictNanoseconds
    }

    /// Everything that was unanswered is on its way again.
    public func channelOpened(_ channel: DataChannel<Link>) {
        guard let member = member(of: channel), ending == nil else { return }
        member.phase = .open
        member.openedAt = reactor.now
        isExpired = false
        interruption?.repeated += channel.repeated
        for other in members where other.phase == .idle && other.channel == nil { connect(other) }
        addRoute(channel, handle: member.handle)
        if member.openedWith != options.capability {
            catchUp(member, channel)
        } else if let renewal, let state {
            self.renewal = nil
            renewal(.success(state))
        }
        guard members.allSatisfy({ $0.phase == .open }) else {
            if isReady { hasRoom() }
            return
        }
        if !isReady {
            isReady = true
            ready()
            return
        }
        resumed()
        hasRoom()
    }

    /// Sends the capability that the user brought while OPEN was under way with the one before.
    private func catchUp(_ member: SessionMember<Link>, _ channel: DataChannel<Link>) {
        let capability = options.capability
        channel.renew(handle: member.handle, capability: capability) { [self] result in
            guard member.channel === channel, ending == nil else { return }
            let outcome: Result<ResourceState, ChannelError>
            switch result {
            case .success(let described):
                member.openedWith = capability
                outcome = taken(described, on: [member])
            case .failure(.refused(let opcode, let status, let message)):
                outcome = .failure(.refused(opcode, status, message: message))
            // A channel that is lost meanwhile opens with the new one.
            case .failure: return
            }
            if let waiting = renewal {
                renewal = nil
                return waiting(outcome)
            }
            // The user was told that it is in use: a channel took it, before a clock was set perhaps.
            guard case .failure(let error) = outcome, ending == nil else { return }
            if error.status == .expired || error.status == .notYetValid { needsCapability() }
        }
    }

    // MARK: A capability that has ended

    /// Has requests wait that the server refuses because their capability has ended, and asks the user for another one.
    func authorityEnded() {
        guard !isExpired else { return }
        isExpired = true
        interrupted(.expired)
        if ending == nil { needsCapability() }
    }

    /// The server has taken a newer one on every channel that is open.
    func authorityReturned() {
        guard isExpired, ending == nil else { return }
        isExpired = false
        submitLeftovers()
        if members.allSatisfy({ $0.phase == .open }) { resumed() }
        hasRoom()
    }

    // MARK: Losing and finding again

    /// For the channels.
    public func channelClosed(_ channel: DataChannel<Link>, _ error: ChannelError) {
        guard let member = member(of: channel) else { return }
        member.channel = nil
        member.phase = .idle
        member.handle = 0
        removeRoute(channel)
        if let timer = member.timer { reactor.cancelTimer(timer) }
        member.timer = nil
        if ending != nil {
            // The user may have closed the client from a call that told it of this loss: what waits for another
            // connection has none to wait for. That call is not over yet, and the end comes after it.
            member.core.abandon(.ioError)
            return askForBatchEnd()
        }
        guard isReady else { return startFailed(member, channel, error) }
        if member.openedAt > 0 { member.backoff.hasHeld(nanoseconds: reactor.now - member.openedAt) }
        member.openedAt = 0
        switch ReconnectVerdict(error) {
        case .final: end(error)
        case .newSession where isKnown(elsewhere: channel, of: member): tryAgain(member, error, reached: true)
        case .newSession: sessionLost(member, error)
        // Without RESUME nobody can say what became of the requests in flight.
        case .retry where channel.greeting != nil && !member.core.isSuspended: end(error)
        case .retry, .newCapability, .conflict:
            if case .tls = error { places.isForeign(channel.address) }
            if channel.greeting == nil, places.failed(channel.address) { lookUp() }
            tryAgain(member, error, reached: channel.dialNanoseconds != nil)
        }
    }

    /// Whether a server that does not know the session is not the one to ask: it is where the clients were sent by
    /// mistake, or another one has the session.
    private func isKnown(elsewhere channel: DataChannel<Link>, of member: SessionMember<Link>) -> Bool {
        if !places.isGone(by: channel.address, asked: member.placesRound) { return true }
        // The server that has it may be away for a moment, or slow to answer.
        if places.isDoubtful(channel.address), let interruption,
            reactor.now - interruption.since < Backoff.soonNanoseconds
        {
            if places.failed(channel.address) { lookUp() }
            return true
        }
        let isElsewhere = members.contains { other in
            other.channel.map { $0.greeting != nil && $0.address != channel.address } ?? false
        }
        if isElsewhere, places.failed(channel.address) { lookUp() }
        return isElsewhere
    }

    /// Before the session was ready once, only another address may help.
    private func startFailed(
        _ member: SessionMember<Link>, _ channel: DataChannel<Link>, _ error: ChannelError
    ) {
        if ticketOfSession != nil, ReconnectVerdict(error) == .newSession,
            !places.isGone(by: channel.address, asked: member.placesRound)
        {
            return connect(member)
        }
        guard channel.greeting == nil, case .retry = ReconnectVerdict(error), !places.failed(channel.address)
        else { return end(error) }
        if case .refused = error { return end(error) }
        connect(member)
    }

    /// - Parameter reached: whether somebody took the connection of the last try.
    private func tryAgain(_ member: SessionMember<Link>, _ error: ChannelError, reached: Bool) {
        interrupted(error)
        guard ending == nil else { return }
        // Only one may begin a session.
        if ticketOfSession == nil, members.contains(where: { $0 !== member && $0.phase != .idle }) {
            member.phase = .idle
            return
        }
        member.phase = .waiting
        let since = interruption.map { reactor.now - $0.since } ?? 0
        let wait =
            reached
            ? member.backoff.next(random: randomNumber())
            : member.backoff.nextWhenUnreachable(since: since, random: randomNumber())
        setTimer(member, after: wait)
    }

    private func setTimer(_ member: SessionMember<Link>, after nanoseconds: UInt64) {
        guard let target, ending == nil else { return }
        if let timer = member.timer { reactor.cancelTimer(timer) }
        member.timer = reactor.setTimer(after: nanoseconds, target: target, token: UInt32(member.index))
    }

    func randomNumber() -> UInt64 {
        options.random.bytes(8).reduce(0) { $0 << 8 | UInt64($1) }
    }

    private func lookUp() {
        guard let lookUp = options.lookUp, !isLookingUp, reactor.now >= nextLookUp else { return }
        isLookingUp = true
        nextLookUp = reactor.now + SessionTimes.lookUpNanoseconds
        let remote = reactor.remote
        let answer = PlacesAnswer { [self] found in
            isLookingUp = false
            places.replace(found)
        }
        lookUp { found in remote.post { answer.take(found) } }
    }

    /// The server does not know the session any more: a new one executes what changes nothing; the rest fails.
    private func sessionLost(_ member: SessionMember<Link>, _ error: ChannelError) {
        // Only the client that began the session can begin another.
        guard options.channel.ticket == nil || options.succeedsSession else { return end(error) }
        let isLossy = ledger.lose()
        if isLossy { (owesFlushFailure, isTellingLoss) = (true, false) }
        for other in members { unsafe leftovers += other.core.takeExpired() }
        lastLoss = "the server does not know the session any more: changes under way have failed"
        if isLossy {
            lastLoss += ", and changes that were acknowledged and not flushed may be lost"
            failLeftovers { $0 == .flush }
        }
        ticketOfSession = nil
        // A session that had just begun was lost for the reason of the one before, perhaps.
        let wasSteady = reactor.now - sessionBegan > Backoff.steadyNanoseconds
        for other in members {
            unsafe leftovers += other.core.surrender(losesFlushes: isLossy)
            if wasSteady { other.backoff.reset() }
            guard other !== member else { continue }
            let channel = other.channel
            other.channel = nil
            other.phase = .idle
            if let timer = other.timer { reactor.cancelTimer(timer) }
            other.timer = nil
            if let channel {
                removeRoute(channel)
                channel.close()
            }
        }
        askForBatchEnd()
        tryAgain(member, error, reached: true)
    }

    private func interrupted(_ error: ChannelError) {
        guard ending == nil else { return }
        let reason = error.description
        if interruption == nil {
            isUnanswered = false
            interruption = Interruption(since: reactor.now, reason: reason)
            seen.reconnected()
            if let seconds = options.reconnectSeconds, let target {
                reconnectLimit = reactor.setTimer(
                    after: Nanoseconds.seconds(seconds), target: target, token: SessionTimes.limitToken)
            }
        } else if interruption?.reason == reason {
            return
        }
        interruption?.reason = reason
        interrupted(by: error)
    }

    private func resumed() {
        guard let interruption else { return }
        self.interruption = nil
        if let reconnectLimit { reactor.cancelTimer(reconnectLimit) }
        reconnectLimit = nil
        resumed(
            afterNanoseconds: reactor.now - interruption.since, repeated: interruption.repeated)
    }

    func reconnectingTookTooLong() {
        reconnectLimit = nil
        guard let interruption, let seconds = options.reconnectSeconds else { return }
        end(.lost("it was not back after \(seconds) s: \(interruption.reason)"))
    }

    // MARK: The end

    func end(_ error: ChannelError) {
        guard ending == nil else { return }
        ending = error
        move?.stop()
        move = nil
        failLeftovers()
        for member in members {
            if let timer = member.timer { reactor.cancelTimer(timer) }
            member.timer = nil
            if let channel = member.channel { channel.close() } else { member.core.abandon(.ioError) }
        }
        askForBatchEnd()
    }

    /// Says the end when the last channel has gone and every completion is out.
    func announceEnd() {
        guard let ending, local.isEmpty,
            members.allSatisfy({ $0.channel == nil && $0.core.completionCount == 0 }), !hasAnnouncedEnd
        else { return }
        hasAnnouncedEnd = true
        if let target { reactor.unregister(target) }
        target = nil
        let renewal = renewal
        self.renewal = nil
        renewal?(.failure(ending))
        closed(ending)
    }

    func member(of channel: DataChannel<Link>) -> SessionMember<Link>? {
        members.first { $0.channel === channel }
    }
}
