import Core
import TLS

/// Makes a folder of credentials for somebody else, whose key is certified by whoever asks for it.
public enum CredentialBundle {
    /// What a server answers with a certificate.
    public struct Certified: Decodable, Sendable {
        /// PEM.
        public var certificate: String
        /// The authority's certificate, PEM.
        public var ca: String
    }

    /// A fresh key of the kind that certificates are for.
    public static func newKey() -> PrivateKey { .generateP256() }

    /// Makes a key, has it certified, and writes the folder, which appears complete or not at all. That it can be made is
    /// checked before anything is asked for.
    ///
    /// - Parameter option: what names the folder on the command line.
    /// - Parameter certify: asks with a certificate request (PEM).
    /// - Throws: `ClientError`, or what `certify` throws; nothing was written then.
    public static func make(
        name: String, folder: String, option: String, server: String?,
        certify: (String) throws -> Certified
    ) throws -> Credentials {
        let place = CredentialFolder(path: folder, option: option)
        try place.expectVacant()
        try place.expectWritable()
        let key = newKey()
        let certified = try certify(NodeEnrolment.requestPEM(key, name))
        let pem = Array(certified.certificate.utf8)
        let certificate: Certificate
        do throws(TLSError) { certificate = try Certificate(pem: pem) } catch {
            throw ClientError.credentials(
                "the server sent a certificate that cannot be read: \(error)", "Report this.")
        }
        guard certificate.thumbprint == key.publicKeyThumbprint else {
            throw ClientError.credentials("the server certified another key", "Report this.")
        }
        let credentials = Credentials(
            folder: folder, authorityPEM: Array(certified.ca.utf8), certificatePEM: pem,
            certificate: certificate,
            key: key, config: Credentials.Config(server: server))
        try place.create(credentials)
        return credentials
    }
}
