import Core
import Wire

/// What a benchmark does to a volume.
public enum BenchWorkload: String, Sendable, Codable, CaseIterable {
    /// Reads one block after the other.
    case read
    /// Writes one block after the other.
    case write
    /// Reads blocks at random.
    case randread
    /// Writes blocks at random.
    case randwrite
    /// Reads and writes blocks at random, in the configured mix.
    case randrw
    /// Reads and writes of all lengths up to the block size, at any place, in the configured mix, and checks all of
    /// them.
    case mixed

    /// Whether anything is written.
    public var writes: Bool { self != .read && self != .randread }
    /// Whether anything is read.
    public var reads: Bool { self != .write && self != .randwrite }
    /// Whether blocks come at random.
    public var isRandom: Bool { self != .read && self != .write }
    /// The rights that the volume must be opened with.
    public var rights: Rights { (reads ? Rights.read : []).union(writes ? .write : []) }
}

/// A benchmark: closed loop, every channel keeps `ioDepth` requests in flight.
public struct BenchConfiguration: Sendable {
    /// The volume and how to reach it; `channels` and the channels' `depth` are set from the fields below.
    public var volume: VolumeClientOptions
    /// What is done.
    public var workload: BenchWorkload
    /// Bytes of one request; of a mixed load, of the longest.
    public var blockSize: UInt32 = 4096
    /// Requests in flight on each channel.
    public var ioDepth = 32
    /// Channels in all.
    public var channels = 1
    /// Threads that the channels are spread over, at most `channels`.
    public var reactors = 1
    /// For how long a thread looks for answers before it sleeps, in microseconds; only while they usually come so soon.
    public var pollMicroseconds: UInt64 = 0
    /// Reads among the requests of `randrw`, in percent.
    public var readPercent = 50
    /// How long to run, in seconds; nil only where `totalBytes` is set.
    public var seconds: Double? = 10
    /// How much to move; whichever of this and `seconds` comes first ends the run.
    public var totalBytes: UInt64?
    /// Whether writes carry stamps, and reads check them. What a run has written is read back and checked
    /// when it ends; a run that only reads checks what an earlier one with the same seed and block size has
    /// written.
    public var verify = false
    /// Decides the random numbers and the stamps.
    public var seed: UInt64 = 1
    /// The bytes to use; nil for all that the capability gives.
    public var range: ByteRange?

    /// A benchmark with the defaults.
    public init(volume: VolumeClientOptions, workload: BenchWorkload) {
        self.volume = volume
        self.workload = workload
    }

    /// Whether what a run has written is read back at its end.
    var isChecked: Bool { verify || workload == .mixed }

    /// The channels of one worker.
    func channelCount(ofWorker index: Int) -> Int {
        channels / reactors + (index < channels % reactors ? 1 : 0)
    }

    /// The blocks of a volume that the run uses, each of so many bytes: the first, and how many each worker has, one share
    /// after the other.
    func blocks(of state: ResourceState, size: UInt64) -> (first: UInt64, share: UInt64) {
        let wanted = range ?? state.range
        let from = max(wanted.offset, state.range.offset)
        let first = from / size + (from.isMultiple(of: size) ? 0 : 1)
        let end = min(wanted.end, state.range.end, state.size) / size
        return (first, end > first ? (end - first) / UInt64(reactors) : 0)
    }

    /// What is wrong with the wanted range for this volume, in a sentence; nil when some of it may be used.
    func rangeFault(of state: ResourceState) -> String? {
        guard let range else { return nil }
        let usable = state.usable
        guard range.offset >= usable.end || range.end <= usable.offset else { return nil }
        return usable.refusal(of: range)
    }

    /// How one worker opens the volume; the first one's session is joined by the others.
    func options(ofWorker index: Int, ticket: SessionTicket?) -> VolumeClientOptions {
        var options = volume
        options.rights = workload.rights.union(verify ? .read : [])
        options.channels = channelCount(ofWorker: index)
        options.channel.depth = ioDepth
        options.channel.payloadBytesMax = UInt32(Limits.payloadBytesMax)
        options.channel.ticket = ticket
        return options
    }

    /// What is said of a thread's share of the volume that is too short for what it keeps under way.
    static func shortRange(_ blocks: UInt64, of bytes: UInt64, requests: Int) -> String {
        "what is loaded has too few blocks: \(blocks.counted("block")) of \(ByteCount(bytes)) for a thread with "
            + "\(requests.counted("request")) under way; a longer range, fewer requests or fewer channels would "
            + "be right"
    }

    /// Requests in flight in all.
    var jobs: Int { ioDepth * channels }

    /// What is wrong with the configuration, in a sentence; nil when nothing is.
    public var fault: String? {
        guard (512...UInt32(Limits.payloadBytesMax)).contains(blockSize), blockSize & 511 == 0 else {
            return "the block size is a multiple of 512 up to 1 MiB"
        }
        guard (1..<Limits.slotsPerChannelMax).contains(ioDepth) else { return "the I/O depth is 1 to 255" }
        guard (1...Limits.channelsPerSessionMax).contains(channels) else {
            return "there are 1 to 64 channels"
        }
        guard (1...channels).contains(reactors) else {
            return "\(channels.counted("channel")) cannot be shared by \(reactors.counted("thread")): 1 to "
                + "as many as there are channels would be right"
        }
        guard pollMicroseconds <= Limits.pollMicrosecondsMax else {
            return "polling takes 0 to \(Limits.pollMicrosecondsMax) microseconds"
        }
        guard (0...100).contains(readPercent) else { return "the share of reads is 0 to 100 percent" }
        guard seconds != nil || totalBytes != nil else { return "a run needs a time or an amount to end at" }
        if let seconds {
            guard seconds > 0, seconds <= 1_000_000 else { return "the time is above 0 seconds" }
        }
        if let totalBytes {
            guard totalBytes >= UInt64(blockSize) else { return "the amount is less than one block" }
        }
        return nil
    }
}

/// Why a benchmark could not run, or not to its end.
public enum BenchError: Error, Sendable, CustomStringConvertible {
    /// The configuration makes no sense; the text says why.
    case badConfiguration(String)
    /// The volume could not be opened or was lost.
    case channel(ChannelError)
    /// The machine refused something that the load generator needs.
    case system(String)
    /// Somebody broke the run off before anything was measured.
    case interrupted

    /// A sentence for the user.
    public var description: String {
        switch self {
        case .badConfiguration(let text): "the benchmark cannot run so: \(text)"
        case .channel(let error): error.description
        case .system(let text): text
        case .interrupted: "interrupted before anything was measured"
        }
    }

    /// Whose fault it is.
    public var kind: ErrorKind {
        switch self {
        case .badConfiguration: .caller
        case .channel(let error): error.kind
        case .system: .device
        case .interrupted: .caller
        }
    }
}
