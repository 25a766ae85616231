import Core
import Wire

/// A server that is to be left: it takes no new session, and tells those that it has.
public struct Drain: Sendable, Hashable {
    /// Unix seconds by which clients should be gone.
    public let deadline: UInt64
    /// Where clients are to go instead, as `ADDRESS:PORT`; empty when they are to come back here.
    public let target: String

    /// A drain.
    public init(deadline: UInt64, target: String) {
        self.deadline = deadline
        self.target = target
    }
}

extension IOServices {
    /// The drain that is under way; nil when there is none.
    var drain: Drain? { state.withLock { $0.drain } }

    /// Takes no new session from now on and tells every channel; nil takes new sessions again.
    func set(_ drain: Drain?) async {
        let now = self.now
        state.withLock { state in
            state.drain = drain
            state.drainEnd = drain.map { now.deadline(expiry: $0.deadline) } ?? 0
        }
        guard let drain else { return configuration.logger.notice("the server is not drained any more") }
        configuration.logger.notice(
            "the server is being drained",
            metadata: ["until": "\(Timestamp.text(drain.deadline))", "redirect": "\(drain.target)"])
        await onEveryShard { shard, done in
            shard.announce(drain)
            done()
        }
    }
}

extension ServiceShard {
    /// Tells every channel that the server is being drained. With somewhere else to go, who is still here at the end of
    /// the time is sent away.
    func announce(_ drain: Drain) {
        for case let channel? in channels.all where !channel.isDetached { tell(channel, of: drain) }
        guard !drain.target.isEmpty, let target else { return }
        if let drainTimer { reactor.cancelTimer(drainTimer) }
        drainTimer = reactor.setTimer(
            after: nanosecondsUntilDrained, target: target, token: Self.drainToken)
    }

    func tell(_ channel: ServiceChannel, of drain: Drain) {
        channel.announceDraining(seconds: secondsUntilDrained, target: drain.target)
    }

    /// Tells a channel that its connection ends now, and where a server that is drained sends it.
    public func announceEnd(_ channel: ServiceChannel) {
        channel.announceDraining(seconds: 0, target: services.drain?.target ?? "")
    }

    /// By the clock for lives, from when the drain began; a second that has begun counts.
    private var secondsUntilDrained: UInt64 { (nanosecondsUntilDrained + 999_999_999) / 1_000_000_000 }

    private var nanosecondsUntilDrained: UInt64 {
        let now = services.configuration.lifeClock.now()
        let end = services.state.withLock { $0.drainEnd }
        return end > now ? min(end - now, Limits.drainSecondsMax * 1_000_000_000) : 0
    }

    /// Closes the connections that are left, unless the drain was called off.
    func endDrain() {
        drainTimer = nil
        guard services.drain?.target.isEmpty == false else { return }
        for case let channel? in channels.all where channel.isEstablished {
            channel.owner?.channelMustClose("the server is drained")
        }
    }
}
