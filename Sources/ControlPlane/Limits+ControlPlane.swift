import Core

extension Limits {
    /// How long a driver that was started anew may be silent before the restart counts as failed, in seconds.
    static let driverAnswerSeconds = 10
    /// How deep a request's JSON may nest.
    public static let jsonDepthMax = 8
    /// The most items of a list of rights.
    public static let rightItemsMax = 64
    /// The most labels of a resource.
    public static let labelsMax = 32
    /// The longest name of a label, in characters.
    public static let labelNameCharactersMax = 63
    /// The longest value of a label, in bytes of UTF-8.
    public static let labelValueBytesMax = 255
    /// The most settings of a pool.
    public static let poolSettingsMax = 32
    /// The longest value of a pool's setting, in bytes of UTF-8.
    public static let poolSettingBytesMax = 4096
    /// The longest reason for a revocation or a disconnection, in bytes of UTF-8.
    public static let reasonBytesMax = 255
    /// How many items a page has when the request does not say.
    public static let pageItemsDefault = 100
    /// The most items of a page.
    public static let pageItemsMax = 1000
    /// How long a one-time enrolment token counts, in seconds.
    public static let enrolTokenSeconds: UInt64 = 3600
    /// How long a node's certificate counts, in seconds: 30 days.
    public static let nodeCertificateSeconds: UInt64 = 30 * 86400
    /// For how long a node may renew a certificate that has ended by the key that it is for, in seconds: 90 days.
    public static let nodeCertificateGraceSeconds: UInt64 = 90 * 86400
    /// How often certificates are looked at, in seconds.
    public static let certificateLookSeconds: UInt64 = 3600
    /// Of how many certificates one look says that they end.
    public static let certificateReportsMax = 100
    /// The most nodes whose certificates `/metrics` names; the nearest to their end.
    public static let nodeCertificatesShownMax = 100
    /// The most administrators.
    public static let adminsMax = 1000
    /// The life of a capability when the request does not say, in seconds.
    public static let capabilitySecondsDefault: UInt64 = 3600
    /// The longest life that a grant allows when it is not told, in seconds: four days, a long weekend.
    public static let grantLifetimeSecondsDefault: UInt64 = 4 * 86400
    /// The longest life that a grant may allow at all, in seconds: 30 days.
    public static let grantLifetimeSecondsMax: UInt64 = 30 * 86400
    /// How often a capability is made anew when what it is made from changes meanwhile.
    public static let issueTriesMax = 4
    /// How often a capability may be passed on to another key, at most.
    public static let delegationDepthMax: UInt64 = 8
    /// The longest `Idempotency-Key`, in characters.
    public static let idempotencyKeyCharactersMax = 255
    /// How long the answer to a POST is kept for repeats, in seconds.
    public static let idempotencySeconds: UInt64 = 86400
    /// The most answers that are kept; the oldest go first.
    public static let idempotencyRecordsMax = 10_000
    /// How long what has expired stays listed, in seconds.
    public static let expiredRecordSeconds: UInt64 = 3600
    /// How often it is looked how full the pools are, in seconds.
    static let spaceWatchSeconds: UInt64 = 10
    /// For how long a pool's driver may be silent about its space before that is a fault, in seconds.
    static let poolSilenceSeconds: UInt64 = 5
    /// For how long after a write that found no space a pool counts as full, in seconds: waiting clients try each second.
    static let refusalSeconds: UInt64 = 15
    /// What is left of a pool that is nearly full: one so-manieth, and less than so many bytes.
    static let nearFullShare: UInt64 = 10
    static let nearFullBytesMax: UInt64 = 256 << 30
    /// How often expired records are looked for, in seconds.
    public static let sweepSeconds: UInt64 = 300
    /// The most records that one sweep removes.
    public static let sweepRecordsMax = 1000
    /// The most records that are removed or changed in one transaction together with the one that they hang on; the rest goes
    /// in others.
    public static let cascadeRecordsMax = 9000
    /// How often the removal of records begins anew when one of them is changed meanwhile.
    static let cascadeTriesMax = 100
    /// The most resources of one kind.
    public static let recordsPerKindMax = 100_000
    /// The most capabilities that are on record for what nodes ask for.
    public static let capabilityRecordsMax = 200_000
    /// How many an administrator finds room for beyond that.
    public static let capabilityRecordsReserve = 10_000
    /// The most of one node.
    public static let capabilityRecordsPerNodeMax = 10_000
    /// For how long a node's records are not looked through again when none of them had ended, in seconds.
    static let capabilityLookSeconds: UInt64 = 5
    /// The most answers to `GET` that are kept ready.
    public static let readyAnswersMax = 16_384
    /// The longest place that clients are sent to, in bytes of UTF-8.
    static let redirectBytesMax = 255
    /// The most operations that are shown after they have ended.
    static let endedOperationsMax = 1000
    /// For how long they are shown, in seconds.
    static let endedOperationSeconds: UInt64 = 3600
    /// The time that clients are given to leave a server that is being drained, in seconds.
    static let drainSecondsDefault: UInt64 = 60
}

extension Limits {
    /// The largest file of events that is read, in bytes.
    static let eventFileBytesMax = 64 << 20
    /// Bytes that the file of events may have beyond twice what is kept.
    static let eventFileSlackBytes = 1 << 20
    /// Events that wait to be written.
    static let eventsWaitingMax = 4096
    /// How long events are gathered before they are written together, in milliseconds.
    static let eventPauseMilliseconds: Int64 = 100
    /// How long until writing events is tried again, in milliseconds.
    static let eventRetryMilliseconds: Int64 = 5000
}
