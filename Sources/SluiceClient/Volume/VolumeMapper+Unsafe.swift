import Core
import Reactor
import Synchronization
import Wire

/// Bytes of a volume of which the same is known.
public struct VolumeExtent: Sendable, Hashable {
    /// The first byte.
    public var offset: UInt64
    /// How many bytes.
    public var length: UInt64
    /// What is known about them.
    public var flags: BlockFlags

    /// An extent of its parts.
    public init(offset: UInt64, length: UInt64, flags: BlockFlags) {
        self.offset = offset
        self.length = length
        self.flags = flags
    }
}

/// Asks a server what it knows about the blocks of a volume.
public enum VolumeMapper {
    /// The most extents that are gathered.
    public static let extentsMax = 1 << 20

    /// The extents of a volume, or of a range of it, in order; neighbours differ in what is known. Blocks the calling
    /// thread, which must not be a reactor's.
    ///
    /// - Parameters:
    ///   - marker: the marker's id since which is asked what was changed.
    ///   - waiting: told what is waited for, after two seconds; on the calling thread.
    /// - Throws: `tooLarge` for more than `extentsMax` extents, `outOfRange` for a range beyond the volume's end,
    ///   `notFound` for a marker that the volume does not have.
    public static func map(
        _ options: VolumeClientOptions, range: ByteRange? = nil, since marker: Identifier? = nil,
        waiting: (String) -> Void = { _ in }
    ) throws(ChannelError) -> [VolumeExtent] {
        let task = VolumeMapTask(options, range: range, marker: marker)
        var setup = Reactor.Options()
        setup.name = "map"
        let thread: ReactorThread
        do throws(ReactorError) {
            thread = try Reactor.start(setup) { reactor in task.start(reactor) }
        } catch { throw .lost(error.description) }
        defer {
            thread.remote.stop()
            thread.join()
        }
        return try task.wait(waiting).get()
    }
}

// SAFETY: everything but `outcome` and `obstacle` is touched on the reactor's thread only: by `start`, which the reactor
// calls, and by the volume client.
/// One map in the making.
@safe
private final class VolumeMapTask: ObstacleWatcher, @unchecked Sendable {
    private let options: VolumeClientOptions
    private let range: ByteRange?
    private let marker: Identifier?
    private let outcome = OneShot<Result<[VolumeExtent], ChannelError>>()
    let obstacle = VolumeObstacle()
    private var volume: VolumeClient?
    private var remote: ReactorRemote?
    private var extents: [VolumeExtent] = []
    private var position: UInt64 = 0
    private var end: UInt64 = 0
    private var failure: ChannelError?
    private let buffer: UnsafeMutableRawBufferPointer

    init(_ options: VolumeClientOptions, range: ByteRange?, marker: Identifier?) {
        self.options = options
        self.range = range
        self.marker = marker
        unsafe buffer = .allocate(
            byteCount: Limits.blockStatusBytesMax + Identifier.byteCount, alignment: 8)
        if let marker {
            let end = unsafe UnsafeMutableRawBufferPointer(rebasing: buffer[Limits.blockStatusBytesMax...])
            unsafe end.copyBytes(from: marker.bytes)
        }
    }

    deinit { unsafe buffer.deallocate() }

    func start(_ reactor: Reactor) {
        var options = options
        options.rights = .read
        options.channels = 1
        options.reconnects = false
        let volume = VolumeClient(reactor: reactor, options: options, delegate: self)
        self.volume = volume
        remote = reactor.remote
        volume.start()
    }

    func wait(_ waiting: (String) -> Void) -> Result<[VolumeExtent], ChannelError> {
        var voice = WaitingVoice(now: SystemClock.monotonic())
        while true {
            if let found = outcome.take(milliseconds: 100) { return found }
            let words = obstacle.words ?? "the server's answers"
            if let words = voice.look(progress: 0, words, now: SystemClock.monotonic()) { waiting(words) }
        }
    }

    func volumeReady(_ volume: VolumeClient) {
        guard let state = volume.state else { return }
        let usable = state.usable
        let wanted = range ?? usable
        (position, end) = (wanted.offset, wanted.end)
        guard usable.contains(wanted) else {
            return fail(.refused(.blockStatus, .outOfRange, message: usable.refusal(of: wanted)))
        }
        ask()
    }

    private func ask() {
        guard position < end, let volume, let state = volume.state else { return finish() }
        // As much as a request can ask for, in whole blocks.
        let most = UInt64(UInt32.max) / UInt64(state.blockSize) * UInt64(state.blockSize)
        let isTaken = unsafe volume.submit(
            .blockStatus, offset: position, count: UInt32(min(end - position, most)),
            buffer: buffer.baseAddress, namesMarker: marker != nil, tag: position)
        if !isTaken { fail(.lost("the channel takes no request")) }
    }

    func volumeCompleted(_ volume: VolumeClient, _ completions: Span<ChannelCompletion>) {
        for index in completions.indices {
            let completion = completions[index]
            guard completion.status == .ok else {
                return fail(.refused(.blockStatus, completion.status, message: volume.lastMessage))
            }
            if let text = add(completion.value) { return fail(.violation(text)) }
            if extents.count > VolumeMapper.extentsMax {
                return fail(
                    .refused(
                        .blockStatus, .tooLarge,
                        message: "there are more than \(VolumeMapper.extentsMax) extents: ask for a range"))
            }
            ask()
        }
    }

    /// Adds what the reply says, which covers so many bytes; answers what is wrong with it. The channel has checked the
    /// reply's extents against its length and these bytes, so that there is no reading behind them.
    private func add(_ covered: UInt64) -> String? {
        var left = covered
        var at = 0
        guard let block = volume?.state.map({ UInt64($0.blockSize) }), covered.isMultiple(of: block) else {
            return "it describes parts of blocks"
        }
        while left > 0 {
            guard let extent = unsafe buffer.baseAddress.flatMap({ unsafe BlockExtent.load($0 + at) }),
                extent.length.isMultiple(of: block)
            else { return "it describes parts of blocks" }
            if let last = extents.last, last.flags == extent.flags {
                extents[extents.count - 1].length += extent.length
            } else {
                extents.append(VolumeExtent(offset: position, length: extent.length, flags: extent.flags))
            }
            position += extent.length
            left -= extent.length
            at += BlockExtent.byteCount
        }
        return nil
    }

    private func fail(_ error: ChannelError) {
        failure = failure ?? error
        finish()
    }

    /// Closes, after this wake-up: a request that ends with its channel ends before the channel says why.
    private func finish() {
        remote?.post { [self] in volume?.close() }
    }

    func volumeHasRoom(_ volume: VolumeClient) {}

    func volumeClosed(_ volume: VolumeClient, _ error: ChannelError) {
        self.volume = nil
        let isWhole = failure == nil && position == end && end > 0
        // A request that ended with its channel says less than the channel does.
        let isOwnDoing = if case .closed = error { true } else { false }
        let final = isOwnDoing ? failure ?? error : error
        let found = extents
        outcome.give(isWhole ? .success(found) : .failure(final))
    }
}
