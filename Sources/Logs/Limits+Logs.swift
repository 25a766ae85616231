import Core

extension Limits {
    /// Bytes of lines that wait for whoever reads the log, and as many again that are being written; what comes
    /// beyond is counted and left out.
    public static let logQueueBytesMax = 1 << 20
    /// Bytes of one value or message in a log line; the rest is left out, and said.
    public static let logValueBytesMax = 1024
    /// Values in one log line; the rest is left out.
    public static let logValuesMax = 32
    /// Sources of log lines that are told apart, each with a budget of its own; those beyond share one.
    public static let logSourcesMax = 1024
    /// Lines at once from one source: a place in the program, or a caller.
    public static let logBurstLines = 100
    /// Lines a second from one source after that.
    public static let logLinesPerSecond = 5
    /// Lines at once from one administrator.
    public static let logTrustedBurstLines = 10_000
    /// Lines a second from one administrator after that.
    public static let logTrustedLinesPerSecond = 1000
    /// Seconds after which what was left out is said, also where nothing more comes.
    public static let logSummarySeconds: UInt64 = 5
    /// Sources that one such summary names; the others are a sum.
    public static let logSummaryLinesMax = 20
}
