import Core
import Logging
import Reactor
import SluiceClient

/// Capabilities and the node's certificate are renewed while I/O goes on.
extension AttachSession {
    /// The next renewal comes when a third of the capability's life is left, and once a day. That is measured from when it
    /// was asked for: the time of day here and the server's may differ, and either may be set at any moment.
    func scheduleRenewal(_ capability: IssuedCapability) {
        self.capability = capability
        lastIssue = capability.askedAt
        let life = capability.lifeSeconds
        let wait = min(life - life / 3, AttachLimits.renewalSecondsMax)
        nextRenewal = max(capability.askedAt.adding(seconds: wait), earliestRenewal)
    }

    /// Every capability is a durable record of the server: whatever the server says, there is some time between two.
    private var earliestRenewal: UInt64 {
        let range = AttachLimits.renewalPauseSeconds
        let pause = min(max((capability?.lifeSeconds ?? 0) / 4, range.lowerBound), range.upperBound)
        return lastIssue.adding(seconds: pause)
    }

    private var secondsLeft: UInt64 {
        if awaitsCapability { return 0 }
        let now = SystemClock.monotonic()
        return capability.map { $0.deadline > now ? ($0.deadline - now) / 1_000_000_000 : 0 } ?? 0
    }

    private var isServing: Bool {
        isConnected && (record?.state.isServing ?? false)
    }

    func renew() {
        nextRenewal = .max
        guard isServing, !isRenewing else { return }
        isRenewing = true
        renewer?.request()
    }

    /// The server does not go on before it has a newer capability, or will soon not.
    func renewAtOnce() {
        guard isServing, !isRenewing else { return }
        nextRenewal = min(nextRenewal, earliestRenewal)
    }

    func issued(_ result: Result<IssuedCapability, AttachError>) {
        switch result {
        case .success(let capability):
            self.capability = capability
            lastIssue = capability.askedAt
            _ = thread?.remote.post { [server] in server.renew(capability) }
        case .failure(let error): retryRenewal("no new capability: \(error)")
        }
    }

    func renewed(_ result: Result<UInt64, ChannelError>) {
        switch result {
        case .success(let expiry):
            isRenewing = false
            awaitsCapability = false
            logger.info("capability renewed", metadata: ["expiry": "\(expiry)"])
            if renewalTrouble != nil {
                renewalTrouble = nil
                describe()
            }
            if let capability { scheduleRenewal(capability) }
        case .failure(let error): retryRenewal("the server did not take the new capability: \(error)")
        }
    }

    /// I/O goes on until the capability expires; the warnings come when it begins, and in intervals that grow
    /// to an hour, and are in the status all the time.
    private func retryRenewal(_ why: String) {
        isRenewing = false
        guard isServing else { return }
        let left = secondsLeft
        let range = AttachLimits.renewalRetrySeconds
        let retry = Self.deadline(seconds: min(max(left / 8, range.lowerBound), range.upperBound))
        // One that was issued and not taken is a record of the server, too.
        nextRenewal = max(retry, earliestRenewal)
        let now = SystemClock.monotonic()
        let isNew = renewalTrouble?.reason != why
        if renewalTrouble == nil {
            renewalTrouble = Trouble(
                since: SystemWallClock().now(), reason: why,
                reports: ReportTimes(
                    now: now, firstSeconds: AttachLimits.renewalReportSeconds.lowerBound,
                    longestSeconds: AttachLimits.renewalReportSeconds.upperBound))
        }
        renewalTrouble?.reason = why
        let isDue = renewalTrouble?.reports.isDue(now) ?? false
        if left == 0, !(renewalTrouble?.isOver ?? true) {
            renewalTrouble?.isOver = true
            logger.error("the capability has ended, requests wait until there is another one: \(why)")
        } else if isNew || isDue {
            logger.warning(
                left > 0
                    ? "\(why); tried again and again, the capability lasts for \(left.counted("second"))"
                    : "\(why); tried again and again, requests wait until then")
        }
        describe()
    }

    /// What `sluice status` says of a renewal that does not work; nil when all is well.
    var renewalMessage: String? {
        guard let renewalTrouble, capability != nil else { return nil }
        let trouble =
            "since \(Timestamp.text(renewalTrouble.since)) the capability cannot be renewed: \(renewalTrouble.reason); "
        return trouble
            + (secondsLeft > 0
                ? "I/O goes on until \(Timestamp.text(SystemWallClock().now() + secondsLeft))"
                : "it has ended, and requests wait until it can be renewed")
    }
}
