import Core

/// A session that may write to a volume.
public struct WriterInfo: Sendable, Hashable {
    /// The session's id.
    public let session: Identifier
    /// The node whose capability it used first; nil when that node is gone.
    public let nodeName: String?
    /// Unix seconds since when it may write.
    public let since: UInt64
    /// Since when it has had no connection; nil while it has one.
    public let lost: LostConnection?
}

/// A session that lost its handles on a volume.
public struct FencedSession: Sendable, Hashable {
    /// The session's id.
    public let session: Identifier
    /// The node whose capability it used first; nil when that node is gone.
    public let nodeName: String?
    /// Whether it could write.
    public let wasWriting: Bool
}

/// What a session keeps others from writing to.
public struct WriteClaim: Sendable, Hashable {
    /// The volume's name.
    public let volume: String
    /// Unix seconds since when.
    public let since: UInt64
    /// Unix seconds at which it ends if nothing is heard of the session.
    public let expiry: UInt64
}

/// One session, as an administrator sees it.
public struct SessionInfo: Sendable, Hashable {
    /// A handle that the session has open.
    public struct OpenVolume: Sendable, Hashable {
        /// The volume's id.
        public let id: Identifier
        /// The volume's name.
        public let name: String
        /// The rights of the handle.
        public let rights: Rights
        /// The capability that it came from.
        public let capability: Identifier
    }

    /// The session's id.
    public let id: Identifier
    /// The node whose capability it used first; nil before the first OPEN.
    public let node: Identifier?
    /// That node's name.
    public let nodeName: String?
    /// SHA-256 of the client key's SubjectPublicKeyInfo.
    public let thumbprint: Digest32
    /// What the client calls itself; not to be trusted.
    public let clientName: String
    /// The address that the session came from.
    public let peerAddress: String
    /// Unix seconds of its start.
    public let since: UInt64
    /// Since when it has had no connection; nil while it has one.
    public let lost: LostConnection?
    /// Channels that are connected.
    public internal(set) var channels = 0
    /// Volumes that it may write to, also without a connection.
    public internal(set) var claims: [WriteClaim] = []
    /// What it has open, once per handle.
    public internal(set) var openVolumes: [OpenVolume] = []
    /// Requests since its start, on channels that are still connected.
    public internal(set) var requests: UInt64 = 0
    /// Payload bytes read, likewise.
    public internal(set) var bytesRead: UInt64 = 0
    /// Payload bytes written, likewise.
    public internal(set) var bytesWritten: UInt64 = 0
    /// Requests that are not answered yet.
    public internal(set) var inFlight = 0
}
