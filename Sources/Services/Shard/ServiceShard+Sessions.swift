import Core
import Logging
import Reactor
import Wire

/// A HELLO that waits for the end of the connection whose place it takes.
struct WaitingGreeting {
    let channel: ServiceChannel
    let request: ResourceRequest
    let hello: Hello
    let resumes: UInt16
}

/// HELLO, and what becomes of a session when connections are lost and come back.
extension ServiceShard {
    /// Refuses a first request that is not HELLO, or that cannot be one; the channel ends with the answer.
    public func refuseGreeting(_ channel: ServiceChannel, _ request: ResourceRequest) {
        statistics.refusals[request.verdict, default: 0] += 1
        channel.push(
            RequestAnswer(to: request, request.verdict), .text("the first request of a channel is HELLO"))
    }

    /// Answers HELLO, the first request of a connection, or says that it is answered later.
    public func hello(_ channel: ServiceChannel, _ request: ResourceRequest, _ body: RequestBody) -> Greeting
    {
        let hello: Hello
        switch body {
        case .hello(let body): hello = body
        case .invalid(let error):
            refuseHello(channel, request, error)
            return .refused
        case .nothing, .open, .renew, .structure:
            preconditionFailure("a front end reads as HELLO what comes first")
        }
        switch services.greet(hello, channel, on: self) {
        case .accepted(let membership):
            acceptHello(channel, request, hello, membership)
            return .accepted
        case .refused(let refusal):
            refuseHello(channel, request, refusal)
            return .refused
        case .undecided:
            guard let number = hello.resumes else { preconditionFailure("only a resumption has to wait") }
            greetings[channel.connection] = WaitingGreeting(
                channel: channel, request: request, hello: hello, resumes: number)
            return .undecided
        }
    }

    private func acceptHello(
        _ channel: ServiceChannel, _ request: ResourceRequest, _ hello: Hello,
        _ membership: IOServices.Membership
    ) {
        let configuration = services.configuration
        let granted = hello.granted(
            payloadBytesMax: configuration.payloadBytesMax, slots: configuration.slotsMax)
        let isResumable = hello.features.contains(.resume)
        channel.session = membership.session
        channel.sessionChannel = membership.channel
        channel.isResumable = isResumable
        channel.payloadBytesMax = granted.payloadBytesMax
        if let kept = membership.kept {
            channel.isResumed = true
            let wanted = hello.slots == 0 ? kept.count : min(Int(hello.slots), kept.count)
            channel.slots = SlotTable(resuming: kept, count: kept.count == 0 ? Int(granted.slots) : wanted)
        } else {
            channel.slots = SlotTable(count: Int(granted.slots))
        }
        let reply = HelloReply(
            slots: UInt16(channel.slots.count), payloadBytesMax: granted.payloadBytesMax,
            features: isResumable ? .resume : [], session: membership.session, secret: membership.secret,
            channel: membership.channel, idleSeconds: configuration.idleSeconds,
            resumption: membership.kept?.resumption ?? .fresh,
            lingerSeconds: isResumable ? configuration.lingerSeconds : 0, cluster: configuration.cluster,
            serverName: configuration.serverName)
        channel.push(RequestAnswer(to: request, .ok), .hello(reply))
        if let drain = services.drain { tell(channel, of: drain) }
    }

    private func refuseHello(_ channel: ServiceChannel, _ request: ResourceRequest, _ refusal: StatusError) {
        logRefusal("hello refused", channel, refusal)
        let version = refusal.status == .versionMismatch ? UInt64(Hello.version) : 0
        channel.push(
            RequestAnswer(to: request, refusal.status, value: version, detail: version),
            .text(refusal.message))
    }

    /// Answers a HELLO that had to wait.
    func answerGreeting(_ connection: UInt64, _ answer: Result<KeptSlots, StatusError>) {
        guard let greeting = greetings.removeValue(forKey: connection) else { return }
        let channel = greeting.channel
        let session = greeting.hello.session
        switch answer {
        case .success(let kept):
            guard !channel.isDetached else {
                // The connection went away while it waited; the channel is kept for the next one.
                _ = services.keep(session, channel: greeting.resumes, kept)
                armSessionSweep()
                return
            }
            acceptHello(
                channel, greeting.request, greeting.hello,
                IOServices.Membership(session: session, channel: greeting.resumes, kept: kept))
            channel.owner?.channelWasGreeted(isAccepted: true)
        case .failure(let refusal):
            guard !channel.isDetached else { return }
            refuseHello(channel, greeting.request, refusal)
            channel.owner?.channelWasGreeted(isAccepted: false)
        }
    }

    /// Closes a connection whose client would repeat writes that come too late.
    func closeSpoiled(_ connection: UInt64) {
        for case let channel? in channels.all where channel.connection == connection && !channel.isDetached {
            channel.owner?.channelMustClose("its authority to write ended before it opened the volume again")
        }
    }

    /// Closes a connection of a session that has opened nothing, or whose node was removed, and makes room for others.
    func closeCrowdedOut(_ connection: UInt64) {
        for case let channel? in channels.all where channel.connection == connection && !channel.isDetached {
            channel.owner?.channelMustClose("it has nothing open, and the server has its most sessions")
        }
    }

    /// Ends a connection at once whose channel goes on elsewhere.
    func supersede(connection: UInt64) {
        for case let channel? in channels.all where channel.connection == connection && !channel.isDetached {
            accessLog.info(
                "connection superseded",
                ["session": "\(channel.session ?? .zero)", "peer": "\(channel.peerAddress)"])
            if let owner = channel.owner { owner.channelWasSuperseded() } else { detach(channel) }
        }
    }

    /// Leaves the session of a channel that has ended, or has the channel kept.
    func partWithSession(_ channel: ServiceChannel) {
        guard let session = channel.session else { return }
        let endsSession: Bool
        if channel.isLost {
            endsSession = services.keep(session, channel: channel.sessionChannel, channel.slots.kept)
            armSessionSweep()
        } else {
            endsSession = services.leave(
                session, channel: channel.sessionChannel, isClosed: channel.isClosedByClient)
        }
        if endsSession {
            accessLog.info("session ended", ["session": "\(session)", "peer": "\(channel.peerAddress)"])
        }
    }

    /// Starts looking after sessions without a connection; goes on while there are any.
    func armSessionSweep() {
        guard sessionTimer == nil, let target else { return }
        sessionTimer = reactor.setTimer(
            after: Limits.sessionSweepNanoseconds, target: target, token: Self.sessionToken)
    }

    func sweepSessions() {
        sessionTimer = nil
        if services.sweepSessions() { armSessionSweep() }
    }
}
