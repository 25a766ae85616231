/// That a session may write to a volume, and by what capability, as it outlives the server.
public struct SessionClaim: Sendable, Hashable {
    /// The volume's id.
    public let volume: Identifier
    /// Unix seconds since when.
    public let since: UInt64
    /// The capability's id.
    public let capability: Identifier
    /// The node that it was issued to.
    public let subject: Identifier
    /// That node's epoch in it.
    public let nodeEpoch: UInt64
    /// The volume's epoch in it.
    public let resourceEpoch: UInt64
    /// Its end, in Unix seconds.
    public let expiry: UInt64

    /// A claim.
    public init(
        volume: Identifier, since: UInt64, capability: Identifier, subject: Identifier, nodeEpoch: UInt64,
        resourceEpoch: UInt64, expiry: UInt64
    ) {
        self.volume = volume
        self.since = since
        self.capability = capability
        self.subject = subject
        self.nodeEpoch = nodeEpoch
        self.resourceEpoch = resourceEpoch
        self.expiry = expiry
    }
}
