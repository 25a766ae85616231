import Core
import Reactor

/// A thread that asks the control API for capabilities, so that nothing else waits for it, and keeps the node's
/// certificate from expiring.
final class CapabilityRenewer: Sendable {
    private let requests = Mailbox<Bool>()

    /// Answers go to `inbox`.
    init(
        access: VolumeAccess, rights: Rights, lifetimeSeconds: UInt64, inbox: Mailbox<AttachNotice>
    ) throws(AttachError) {
        let requests = requests
        try BackgroundThread.start("renewer") {
            var access = access
            // What came of asking for the first capability.
            let start = access.certificate
            if start.renewals > 0 || start.trouble != nil { inbox.post(.certificate(start)) }
            while true {
                let due = SystemClock.monotonic().addingSaturated(
                    Nanoseconds.seconds(access.secondsUntilCertificateIsDue))
                guard let isWanted = requests.take(until: due) else {
                    CapabilityRenewer.renewCertificate(&access, inbox)
                    continue
                }
                guard isWanted else { return }
                let before = access.certificate
                do throws(AttachError) {
                    let capability = try access.issue(rights: rights, lifetimeSeconds: lifetimeSeconds)
                    inbox.post(.issued(.success(capability)))
                } catch {
                    inbox.post(.issued(.failure(error)))
                }
                // The control API is asked with a certificate that is renewed first, when that is due.
                if access.certificate != before { inbox.post(.certificate(access.certificate)) }
            }
        }
    }

    private static func renewCertificate(_ access: inout VolumeAccess, _ inbox: Mailbox<AttachNotice>) {
        let before = access.certificate
        // What went wrong is in `access`.
        do throws(AttachError) { _ = try access.renewCertificate() } catch {}
        if access.certificate != before { inbox.post(.certificate(access.certificate)) }
    }

    /// Asks for another capability; `issued` follows.
    func request() { requests.post(true) }

    /// Ends the thread after the request that it may be at.
    func stop() { requests.post(false) }
}
