import Core

/// What to attach, and how.
public struct AttachOptions: Sendable {
    /// The volume.
    public var volume: ResourceName
    /// The folder with the credentials, an absolute path.
    public var credentialsFolder: String
    /// The control API; nil takes the one that the credentials name.
    public var server: String?
    /// The device refuses writes, and only the right to read is asked for.
    public var isReadOnly: Bool
    /// Connections to the server, 1 to 64.
    public var channels: Int
    /// Requests under way at once on each connection, 1 to 256; the server may grant fewer.
    public var queueDepth: Int
    /// For how long the process looks for something to do before it sleeps, in microseconds, 0 to 1000; only while that
    /// usually is long enough.
    public var pollMicroseconds: UInt64 = 0
    /// The file, by an absolute path, with the capability to use; nil has the control API issue them from grants.
    public var capabilityFile: String?
    /// How long each capability should last that is asked for, in seconds: outages of that length cost no authority. The
    /// grant may allow less.
    public var lifetimeSeconds: UInt64 = AttachOptions.lifetimeSecondsDefault
    /// `umount` of what is on the device detaches it.
    public var detachesOnUnmount: Bool
    /// Goes on with the device of the process that serves the volume now, if one does.
    public var takesOver = false
    /// How long a request may wait for the server before it fails, in seconds; nil for ever.
    public var ioTimeoutSeconds: UInt64?
    /// How long a lost connection is tried again before the device fails for good, in seconds; nil for ever.
    public var reconnectTimeoutSeconds: UInt64?

    /// Four days: a long weekend.
    public static let lifetimeSecondsDefault: UInt64 = 4 * 86_400

    /// Options of their parts.
    public init(
        volume: ResourceName, credentialsFolder: String, server: String? = nil, isReadOnly: Bool = false,
        channels: Int = 1, queueDepth: Int = 128, detachesOnUnmount: Bool = false
    ) {
        self.volume = volume
        self.credentialsFolder = FilePath.absolute(credentialsFolder)
        self.server = server
        self.isReadOnly = isReadOnly
        self.channels = channels
        self.queueDepth = queueDepth
        self.detachesOnUnmount = detachesOnUnmount
    }
}
