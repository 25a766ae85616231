import Core
import FoundationEssentials
import HTTPTypes
import TLS

/// Renews a node's certificate before it expires. Safe to call on every start, and from a background thread.
public enum CertificateRenewal {
    private struct Request: Encodable {
        var csr: String
    }

    /// Whether less than a third of the certificate's life is left.
    ///
    /// - Parameter now: Unix seconds.
    public static func isDue(_ certificate: Certificate, now: UInt64) -> Bool {
        guard certificate.notAfter > certificate.notBefore else { return true }
        let life = certificate.notAfter - certificate.notBefore
        return now >= certificate.notAfter || certificate.notAfter - now < life / 3
    }

    /// Seconds until it is worth calling `renewIfDue` again: when a third of the life is left, at most a day.
    public static func secondsUntilDue(_ certificate: Certificate, now: UInt64) -> UInt64 {
        if isDue(certificate, now: now) { return 60 }
        let life = certificate.notAfter - certificate.notBefore
        return min(max(certificate.notAfter - now - life / 3, 1), 86_400)
    }

    /// Renews the certificate of a folder when it is due, for the same key, so that capabilities go on to be
    /// valid.
    ///
    /// Only nodes renew; other credentials are returned as they are.
    /// - Parameter now: Unix seconds.
    /// - Returns: the credentials to use from now on.
    /// - Throws: `ClientError`; the old certificate is still there.
    public static func renewIfDue(
        _ credentials: Credentials, now: UInt64, timeouts: ControlTimeouts = ControlTimeouts()
    ) throws(ClientError) -> Credentials {
        guard isDue(credentials.certificate, now: now) else { return credentials }
        return try renew(credentials, timeouts: timeouts)
    }

    /// Renews the certificate of a folder now.
    public static func renew(
        _ credentials: Credentials, timeouts: ControlTimeouts = ControlTimeouts()
    ) throws(ClientError) -> Credentials {
        guard let node = credentials.config.node, let name = ResourceName(node) else { return credentials }
        let client = try ControlClient(credentials: credentials, timeouts: timeouts)
        let csr = try NodeEnrolment.requestPEM(credentials.key, name.text)
        let answer = try client.request(
            .post, "/v1/nodes/\(name)/certificate", body: ClientJSON.encode(Request(csr: csr)))
        let renewed = try ClientJSON.decode(NodeEnrolment.Enrolled.self, answer.body)
        let next = try credentials.replacing(
            certificatePEM: Array(renewed.certificate.utf8), authorityPEM: Array(renewed.ca.utf8))
        guard next.certificate.thumbprint == credentials.key.publicKeyThumbprint else {
            throw .credentials("the server renewed the certificate of another key", "Report this.")
        }
        guard next.certificate.subjectCommonName == name.text, next.authorityPEM == credentials.authorityPEM
        else {
            throw .credentials(
                "the server renewed the certificate with another name or authority", "Report this.")
        }
        try CredentialFolder(path: credentials.folder).updateCertificate(next)
        return next
    }
}
