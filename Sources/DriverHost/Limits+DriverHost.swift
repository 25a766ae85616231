import Core
import DriverKit

extension Limits {
    /// The most reactors that one host serves.
    public static let hostQueuesMax = 64
    /// The longest packet of the control socket, in bytes.
    static let controlPacketBytesMax = 60_000
    /// The longest text in a packet, in bytes.
    static let controlTextBytesMax = 4096
    /// The most texts in one list of a packet.
    static let controlTextsMax = 8
    /// The most bytes of a call, or of a part of an answer, in the words of a driver's kind in one packet.
    static let controlPartBytesMax = 48_000
    /// How many packets of one host are taken before others have their turn.
    static let controlPacketsPerTurnMax = 256
    /// How often a control call is made again because its host was lost.
    static let controlCallAttemptsMax = 8
    /// The longest answer in the words of a driver's kind, in bytes: a list of a million volumes.
    static let controlAnswerBytesMax = 24 << 20
    /// The longest name of a kept descriptor, in bytes.
    static let storedNameBytesMax = 128
    /// How many packets that answer nothing a host may send at once: those of a pool whose volumes are all open.
    static let unaskedPacketsBurst = 2 * openVolumesPerPoolMax
    /// How many volumes and queues a new host is asked for before it has answered: both sides must find room in
    /// the socket for what the other has not taken yet.
    static let openingsAtOnceMax = 16
    /// How long until a lock that could not be asked for is asked for again, in milliseconds.
    static let lockAgainMilliseconds: Int32 = 200
    /// How many descriptors a pool's hosts may have kept without being asked for anything, and how many more
    /// for every volume that they are asked to make, to grow or to open.
    static let storedDescriptorsFree = 64
    static let storedDescriptorsPerCall = 2
    /// The memory that a volume explains beyond its size, each time that it was made larger, in bytes; and the lists of
    /// its pieces, one so-manieth of its size.
    static let explainedMemoryPerCall: UInt64 = (2 << 20) + (16 << 10)
    static let explainedListShare: UInt64 = 256 << 10
    /// The most descriptors that the server keeps for a pool's hosts.
    static let storedDescriptorsMax = 1 << 17
    /// How long a control packet may wait for room in the socket, in seconds.
    static let controlSendSecondsMax = 10
    /// How long a control call may take, in milliseconds: devices are zeroed and files are synced within it.
    static let controlCallMillisecondsMax: Int64 = 120_000
    /// How long a caller waits for a pool whose host is being replaced, in milliseconds.
    static let recoveryWaitMillisecondsMax: Int64 = 30_000
    /// How long a reactor looks at a lane before it sleeps, where the device usually answers within that, in
    /// nanoseconds: about what sleeping and being woken costs.
    static let laneWaitNanoseconds: UInt64 = 30_000
    /// How often a lane with requests in flight is looked after, in nanoseconds.
    static let heartbeatNanoseconds: UInt64 = 250_000_000
    /// A host that leaves a ping unanswered for so many heartbeats hangs.
    static let heartbeatsMissedMax = 8
    /// How often a host may ring more than it has completed requests: a sleeping server is rung for a completion.
    static let uselessRingsMax = 4096
    /// How long the end of a pool is waited for, in milliseconds: a process that waits for its device cannot be
    /// ended, and goes when the device lets it.
    static let shutDownMillisecondsMax: Int64 = 30_000
    /// How long a host may keep requests of somebody who was cut off, in nanoseconds. With a heartbeat and the
    /// end of the host, whoever fences, revokes or disconnects waits at most five seconds for a driver.
    public static let withdrawnNanoseconds: UInt64 = 4_000_000_000
    /// The private memory of a host, in bytes; buffers are in the arena, which does not count.
    public static let hostMemoryBytesMax: UInt64 = 4 << 30
    /// The descriptors of a host: two for each volume that can be open, and its own.
    public static let hostFilesMax = UInt64(2 * openVolumesPerPoolMax + 1024)
    /// The threads of all hosts of a pool's user; two hosts while one takes over from the other.
    public static let hostThreadsMax: UInt64 = 1024
    /// How willingly the kernel ends a host before anything else when memory is short: 0 to 1000.
    static let hostMemoryScore = 800
}
