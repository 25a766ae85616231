/// Every bound of an attached device.
enum AttachLimits {
    /// Requests of the kernel under way at once; beyond this they wait in the kernel. The loop driver sends
    /// 128, and its largest ones come in two.
    static let requestsMax = 256
    /// Bytes of one FUSE read or write.
    static let transferBytesMax: UInt32 = 1 << 20
    /// The same where requests come through a ring, whose every entry has memory for it: a quarter of a MiB costs a
    /// stream little.
    static let ringTransferBytes: UInt32 = 256 << 10
    /// Entries of a ring: that many in all, and in each queue not more than all requests of a busy processor nor so
    /// few that one processor's requests wait for each other.
    static let ringEntriesWanted = 256
    static let ringQueueEntries: ClosedRange<Int> = 16...64
    /// Queues, one for each processor. Where there are more, requests come through /dev/fuse.
    static let ringQueuesMax = 32
    static var ringEntriesMax: Int { ringQueuesMax * ringQueueEntries.lowerBound }
    /// The oldest FUSE protocol, 7.this: Linux 4.20.
    static let fuseMinorVersionMin = 28
    /// Bytes of one discard or write-zeroes request to the server.
    static let rangeBytesMax: UInt32 = 1 << 30
    /// Buffers of each size. The largest also receive from the kernel.
    static let smallBufferBytes = 16 << 10
    static let smallBufferCount = 256
    static let mediumBufferBytes = 128 << 10
    static let mediumBufferCount = 48
    static let largeBufferCount = 12
    /// For how long a free loop device is looked for that others do not take first, and how many may be added to the
    /// machine's for that.
    static let loopClaimNanoseconds: UInt64 = 10_000_000_000
    static let loopDevicesAddedMax = 8
    /// How long to wait before the next try, in microseconds: 1 ms, doubling to 64.
    static func loopClaimPause(_ tries: Int) -> UInt32 { 1000 << UInt32(min(tries, 7) - 1) }
    /// For how long, and how often at least, a device that others have open is tried again before it counts as used.
    static let busyNanoseconds: UInt64 = 1_000_000_000
    static let busyAttemptsMin = 3
    /// How long to wait before it is, in microseconds.
    static let busyAttemptMicroseconds: UInt32 = 50_000
    /// How long a freed loop device may take to let go of its file.
    static let loopReleaseMilliseconds = 3_000
    /// How many entries of each queue a successor gives the kernel at a time, while the other process still has some: a
    /// kernel in which reads and writes wait lets one of each queue through. And how often.
    static let successionEntries = 2
    static let successionTurns = 12
    /// How long after the end of a process its ring's entries may still be the kernel's.
    static let ringEndMicroseconds: UInt32 = 250_000
    /// Between two looks whether an answer was read, in milliseconds.
    static let answerLookMilliseconds: Int32 = 1
    /// How long a command that waits says nothing of it, and how long a forced one waits before it ends the process that
    /// serves the device, and at all.
    static let silentNanoseconds: UInt64 = 2_000_000_000
    static let forceNanoseconds: UInt64 = 5_000_000_000
    static let forceAtMostNanoseconds: UInt64 = 20_000_000_000
    /// Between two tries to give up a device that something uses, after a signal has asked for it, in milliseconds.
    static let endingRetryMilliseconds: ClosedRange<UInt64> = 200...2000
    /// How long a process that cannot be asked what has failed may take to end, in milliseconds.
    static let reportMilliseconds: Int32 = 1000
    /// How long a program may take to end that a signal has broken off, before it is killed, and before it is no longer
    /// waited for.
    static let endProgramNanoseconds: UInt64 = 1_500_000_000
    /// How often a command that starts a process in the background looks for signals, and such a process whether that
    /// command is still there, in milliseconds.
    static let startLookMilliseconds: Int32 = 100
    /// What is taken at once of what comes while there is no device yet.
    static let noticesAtOnce = 64
    /// Open files that an attachment needs besides its connections, and how many it asks for.
    static let openFilesNeeded = 48
    static let openFilesWanted: UInt64 = 4096
    /// Buffers that what arrives is received into, of 64 KiB; a power of two.
    static let receiveBuffers = 32
    /// Bytes of a thread's stack that waits, asks the control API, or looks up names.
    static let stackBytes = 1 << 20
    /// How long a serving process may take to end once its device is gone.
    static let detachMilliseconds: Int32 = 30_000
    /// Addresses of the data channel that a server may offer.
    static let placesMax = 64
    /// How long opening the volume may take, and FUSE to end, in seconds.
    static let openSeconds: UInt64 = 60
    static let endSeconds: UInt64 = 10
    /// The longest life that a capability is believed to have, in seconds.
    static let lifeSecondsMax: UInt64 = 366 * 86_400
    /// A capability is renewed after so many seconds at the latest, so that most of its life is left at any time.
    static let renewalSecondsMax: UInt64 = 86_400
    /// From one capability to the next at least, in seconds: a quarter of its life within these bounds. Each is a durable
    /// record of the server.
    static let renewalPauseSeconds: ClosedRange<UInt64> = 1...10
    /// Between two tries to renew a capability, in seconds.
    static let renewalRetrySeconds: ClosedRange<UInt64> = 2...60
    /// From a lost connection to the first reminder in the log, and the longest time between two, in seconds.
    static let waitReportSeconds: ClosedRange<UInt64> = 10...3600
    /// The same for a capability that cannot be renewed.
    static let renewalReportSeconds: ClosedRange<UInt64> = 60...3600
    /// How often it is looked whether there is space for writes that wait for some.
    static let spaceLookNanoseconds: UInt64 = 1_000_000_000
    /// How often the status says anew how many requests wait.
    static let waitLookNanoseconds: UInt64 = 5_000_000_000
    /// How often a command that waits for the server looks whether it is back, in microseconds.
    static let reconnectPollMicroseconds: UInt32 = 100_000
    /// Between two tries to renew the node's certificate, in seconds.
    static let certificateRetrySeconds: ClosedRange<UInt64> = 10...600
    /// How long a process and its successor wait for each other, and for the requests under way, in seconds.
    static let successionSeconds: UInt64 = 20
    /// Before something is written over a volume: bytes that are read at its two ends, at most in all, and without a
    /// word.
    static let contentEndBytes: UInt64 = 1 << 20
    static let contentBytesMax: UInt64 = 4 << 30
    static let contentBytesQuick: UInt64 = 256 << 20
    /// Bytes of an attachment's record and of a helper's answer.
    static let recordBytesMax = 64 << 10
}
