import TLS

/// What to do about a TLS failure.
enum TLSAdvice {
    static func error(_ error: TLSError, _ server: ServerAddress) -> ClientError {
        switch error {
        case .untrustedPeer:
            ClientError(
                kind: .denied, code: "UNTRUSTED_SERVER", detail: "\(server): \(error)",
                advice:
                    "Is this the right server, and are these the credentials of its cluster? The "
                    + "certificate must name '\(server.host)'; `sluiced init --name` and `--address` decide "
                    + "what it names.")
        case .peerAlert(let alert):
            ClientError(
                kind: .denied, code: "CERTIFICATE_REFUSED",
                detail: "\(server) refused the connection: TLS alert '\(alert)'",
                advice:
                    "The certificate in the credentials folder may have expired or be of another cluster. "
                    + "Enrol again with `sluice join`, or use the admin bundle that `sluiced init` made.")
        default:
            .broken(server, "\(error)")
        }
    }
}
