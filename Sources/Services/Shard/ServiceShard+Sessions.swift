import Core
import Logging
import Reactor
import Wire

/// A HELLO that waits for the end of the connection whose place it takes.
struct WaitingGreeting {
    let channel: ServiceChannel
    let header: RequestHeader
    let hello: Hello
    let resumes: UInt16
}

/// HELLO, and what becomes of a session when connections are lost and come back.
extension ServiceShard {
    /// Answers HELLO, the first request of a connection, or says that it is answered later.
    public func hello(_ channel: ServiceChannel, _ header: RequestHeader, body: [UInt8]) -> Greeting {
        let hello: Hello
        do throws(StatusError) {
            let validity = header.validate(.greeting)
            guard validity == .ok else {
                throw StatusError(validity, "the first request is not a valid HELLO")
            }
            hello = try Hello(bytes: body)
        } catch {
            refuseHello(channel, header, error)
            return .refused
        }
        switch services.greet(hello, channel, on: self) {
        case .accepted(let membership):
            acceptHello(channel, header, hello, membership)
            return .accepted
        case .refused(let refusal):
            refuseHello(channel, header, refusal)
            return .refused
        case .undecided:
            guard let number = hello.resumes else { preconditionFailure("only a resumption has to wait") }
            greetings[channel.connection] = WaitingGreeting(
                channel: channel, header: header, hello: hello, resumes: number)
            return .undecided
        }
    }

    private func acceptHello(
        _ channel: ServiceChannel, _ header: RequestHeader, _ hello: Hello,
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
        channel.push(ReplyHeader(to: header, status: .ok), payload: reply.bytes)
        if let drain = services.drain { tell(channel, of: drain) }
    }

    private func refuseHello(_ channel: ServiceChannel, _ header: RequestHeader, _ refusal: StatusError) {
        logRefusal("hello refused", channel, refusal)
        let version = refusal.status == .versionMismatch ? UInt64(Hello.version) : 0
        channel.push(
            ReplyHeader(to: header, status: refusal.status, value: version, detail: version),
            payload: ErrorMessage.encode(refusal.message))
    }

    /// Answers a HELLO that had to wait.
    func answerGreeting(_ connection: UInt64, _ answer: Result<KeptSlots, StatusError>) {
        guard let greeting = greetings.removeValue(forKey: connection) else { return }
        let channel = greeting.channel
        let session = greeting.hello.session
        switch answer {
        case .success(let kept):
            guard !channel.isDetached else {
                // It went away while it waited; the channel is there for the next one.
                _ = services.keep(session, channel: greeting.resumes, kept)
                armSessionSweep()
                return
            }
            acceptHello(
                channel, greeting.header, greeting.hello,
                IOServices.Membership(session: session, channel: greeting.resumes, kept: kept))
            channel.owner?.channelWasGreeted(isAccepted: true)
        case .failure(let refusal):
            guard !channel.isDetached else { return }
            refuseHello(channel, greeting.header, refusal)
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
