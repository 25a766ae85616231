import Core

extension Limits {
    /// The most sessions that the server keeps at once.
    public static let sessionsMax = 8192
    /// The most lost channels, of all sessions, whose slots are kept for a client that comes back.
    public static let keptChannelsMax = 16384
    /// How long a session that may write nothing outlives its last connection, in seconds.
    public static let lingerSeconds: UInt32 = 300
    /// How long a session that may write outlives its last connection at most after its capability has ended, in
    /// seconds: 30 days. Whoever else asks for its volume gets it at once.
    public static let courtesySeconds: UInt64 = 30 * 86_400
    /// How often sessions without a connection are looked at, in nanoseconds.
    public static let sessionSweepNanoseconds: UInt64 = 1_000_000_000
    /// The most volumes that can be published.
    public static let volumesMax = 65536
    /// The most markers of one volume.
    public static let markersPerVolumeMax = 8
    /// Base-2 logarithm of the finest unit, in bytes, in which changes since a marker are noted: 64 KiB. No block is
    /// larger.
    static let markerShiftMin: UInt8 = 16
    /// The most units of one marker: larger volumes have larger units.
    static let markerBitsMax = 1 << 24
    /// The most revoked capability ids that are remembered; expired ones are forgotten first.
    public static let revocationsMax = 1 << 20
    /// The most budgets of ceilings that are remembered though nobody uses them, because they owe something.
    static let rateBudgetsUnusedMax = 16_384
    /// How many capabilities that are revoked together are named in the log.
    static let revocationsLoggedMax = 16
    /// The most pools.
    public static let poolsMax = 64
    /// Bytes of the arena that one reactor uses with one pool.
    public static let arenaBytes = 64 << 20
    /// The part of an arena that a node's first buffer leaves, so that something small finds room beside it.
    static let arenaReservePart = 64
    /// How often those are looked at that hold what others of their node wait for, in nanoseconds.
    static let roomLookNanoseconds: UInt64 = 1_000_000_000
    /// How many channels of a node that wait for room are looked at when something was given back.
    static let roomLooksMax = 256
    /// Entries of a submission and of a completion ring, a power of two.
    public static let driverRingEntries = 4096
    /// Payload bytes that one channel may have in arena and output before the server stops reading from it.
    public static let channelBudgetBytes = 2 << 20
    /// The most channels of one shard.
    public static let channelsPerShardMax = 1 << 16
    /// How many COMPARE_AND_WRITEs of one volume keep others away from bytes at once.
    static let comparesAtOnceMax = 16
    /// How many of those that wait are looked at when one ends.
    static let comparesLookedAtMax = 256
    /// The piece in which COPY_RANGE is done, in bytes.
    public static let copyPieceBytes = 256 << 10
    /// The longest burst that a rate limit lets through at once, in nanoseconds of its rate.
    public static let rateBurstNanoseconds: UInt64 = 100_000_000
    /// The longest burst that a volume may be given, in milliseconds of its rate.
    public static let rateBurstMillisecondsMax: UInt64 = 60_000
    /// How long before a capability's expiry the holder is told, in seconds; no more than a quarter of its life.
    public static let expiryNoticeSeconds: UInt64 = 60
    /// The most channels that a reactor names when it is asked what it waits for.
    static let unfinishedLinesMax = 8
    /// Lines of one shard per second about opens and closes; what is beyond is counted and said in the next line. Each
    /// caller has a budget besides.
    public static let accessLogLinesPerSecond = 200
    /// Lines of one shard per second about refusals, likewise.
    public static let refusalLogLinesPerSecond = 20
    /// How often a driver may go on with a volume that is made or grows, for a second each, before whoever asked for it is
    /// told that it takes longer.
    public static let preparationsAtOnce = 3
    /// The most control requests of one pool that wait for its driver.
    public static let poolWorkMax = 4096
    /// Whole frames (control replies, events) that may wait for a client that does not read.
    public static let waitingFramesMax = 256
    /// Such frames at which the server reads no further requests.
    public static let waitingFramesPause = 32
    /// How often expiring capabilities are looked for while handles are open, in nanoseconds.
    public static let expirySweepNanoseconds: UInt64 = 1_000_000_000
    /// The most volumes of one reactor whose failed requests are told of.
    static let failureSeriesMax = 4096
    /// Between two events about failed requests of one volume, in nanoseconds.
    static let failurePauseNanoseconds: UInt64 = 60_000_000_000
    /// The most events of one kind that are kept, of those that no client causes.
    public static let eventsKeptMax = 1000
    /// The most events of one kind that one client causes: a node, or an address that is no node's.
    public static let eventsKeptPerClientMax = 100
    /// The most events of one kind that clients cause; beyond it who has the most gives way.
    public static let eventsKeptOfClientsMax = 2000
    /// How long events are kept, in seconds: 90 days.
    public static let eventSecondsKept: UInt64 = 90 * 86400
    /// The longest name of a client that an event has, in characters.
    static let eventCallerCharactersMax = 128
    /// The most readers that wait for events at once.
    public static let eventSubscribersMax = 64
    /// The most events that a reader gets at once.
    public static let eventsPerBatchMax = 64
    /// The longest message of an event, in bytes of UTF-8; what is longer is cut.
    public static let eventMessageBytesMax = 512
    /// Requests that one reactor gives to a driver for a session that is alone: all that one channel can have.
    public static let sessionRequestsAlone = 256
    /// Payload bytes, likewise.
    public static let sessionBytesAlone = 16 << 20
    /// Requests that one reactor gives to a driver for all sessions, in equal shares, when there are several.
    public static let sharedRequests = 64
    /// Payload bytes, likewise; a single request may always go.
    public static let sharedBytes = 1 << 20
    /// The largest request whose delay counts, in bytes.
    public static let loneBytesMax = 16 << 10
    /// How long a driver takes at most for lone requests, in nanoseconds, where others give way to them meanwhile.
    static let loneDelayMax: UInt64 = 50_000
    /// The wait behind others that nobody minds, in nanoseconds, however little the work itself takes.
    static let delayNanosecondsMin: UInt64 = 20_000
    /// How long the least delay is remembered, in nanoseconds; twice that at most.
    static let delayPeriodNanoseconds: UInt64 = 10_000_000_000
    /// For how long what a request shows of the delay counts, in nanoseconds.
    static let delayValidNanoseconds: UInt64 = 50_000_000
    /// For how many requests of each period the window is at its smallest.
    static let delayProbes = 16
    /// What a session may take in its turn, in bytes of payload and `fairRequestCost` for each request.
    public static let fairQuantumBytes = 16 << 10
    /// What a request costs beside its payload, in bytes.
    public static let fairRequestCost = 4096
    /// The most requests that a gentle session has under way.
    public static let gentleRequestsMax = 4
    /// What counts as one of them at least, in bytes of payload.
    static let gentleBytes = 16 << 10
    /// How long a session that wants nothing counts among those that share a driver; twice that at most.
    public static let fairPeriodNanoseconds: UInt64 = 100_000_000
}
