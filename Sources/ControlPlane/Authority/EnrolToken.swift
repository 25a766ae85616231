import Catalog
import Core
import TLS

/// A one-time enrolment token: `sljoin1_` and base64url of the authority's fingerprint, a secret and the node's name.
///
/// The fingerprint lets the node recognise its server, so that nobody in the middle can pose as it. The secret is
/// derived from a key in the data folder, and only its hash is stored; so the answer to a repeated request can be given
/// again without the token having been kept.
struct EnrolToken {
    let node: Identifier
    let nodeName: String
    /// Unix seconds.
    let expiresAt: UInt64
    private let nonce: Identifier
    private let secret: [UInt8]
    private let fingerprint: Digest32

    static let prefix = "sljoin1_"
    /// The longest text, for the longest node name.
    static let textBytesMax = 8 + (32 + 32 + ResourceName.lengthMax) * 4 / 3 + 2

    /// A fresh token.
    init(node: NodeRecord, expiresAt: UInt64, authority: Authority, random: any RandomSource) {
        self.init(
            node: node.id, name: node.name, expiresAt: expiresAt, nonce: .random(using: AnyRandom(random)),
            authority: authority)
    }

    /// The token that `sealed` of a recorded answer stands for.
    init?(sealed: String, authority: Authority) {
        let parts = sealed.split(separator: ":").map(String.init)
        guard parts.count == 5, parts[0] == "enrolToken", let node = Identifier(hex: parts[1]),
            let expiry = UInt64(parts[3]), let nonce = Identifier(hex: parts[4])
        else { return nil }
        self.init(node: node, name: parts[2], expiresAt: expiry, nonce: nonce, authority: authority)
    }

    private init(node: Identifier, name: String, expiresAt: UInt64, nonce: Identifier, authority: Authority) {
        self.node = node
        nodeName = name
        self.expiresAt = expiresAt
        self.nonce = nonce
        let key = authority.tokenKey.copied
        secret = HMACSHA256.authenticate(node.bytes + nonce.bytes, key: key).bytes
        fingerprint = authority.certificates.certificate.fingerprint
    }

    /// What the node is given.
    var text: String {
        EnrolToken.prefix + Base64URL.encode(fingerprint.bytes + secret + Array(nodeName.utf8))
    }

    /// What is stored of it.
    var record: TokenRecord {
        TokenRecord(hash: SHA256.hash(secret), nodeID: node, nodeName: nodeName, expiresAt: expiresAt)
    }

    /// How to compute it again, without the secret.
    var sealed: String { "enrolToken:\(node.hex):\(nodeName):\(expiresAt):\(nonce.hex)" }

    /// The stored hash of a token that somebody presents; nil when it is not for this node and authority.
    static func hash(of text: String, node name: String, authority: Authority) -> Digest32? {
        guard text.hasPrefix(prefix), text.utf8.count <= textBytesMax,
            let bytes = Base64URL.decode(text.dropFirst(prefix.count)), bytes.count > 64,
            constantTimeEqual(
                Array(bytes[..<32]), authority.certificates.certificate.fingerprint.bytes),
            bytes[64...].elementsEqual(name.utf8)
        else { return nil }
        return SHA256.hash(Array(bytes[32..<64]))
    }
}

/// A random source of a type that is not known.
private struct AnyRandom: RandomSource {
    let source: any RandomSource

    init(_ source: any RandomSource) { self.source = source }

    func bytes(_ count: Int) -> [UInt8] { source.bytes(count) }
}
