import Core
import FoundationEssentials
import Glibc
import TLS

/// What a client of one cluster keeps in a folder: the authority's certificate, its own, its key, and where
/// the
/// server is.
///
/// Files: `ca.pem`, `cert.pem`, `key.pem` (0600) and `config.json`; the folder is 0700.
public struct Credentials: Sendable {
    /// What `config.json` holds; every part may be missing.
    public struct Config: Codable, Sendable, Equatable {
        /// The control API, as `https://HOST:PORT`.
        public var server: String?
        /// The data channel's addresses, as `HOST:PORT`.
        public var channels: [String]?
        /// What the node is called.
        public var node: String?
        /// The node's id, 32 hex digits.
        public var nodeID: String?
        /// The cluster's id, 32 hex digits.
        public var clusterID: String?

        /// A configuration of its parts.
        public init(
            server: String? = nil, channels: [String]? = nil, node: String? = nil, nodeID: String? = nil,
            clusterID: String? = nil
        ) {
            self.server = server
            self.channels = channels
            self.node = node
            self.nodeID = nodeID
            self.clusterID = clusterID
        }
    }

    /// Where they are kept.
    public let folder: String
    /// The certificate of the cluster's authority.
    public let authorityPEM: [UInt8]
    /// This client's certificate.
    public let certificatePEM: [UInt8]
    /// This client's certificate, parsed.
    public let certificate: Certificate
    /// The key that the certificate and capabilities are bound to.
    public let key: PrivateKey
    /// Where the server is.
    public let config: Config

    static let authorityFile = "ca.pem"
    static let certificateFile = "cert.pem"
    static let keyFile = "key.pem"
    static let configFile = "config.json"
    /// A key that is about to take the place of `key.pem`.
    static let nextKeyFile = "key.pem.next"
    private static let fileBytesMax = 1 << 20

    /// The folder that is used where none is named: `SLUICE_CREDENTIALS`, else `/etc/sluice` for root, else
    /// `~/.config/sluice`.
    public static func defaultFolder(environment: [String: String], userID: UInt32) -> String {
        if let named = environment["SLUICE_CREDENTIALS"], !named.isEmpty { return named }
        if userID == 0 { return "/etc/sluice" }
        let base = environment["XDG_CONFIG_HOME"] ?? (environment["HOME"] ?? "") + "/.config"
        return base + "/sluice"
    }

    /// Reads a folder. `config.json` may be missing, as in the admin bundle.
    public static func load(folder: String) throws(ClientError) -> Credentials {
        let files = CredentialFolder(path: folder)
        let authority = try files.read(authorityFile, maximum: fileBytesMax)
        let certificatePEM = try files.read(certificateFile, maximum: fileBytesMax)
        let keyPEM = SecretBytes(try files.read(keyFile, maximum: fileBytesMax, isSecret: true))
        do {
            let certificate = try Certificate(pem: certificatePEM)
            var key = try PrivateKey(pem: keyPEM)
            if certificate.thumbprint != key.publicKeyThumbprint,
                let next = try? files.read(nextKeyFile, maximum: fileBytesMax, isSecret: true)
            {
                // A crash came between the new certificate and its key.
                key = try PrivateKey(pem: SecretBytes(next))
            }
            guard certificate.thumbprint == key.publicKeyThumbprint else {
                throw TLSError.malformed("cert.pem and key.pem are of different keys")
            }
            return Credentials(
                folder: folder, authorityPEM: authority, certificatePEM: certificatePEM,
                certificate: certificate,
                key: key, config: try files.readConfig())
        } catch let error as ClientError {
            throw error
        } catch {
            throw .credentials("the credentials in \(folder) are unusable: \(error)", CredentialFolder.advice)
        }
    }

    init(
        folder: String, authorityPEM: [UInt8], certificatePEM: [UInt8], certificate: Certificate,
        key: PrivateKey,
        config: Config
    ) {
        self.folder = folder
        self.authorityPEM = authorityPEM
        self.certificatePEM = certificatePEM
        self.certificate = certificate
        self.key = key
        self.config = config
    }

    /// Certificate and key as TLS takes them.
    public var identity: TLSContext.Identity { TLSContext.Identity(chainPEM: certificatePEM, key: key) }

    /// The same with another certificate for the same key.
    func replacing(
        certificatePEM: [UInt8], authorityPEM: [UInt8], key: PrivateKey
    ) throws(ClientError) -> Credentials {
        let certificate: Certificate
        let isSameAuthority: Bool
        do {
            certificate = try Certificate(pem: certificatePEM)
            let authority = try Certificate(pem: authorityPEM)
            isSameAuthority = try authority == Certificate(pem: self.authorityPEM)
        } catch {
            throw .credentials("the server sent a certificate that cannot be read: \(error)", "Report this.")
        }
        // Of each text that one certificate which was looked at, and nothing that stands beside it.
        return Credentials(
            folder: folder, authorityPEM: isSameAuthority ? self.authorityPEM : authorityPEM,
            certificatePEM: certificate.pem, certificate: certificate, key: key, config: config)
    }

    /// The same with another configuration.
    func replacing(config: Config) -> Credentials {
        Credentials(
            folder: folder, authorityPEM: authorityPEM, certificatePEM: certificatePEM,
            certificate: certificate,
            key: key, config: config)
    }
}
