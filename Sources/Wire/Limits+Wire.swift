import Core

/// Maxima of the data channel; `API/data-channel.md` §3 lists them.
extension Limits {
    /// The size of every request and reply header, in bytes.
    public static let headerBytes = 32
    /// The smallest maximum payload that HELLO may negotiate, in bytes: an OPEN with the largest capability
    /// fits.
    public static let payloadBytesMin = 16384
    /// The largest payload before HELLO is answered, in bytes.
    public static let helloBytesMax = 512
    /// The longest client or server name in HELLO, in bytes of UTF-8.
    public static let peerNameBytesMax = 128
    /// The most bytes that one COMPARE_AND_WRITE covers; half the negotiated payload if that is less.
    public static let compareAndWriteBytesMax = 64 << 10
    /// The most bytes that one COPY_RANGE covers.
    public static let copyRangeBytesMax = 64 << 20
    /// The longest payload of an event, in bytes.
    public static let eventBytesMax = 512
    /// The longest time that clients are given to leave a server that is being drained, and that DRAINING may name, in
    /// seconds.
    public static let drainSecondsMax: UInt64 = 86_400
    /// The slots that a client gets when it asks for none in particular.
    public static let slotsDefault = 64
    /// From accepting the connection to the end of HELLO, in seconds.
    public static let helloDeadlineSeconds: UInt64 = 10
    /// From the first to the last byte of one frame, in seconds.
    public static let frameDeadlineSeconds: UInt64 = 30
    /// How long a peer may accept no byte while output waits for it, in seconds.
    public static let sendDeadlineSeconds: UInt64 = 30
    /// How long a channel may send no frame at all, in seconds; HELLO's reply announces it.
    public static let idleSeconds: UInt32 = 300
}
