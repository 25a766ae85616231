/// Every named maximum that more than one target needs; a target's own are in its `Limits+….swift`.
public enum Limits {
    /// The largest payload of one data-channel frame, in bytes.
    public static let payloadBytesMax = 1 << 20
    /// The most slots of one channel: the queue depth that a client can be granted.
    public static let slotsPerChannelMax = 256
    /// The most channels of one session.
    public static let channelsPerSessionMax = 64
    /// The most handles that one channel may have open.
    public static let handlesPerChannelMax = 64
    /// The largest capability that is parsed, in bytes of its binary form.
    public static let capabilityBytesMax = 8192
    /// The most attenuation blocks in a capability.
    public static let attenuationBlocksMax = 16
    /// The largest volume, in bytes: 8 EiB less one block, what a signed file offset can address.
    public static let volumeBytesMax: UInt64 = (1 << 63) - 4096
    /// The granularity of a volume's size, in bytes.
    public static let volumeSizeGranule: UInt64 = 4096
    /// The longest message in an error reply, in bytes of UTF-8.
    public static let errorMessageBytesMax = 512
    /// The longest answer to a question about the status of blocks, in bytes: 256 extents.
    public static let blockStatusBytesMax = 4096
    /// The longest that a thread looks for work before it sleeps, in microseconds.
    public static let pollMicrosecondsMax: UInt64 = 1000
    /// How far clocks of server and issuer may differ, in seconds.
    public static let clockSkewSeconds: UInt64 = 30
}
