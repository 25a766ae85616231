import Core

extension Limits {
    /// The most targets that one reactor holds at a time.
    public static let reactorTargetsMax = 1 << 20
    /// The most multishot operations that one reactor holds at a time.
    public static let reactorMultishotsMax = 1 << 20
    /// The most submission entries of one reactor's ring.
    public static let reactorEntriesMax: UInt32 = 32768
    /// The most receive buffers of one reactor, what the kernel's buffer rings allow.
    public static let receiveBuffersMax = 32768
    /// Bytes before each receive buffer that who receives may write to, whole pages: the longest TLS record
    /// (RFC 8446 §5.2) finds room.
    public static let receiveHeadroomBytes = 5 << 12
    /// The most memory of one registered buffer in bytes, what the kernel takes.
    public static let fixedBufferBytesMax = 1 << 30
    /// The most registered buffers of one reactor at a time; the table costs 11 ns a place when it is made.
    static let fixedBuffersMax = 1024
    /// How often a reactor that shuts down asks the kernel again to cancel what is left, in nanoseconds.
    static let shutdownRetryNanoseconds: Int64 = 50_000_000
    /// How many rounds of refused operations a reactor that shuts down delivers to targets that start them
    /// for ever.
    static let shutdownRoundsMax = 1000
    /// Rounds of batch ends that one wake-up serves; what is asked for beyond is served by the next.
    static let batchEndRoundsMax = 4
}
