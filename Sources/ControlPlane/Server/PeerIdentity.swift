import Core
import TLS

/// What a client certificate lets its owner do; the certificate's organizational unit.
public enum PeerRole: String, Sendable, CaseIterable, Hashable {
    /// May do everything.
    case admin
    /// A compute node: may see and renew what is its own.
    case node
    /// May look, not touch.
    case observer
}

/// Who is at the other end of a control connection, as its verified certificate says.
public struct PeerIdentity: Sendable, Hashable {
    /// The certificate; nil when the client presented none.
    public var certificate: Certificate?
    /// SHA-256 of the certificate's public key; nil without a certificate.
    public var thumbprint: Digest32?
    /// What the certificate's owner may do; nil without a certificate or with an unknown role.
    public var role: PeerRole?
    /// The certificate's common name; empty without a certificate.
    public var commonName: String
    /// The node that the certificate was issued to.
    public var nodeID: Identifier?
    /// The administrator that the certificate was issued to.
    public var adminID: Identifier?

    /// A client without a certificate.
    public static let anonymous = PeerIdentity(role: nil, commonName: "")

    /// The identity that a verified certificate gives.
    public init(certificate: Certificate) {
        self.certificate = certificate
        thumbprint = certificate.thumbprint
        role = PeerRole(rawValue: certificate.organizationalUnit)
        commonName = certificate.subjectCommonName
        nodeID = certificate.nodeID
        adminID = certificate.adminID
    }

    /// An identity without a certificate, for tests of what stands above the connection.
    public init(role: PeerRole?, commonName: String, nodeID: Identifier? = nil, thumbprint: Digest32? = nil) {
        self.role = role
        self.commonName = commonName
        self.nodeID = nodeID
        self.thumbprint = thumbprint
    }

    /// Who it says it is, by its certificate, as logs name callers: `node:compute-1`.
    var logName: String { role.map { "\($0.rawValue):\(commonName)" } ?? "anonymous" }

    /// By what the certificate says.
    public static func == (left: PeerIdentity, right: PeerIdentity) -> Bool {
        left.thumbprint == right.thumbprint && left.role == right.role && left.commonName == right.commonName
            && left.nodeID == right.nodeID && left.certificate == right.certificate
    }

    /// By thumbprint and name.
    public func hash(into hasher: inout Hasher) {
        hasher.combine(thumbprint)
        hasher.combine(commonName)
    }
}
