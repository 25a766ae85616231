import Core

/// A session of the data channel that may write, so that it and its claims outlive the server.
public struct SessionRecord: Record, Hashable {
    /// `sessions/`
    public static let prefix = "sessions/"
    /// The session's id.
    public var recordKey: String { id.hex }

    /// The session's id.
    public let id: Identifier
    /// What its client must know, in hex. The catalog is as secret as the keys beside it.
    public let secret: String
    /// SHA-256 of the client key's SubjectPublicKeyInfo.
    public let thumbprint: Digest32
    /// What the client calls itself.
    public let clientName: String
    /// Where it came from.
    public let peerAddress: String
    /// Unix seconds of its start.
    public let since: UInt64
    /// The node whose capability it used first.
    public let node: Identifier?
    /// Who began it, as its client says; nil if it does not.
    public let instance: Identifier?
    /// At least one.
    public let claims: [SessionClaim]
    /// Of the machine's run, `/proc/sys/kernel/random/boot_id`: what was not flushed does not outlive that.
    public let bootID: String

    /// A record.
    public init(
        id: Identifier, secret: String, thumbprint: Digest32, clientName: String, peerAddress: String,
        since: UInt64, node: Identifier?, instance: Identifier?, claims: [SessionClaim], bootID: String
    ) {
        self.id = id
        self.secret = secret
        self.thumbprint = thumbprint
        self.clientName = clientName
        self.peerAddress = peerAddress
        self.since = since
        self.node = node
        self.instance = instance
        self.claims = claims
        self.bootID = bootID
    }
}
