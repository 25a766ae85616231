import TLS

/// What to do about a TLS failure.
enum TLSAdvice {
    static func error(_ error: TLSError, _ server: ServerAddress) -> ClientError {
        switch error {
        case .untrustedPeer:
            ClientError(
                kind: .denied, code: "UNTRUSTED_SERVER", detail: "\(server): \(error)",
                advice: "Is this the right server, and are these the credentials of its cluster?")
        case .misnamedPeer:
            ClientError(
                kind: .denied, code: "UNTRUSTED_SERVER", detail: "\(server): \(error)",
                advice:
                    "Ask for the server by a name that its certificate has, or have an administrator add this one: "
                    + "`sluice server set \(option(server.host)) \(server.host)`.")
        case .untimelyPeer(let notBefore, _, let now, _):
            ClientError(
                kind: .denied, code: "CLOCK_OR_CERTIFICATE", detail: "\(server): \(error)",
                advice: now < notBefore
                    ? "One of two clocks is wrong: this machine's is behind, or the server's was ahead when the certificate was made. Set the wrong one right."
                    : "If this machine's clock is right, the server could not renew its certificate, and says why in its log; else set the clock."
            )
        case .peerAlert(let alert) where alert.contains("application protocol"):
            ClientError(
                kind: .denied, code: "NOT_THE_CONTROL_API",
                detail: "\(server) does not speak HTTP/2: TLS alert '\(alert)'",
                advice:
                    "It may be the server's data channel, or another program: the control API has a port of its own, "
                    + "by default 7480.")
        case .peerAlert(let alert):
            ClientError(
                kind: .denied, code: "CERTIFICATE_REFUSED",
                detail: "\(server) refused the certificate of these credentials: TLS alert '\(alert)'",
                advice:
                    "They are of another cluster than this server, or were made anew there. Name others by "
                    + "--credentials, or ask an administrator for `sluice node add` and join with its token.")
        default:
            .broken(server, "\(error)")
        }
    }

    private static func option(_ host: String) -> String {
        CertificateAuthority.addressBytes(host) == nil ? "--add-name" : "--add-address"
    }
}
