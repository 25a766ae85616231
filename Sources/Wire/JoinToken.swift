import Core

/// What a new node needs to enrol: whom to trust, what it is called, and a secret that works once.
///
/// Text form: `sljoin1_` and base64url of the fingerprint (32 bytes), the secret (32 bytes) and the name.
public struct JoinToken: Sendable, Equatable, CustomStringConvertible {
    /// What the text form begins with.
    public static let prefix = "sljoin1_"
    /// The bytes of a secret.
    public static let secretBytes = 32

    private static let textBytesMax = 256

    /// SHA-256 of the certificate (DER) of the cluster's authority.
    public let authorityFingerprint: Digest32
    /// The node that the token was made for.
    public let nodeName: ResourceName
    /// What makes the token count once: unpredictable bytes.
    public let secret: [UInt8]

    /// A token for a node.
    ///
    /// - Parameter secret: `secretBytes` unpredictable bytes.
    public init(authorityFingerprint: Digest32, nodeName: ResourceName, secret: [UInt8]) {
        precondition(secret.count == Self.secretBytes, "a join secret has \(Self.secretBytes) bytes")
        self.authorityFingerprint = authorityFingerprint
        self.nodeName = nodeName
        self.secret = secret
    }

    /// Reads the text form; white space around it is ignored.
    ///
    /// - Throws: `StatusError` with `badRequest` and a message that says what is wrong.
    public init(text: String) throws(StatusError) {
        let trimmed = text.drop(while: \.isWhitespace)
        let body = trimmed.prefix { !$0.isWhitespace }
        guard body.utf8.count <= Self.textBytesMax else { throw Self.error("is too long") }
        guard body.hasPrefix(Self.prefix) else { throw Self.error("does not begin with \(Self.prefix)") }
        guard let bytes = Base64URL.decode(body.dropFirst(Self.prefix.count)) else {
            throw Self.error("holds a character that is not base64url; was it cut or wrapped?")
        }
        let nameOffset = Digest32.byteCount + Self.secretBytes
        guard bytes.count > nameOffset, let fingerprint = Digest32(bytes: bytes[..<Digest32.byteCount]) else {
            throw Self.error("is too short; was it cut?")
        }
        guard let name = String(validating: bytes[nameOffset...], as: UTF8.self),
            let valid = ResourceName(name)
        else { throw Self.error("names no valid node") }
        let secret = Array(bytes[Digest32.byteCount..<nameOffset])
        self.init(authorityFingerprint: fingerprint, nodeName: valid, secret: secret)
    }

    /// The text form.
    public var text: String {
        Self.prefix + Base64URL.encode(authorityFingerprint.bytes + secret + Array(nodeName.text.utf8))
    }

    /// The name only: the rest is secret.
    public var description: String { "join token for node \(nodeName)" }

    private static func error(_ what: String) -> StatusError {
        StatusError(.badRequest, "the join token \(what)")
    }
}
