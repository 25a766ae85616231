import Core
import Logging
import Reactor
import SluiceClient

/// Capabilities and the node's certificate are renewed while I/O goes on.
extension AttachSession {
    /// The next renewal comes when a third of the capability's life is left.
    func scheduleRenewal(_ capability: IssuedCapability) {
        self.capability = capability
        let left = secondsLeft
        let life = capability.expiry > capability.issuedAt ? capability.expiry - capability.issuedAt : 0
        nextRenewal = Self.deadline(seconds: left > life / 3 ? left - life / 3 : 1)
    }

    private var secondsLeft: UInt64 {
        let now = SystemWallClock().now()
        return capability.map { $0.expiry > now ? $0.expiry - now : 0 } ?? 0
    }

    private var isServing: Bool {
        isConnected && record?.state.isServed == true
    }

    func renew() {
        nextRenewal = .max
        guard isServing, !isRenewing else { return }
        isRenewing = true
        renewer?.request()
    }

    /// The server does not go on before it has a newer capability.
    func renewAtOnce() {
        guard !isRenewing else { return }
        renew()
    }

    func issued(_ result: Result<IssuedCapability, AttachError>) {
        switch result {
        case .success(let capability):
            self.capability = capability
            _ = thread?.remote.post { [server] in server.renew(capability) }
        case .failure(let error): retryRenewal("no new capability: \(error)")
        }
    }

    func renewed(_ result: Result<UInt64, ChannelError>) {
        switch result {
        case .success(let expiry):
            isRenewing = false
            logger.info("capability renewed", metadata: ["expiry": "\(expiry)"])
            if renewalTrouble != nil {
                renewalTrouble = nil
                if record?.state == .attached { update(.attached, attachedMessage) }
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
        nextRenewal = Self.deadline(seconds: min(max(left / 8, range.lowerBound), range.upperBound))
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
            logger.error("the capability has expired, every request fails until there is another one: \(why)")
        } else if isNew || isDue {
            logger.warning(
                left > 0
                    ? "\(why); tried again and again, the capability lasts for \(left) seconds"
                    : "\(why); tried again and again, every request fails until then")
        }
        if record?.state == .attached { update(.attached, attachedMessage) }
    }

    /// What `sluice status` says of a renewal that does not work; nil when all is well.
    var renewalMessage: String? {
        guard let renewalTrouble, let capability else { return nil }
        let expiry = Timestamp.text(capability.expiry)
        let trouble =
            "since \(Timestamp.text(renewalTrouble.since)) the capability cannot be renewed: \(renewalTrouble.reason); "
        return trouble
            + (secondsLeft > 0
                ? "I/O goes on until \(expiry)"
                : "it expired at \(expiry), and every request fails until it can be renewed")
    }
}
