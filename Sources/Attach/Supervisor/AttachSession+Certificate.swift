import Core
import Logging
import Reactor

/// The node's certificate, with which capabilities are asked for: what is wrong with it is said long before it ends.
extension AttachSession {
    /// The certificate was renewed, or it was due and could not be.
    func heard(_ state: CertificateState) {
        if certificateRenewals != state.renewals {
            certificateRenewals = state.renewals
            logger.info("node certificate renewed", metadata: ["expiry": "\(Timestamp.text(state.expiry))"])
        }
        if let trouble = state.trouble {
            let since = certificateTrouble?.since ?? SystemWallClock().now()
            certificateTrouble = (state, since)
            logger.warning(
                "the node's certificate: \(trouble)", metadata: ["expiry": "\(Timestamp.text(state.expiry))"])
        } else {
            certificateTrouble = nil
        }
        describe()
    }

    /// What `sluice status` says of a device that works; nil when all is well.
    var attachedMessage: String? {
        let parts = [renewalMessage, certificateMessage].compactMap(\.self)
        return parts.isEmpty ? nil : parts.joined(separator: "; ")
    }

    private var certificateMessage: String? {
        guard let (state, since) = certificateTrouble, let trouble = state.trouble else { return nil }
        let end = Timestamp.text(state.expiry)
        let isOver = state.expiry <= SystemWallClock().now()
        return "since \(Timestamp.text(since)) the node's certificate needs attention: \(trouble); "
            + (isOver
                ? "it ended at \(end), and no capability can be renewed with it" : "it lasts until \(end)")
    }
}
