import Core
import FoundationEssentials
import HTTPTypes
import TLS

/// Renews a client's certificate by its key, before it ends and, for a node, for a while after. Safe to call on every
/// start, and from a background thread.
public enum CertificateRenewal {
    /// What came of it.
    public struct Outcome: Sendable {
        /// The credentials to use from now on.
        public var credentials: Credentials
        /// Whether the certificate is another than before.
        public var isRenewed: Bool
        /// Why the new certificate is in memory alone; nil when it is in the folder.
        public var unsaved: ClientError?

        /// Nothing was to be done.
        static func unchanged(_ credentials: Credentials) -> Outcome {
            Outcome(credentials: credentials, isRenewed: false)
        }
    }

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

    /// Whether so little of the certificate's life is left, a sixth, that a renewal must have failed.
    ///
    /// - Parameter now: Unix seconds.
    public static func isLate(_ certificate: Certificate, now: UInt64) -> Bool {
        guard certificate.notAfter > certificate.notBefore else { return true }
        let life = certificate.notAfter - certificate.notBefore
        return now >= certificate.notAfter || certificate.notAfter - now < life / 6
    }

    /// Seconds until it is worth calling `renewIfDue` again: when a third of the life is left, at most a day.
    public static func secondsUntilDue(_ certificate: Certificate, now: UInt64) -> UInt64 {
        if isDue(certificate, now: now) { return 60 }
        let life = certificate.notAfter - certificate.notBefore
        return min(max(certificate.notAfter - now - life / 3, 1), 86_400)
    }

    /// Seconds that pass at least from one renewal to the next, whatever the clocks say: a sixth of the life, at most
    /// an hour. Without it a node whose clock is ahead would renew with each look.
    public static func minimumInterval(_ certificate: Certificate) -> UInt64 {
        let life =
            certificate.notAfter > certificate.notBefore ? certificate.notAfter - certificate.notBefore : 0
        return min(max(life / 6, 1), 3600)
    }

    /// Where the certificate of these credentials is renewed; nil for one that cannot be.
    static func path(_ credentials: Credentials) -> String? {
        let certificate = credentials.certificate
        let name = credentials.config.node ?? certificate.subjectCommonName
        guard ResourceName(name) != nil else { return nil }
        if credentials.config.node != nil || certificate.organizationalUnit == "node" {
            return "/v1/nodes/\(name)/certificate"
        }
        return certificate.adminID == nil ? nil : "/v1/admins/\(name)/certificate"
    }

    /// Renews the certificate of a folder when it is due, for the same key, so that capabilities go on to be
    /// valid. Credentials that cannot be renewed are returned as they are.
    ///
    /// - Parameter now: Unix seconds.
    /// - Parameter server: whom to ask, `https://HOST[:PORT]`; nil for whom the credentials name.
    /// - Throws: `ClientError`; the old certificate is still there.
    public static func renewIfDue(
        _ credentials: Credentials, now: UInt64, server: String? = nil,
        timeouts: ControlTimeouts = ControlTimeouts()
    ) throws(ClientError) -> Outcome {
        guard isDue(credentials.certificate, now: now) else { return .unchanged(credentials) }
        return try renew(credentials, server: server, timeouts: timeouts)
    }

    /// Renews the certificate of a folder now. What cannot be written is used all the same.
    ///
    /// - Parameter server: whom to ask, `https://HOST[:PORT]`; nil for whom the credentials name.
    /// - Parameter key: another key than before, for an administrator; nil for the same.
    public static func renew(
        _ credentials: Credentials, server: String? = nil, key: PrivateKey? = nil,
        timeouts: ControlTimeouts = ControlTimeouts()
    ) throws(ClientError) -> Outcome {
        guard let path = path(credentials) else { return .unchanged(credentials) }
        let client = try ControlClient(server: server, credentials: credentials, timeouts: timeouts)
        if let key { try CredentialFolder(path: credentials.folder).prepareKey(key) }
        let next = try ask(client, path, credentials, key: key ?? credentials.key)
        do throws(ClientError) {
            let folder = CredentialFolder(path: credentials.folder)
            if key == nil { try folder.updateCertificate(next) } else { try folder.updateKey(next) }
            return Outcome(credentials: next, isRenewed: true)
        } catch {
            return Outcome(credentials: next, isRenewed: true, unsaved: error)
        }
    }

    private static func ask(
        _ client: ControlClient, _ path: String, _ credentials: Credentials, key: PrivateKey
    ) throws(ClientError) -> Credentials {
        let name = credentials.config.node ?? credentials.certificate.subjectCommonName
        let csr = try NodeEnrolment.requestPEM(key, name)
        let answer = try client.request(.post, path, body: ClientJSON.encode(Request(csr: csr)))
        let renewed = try ClientJSON.decode(NodeEnrolment.Enrolled.self, answer.body)
        let next = try credentials.replacing(
            certificatePEM: Array(renewed.certificate.utf8), authorityPEM: Array(renewed.ca.utf8), key: key)
        guard next.certificate.thumbprint == key.publicKeyThumbprint else {
            throw .credentials("the server renewed the certificate of another key", "Report this.")
        }
        guard next.certificate.subjectCommonName == name else {
            throw .credentials("the server renewed the certificate with another name", "Report this.")
        }
        try checkAuthority(next, after: credentials)
        return next
    }

    /// The authority renews its own certificate by its key; another key's is not taken.
    private static func checkAuthority(
        _ next: Credentials, after credentials: Credentials
    ) throws(ClientError) {
        do throws(TLSError) {
            let (new, old) = (
                try Certificate(pem: next.authorityPEM), try Certificate(pem: credentials.authorityPEM)
            )
            guard new.thumbprint == old.thumbprint else {
                throw TLSError.malformed("its authority has another key")
            }
        } catch {
            throw .credentials("the server's answer to the renewal is wrong: \(error)", "Report this.")
        }
    }

    /// Asks with a certificate that the server counts: one that it says has ended, although the clock here says
    /// otherwise, is renewed and asked with once more.
    ///
    /// - Parameter onRenewal: hears of the new credentials.
    public static func retrying<Value>(
        _ credentials: Credentials, server: String?, timeouts: ControlTimeouts = ControlTimeouts(),
        onRenewal: (Outcome) -> Void, _ body: (Credentials) throws(ClientError) -> Value
    ) throws(ClientError) -> Value {
        do throws(ClientError) {
            return try body(credentials)
        } catch {
            guard error.isAboutTheCertificate, path(credentials) != nil,
                let outcome = try? renew(credentials, server: server, timeouts: timeouts), outcome.isRenewed
            else { throw error }
            onRenewal(outcome)
            return try body(outcome.credentials)
        }
    }
}

extension ClientError {
    /// Whether the server says that it was asked with a certificate that does not count now.
    public var isAboutTheCertificate: Bool { status == 401 && field == "certificate" }
}

extension Credentials {
    /// Whether a renewed certificate can be kept where these are.
    public var canBeKept: Bool { CredentialFolder(path: folder).isWritable }

    /// For how many seconds the certificate's file has been as it is; nil when that is not known.
    public func ageOfCertificate(now: UInt64) -> UInt64? {
        CredentialFolder(path: folder).modified(Credentials.certificateFile).flatMap {
            $0 <= now ? now - $0 : nil
        }
    }
}
