import CFUSE
import Core
import Glibc
import Reactor

/// What a FUSE volume tells its owner, on the reactor's thread.
protocol FuseVolumeOwner: AnyObject {
    /// A request failed on the server; only the first of a series with the same status is told, and the first of it
    /// with which data was lost.
    func requestFailed(_ operation: BlockOperation, _ status: Status)
    /// So many writes wait for space on the server; told at each change and each second, 0 at the end.
    func waitsForSpace(_ count: Int)
    /// The kernel sends its requests through a ring of so many entries from now on.
    func ringServes(entries: Int)
    /// The kernel has closed the file, which somebody had open: a loop device that is given up, or a program.
    func fileClosed()
    /// The kernel ended the session: the mount is gone and every request was answered.
    func sessionEnded()
}

// Neither is nested in the volume: a generic type's parts are looked up at run time.

/// Who waits for an answer: a request by the kernel's name for it, and the ring's entry that it came in.
struct FuseCaller {
    var unique: UInt64
    /// -1: it came through /dev/fuse.
    var entry: Int32
}

/// How many requests have failed.
struct FailureTotal: Sendable, Hashable {
    var all: UInt64 = 0
    /// Those of them with which written data may be lost.
    var lost: UInt64 = 0

    static func + (one: FailureTotal, other: FailureTotal) -> FailureTotal {
        FailureTotal(all: one.all + other.all, lost: one.lost + other.lost)
    }
}

/// What a process that serves a device no more knows of it.
struct ServingAccount: Sendable, Hashable {
    var failed = FailureTotal()
    /// Whether it has done writes that may not be durable.
    var hasUnflushed = true
}

/// What is kept about a request until it is answered.
@safe struct FuseContext {
    /// Nil when it has its answer already.
    var caller: FuseCaller?
    var operation = BlockOperation.flush
    var lease: BufferPool.Lease?
    /// The request's bytes: the lease's, a part of them, or an entry's payload.
    var bytes: UnsafeMutableRawPointer?
    var count = 0
    /// When the kernel asked, in the reactor's time.
    var since: UInt64 = 0
    /// Of a flush: how many writes had been done when it began.
    var writesBefore: UInt64 = 0
}

/// Tokens of a volume's operations on its reactor.
enum FuseToken {
    static let messages: UInt32 = 0
    static let timeout: UInt32 = 1
    static let turn: UInt32 = 2
    static let space: UInt32 = 3
    /// That of the ring's first entry; the others follow.
    static let firstEntry: UInt32 = 16
}

/// The two inodes.
enum FuseInode {
    static let root: UInt64 = 1
    static let volume: UInt64 = 2
}

/// A file system of one file, which is the volume; a loop device over that file is the block device.
///
/// Everything runs on the reactor's thread: the kernel's requests are taken from /dev/fuse or from the entries of
/// a ring, turned into requests to the backend, and answered from the backend's completions, without a hand-over
/// to another thread. In a ring a request's bytes stay in its entry. A write that came through /dev/fuse stays in
/// the buffer of the message, or is copied once where it is small.
@safe final class FuseVolume<Backend: BlockBackend>: CompletionTarget {
    /// The name of the one file.
    let fileName: String
    private(set) var geometry: BlockGeometry
    let reactor: Reactor
    let backend: Backend
    weak var owner: (any FuseVolumeOwner)?
    var connection: FuseConnection?
    private var ring: FuseRing?
    /// The ring, for every request: it stays as long as this object.
    private(set) var entries: Borrowed<FuseRing>?
    var target: TargetID?
    let pool: BufferPool
    var table: RequestTable
    var contexts: [FuseContext]
    var receiving: BufferPool.Lease?
    var isStalled = false
    private var isServing = false
    /// Nothing more is taken from /dev/fuse: a successor will.
    private var isPaused = false
    var paused: (() -> Void)?
    /// A successor serves the ring: this end is left when nothing is under way, and nothing can come any more.
    var leaving: (() -> Void)?
    /// The successor has more entries to give, so that this end is left only when none of its own was used.
    private var again: (() -> Void)?
    private var looksLeft = 0
    /// Whether something has come through this process's entries since the successor's last ones were asked for.
    private var wasAsked = false
    /// The kernel's first message.
    private(set) var greeting: [UInt8] = []
    var failure: Status?
    /// The request that looks whether there is space again.
    var probe: Int?
    var isSpaceTimerSet = false
    var lastTold: (status: Status, isLoss: Bool)?
    /// Requests that failed, ever.
    var failed = FailureTotal()
    /// What a flush that fails may lose.
    var unflushed = UnflushedWrites()
    let since: time_t
    private let timeoutNanoseconds: UInt64?

    /// A volume that nothing serves yet. The backend's completions must be given to `completed(tag:status:)`.
    /// A request that takes longer than `timeoutSeconds` fails. A ring is used where the kernel offers one and the
    /// reactor takes commands.
    init(
        fileName: String, geometry: BlockGeometry, backend: Backend, reactor: Reactor,
        timeoutSeconds: UInt64? = nil, owner: any FuseVolumeOwner
    ) {
        timeoutNanoseconds = timeoutSeconds.map(Nanoseconds.seconds)
        self.fileName = fileName
        self.geometry = geometry
        self.backend = backend
        self.reactor = reactor
        self.owner = owner
        let transfer = min(geometry.maximumTransfer, AttachLimits.transferBytesMax)
        // A ring's entries can all hold a request besides those of /dev/fuse.
        let capacity = AttachLimits.requestsMax + AttachLimits.ringEntriesMax
        table = RequestTable(
            capacity: capacity, transferMax: transfer, rangeMax: AttachLimits.rangeBytesMax)
        contexts = Array(repeating: FuseContext(), count: capacity)
        pool = BufferPool(largeBytes: FuseMessage.bytesMax)
        since = time(nil)
    }

    /// Mounts at `folder` and begins to serve. On the reactor's thread.
    func serve(at folder: String) throws(AttachError) {
        begin(try FuseConnection(mountingAt: folder, source: "volume/\(fileName)"))
    }

    /// Goes on with the mount of another process at `folder`, whose /dev/fuse this is; through a ring, which this
    /// process has made for it, if the other one did: that one serves it, too, until `predecessorLeft`. What it has written
    /// may not be durable if `hasUnflushed`. On the reactor's thread.
    func adopt(
        descriptor: Int32, greeting: [UInt8], folder: String, ring: FuseRing?, entriesPerQueue: Int? = nil,
        hasUnflushed: Bool
    ) {
        self.greeting = greeting
        unflushed = UnflushedWrites(hasSome: hasUnflushed, isShared: ring != nil)
        begin(FuseConnection(adopting: descriptor, folder: folder))
        if let ring { serve(ring, entriesPerQueue: entriesPerQueue) } else { pool.fill() }
        drain()
    }

    private func begin(_ connection: FuseConnection) {
        self.connection = connection
        fuseDescriptor = connection.descriptor
        isServing = true
        target = reactor.register(self)
        watch()
        watchTime()
    }

    /// Serves a ring with all of its entries, or with some of each queue, until `arm` brings more.
    func serve(_ ring: FuseRing, entriesPerQueue: Int? = nil) {
        guard target != nil else { return }
        self.ring = ring
        entries = Borrowed(ring)
        arm(entriesPerQueue)
        owner?.ringServes(entries: ring.entryCount)
    }

    /// Gives the kernel further entries of each queue, or all that are left; it has them when this returns, and takes them
    /// before all that it was given before.
    func arm(_ entriesPerQueue: Int?) {
        guard let target, let ring else { return }
        ring.register(
            entriesPerQueue, on: reactor, descriptor: fuseDescriptor, target: target,
            firstToken: FuseToken.firstEntry)
        reactor.submit()
    }

    /// The other process serves its ring no more.
    func predecessorLeft(hasUnflushed: Bool) { unflushed.endShare(hasSome: hasUnflushed) }

    /// What has become of the kernel's requests until now.
    var account: ServingAccount { ServingAccount(failed: failed, hasUnflushed: unflushed.hasSome) }

    /// Takes nothing more from /dev/fuse; calls `body` when everything that was taken is answered. What comes
    /// through a ring is served all the same, beside the successor from then on.
    func pause(_ body: @escaping () -> Void) {
        isPaused = ring == nil
        paused = body
        sayPaused()
    }

    func sayPaused() {
        guard table.activeCount == 0 else { return }
        if leaving != nil { turn() }
        guard let body = paused else { return }
        paused = nil
        wasAsked = false
        if ring != nil { unflushed.share() }
        body()
    }

    /// Goes on after `pause`.
    func unpause() {
        isPaused = false
        paused = nil
        leaving = nil
        again = nil
        unflushed.endShare(hasSome: true)
        if isServing { drain() }
    }

    /// Leaves the mount, which a successor serves now. After `pause`, when everything is answered.
    func leave() {
        guard isServing else { return }
        if let ring {
            reactor.disown(commands: ring.armedCount)
            // SAFETY: never released. The kernel has the entries until the reactor's thread has ended.
            _ = unsafe Unmanaged.passRetained(ring)
        }
        connection?.leave()
        stop()
    }

    /// Leaves the ring to a successor, which has entries there: calls `body` when nothing is under way.
    ///
    /// The kernel takes the entry that it was given last: one of the successor's until this process answers a request. With
    /// `again` the successor has more to give: that is called, and nothing else, when this process has answered one since
    /// the successor's last.
    func leaveRing(again: (() -> Void)? = nil, _ body: @escaping () -> Void) {
        leaving = body
        self.again = again
        turn()
    }

    /// Looks twice for requests of this process's entries: what the kernel had given to one is there at the second look. An
    /// answer begins anew.
    private func turn() {
        guard table.activeCount == 0, looksLeft == 0, let target else { return }
        guard again == nil || !wasAsked else { return askAgain() }
        looksLeft = 2
        reactor.noOperation(target: target, token: FuseToken.turn)
    }

    private func looked() {
        looksLeft -= 1
        guard leaving != nil, table.activeCount == 0 else { return looksLeft = 0 }
        guard again == nil || !wasAsked else {
            looksLeft = 0
            return askAgain()
        }
        guard looksLeft == 0 else {
            if let target { reactor.noOperation(target: target, token: FuseToken.turn) }
            return
        }
        left()
    }

    private func askAgain() {
        guard let body = again else { return }
        leaving = nil
        again = nil
        wasAsked = false
        body()
    }

    private func left() {
        guard let body = leaving else { return }
        leaving = nil
        again = nil
        leave()
        body()
    }

    /// /dev/fuse, which stays the connection's; -1 while nothing is served.
    private(set) var fuseDescriptor: Int32 = -1

    /// The most that one request carries through the ring; nil without a ring.
    var ringPayloadBytes: Int? { ring?.payloadBytes }

    /// Requests of the kernel that are not answered.
    var waitingCount: Int { table.activeCount }

    /// The volume has another size; the loop device learns it from LOOP_SET_CAPACITY.
    func resized(to size: UInt64) { geometry.size = size }

    /// From now on every request fails with `status`, those that wait included. What the backend has is still
    /// completed by the backend.
    func fail(_ status: Status) {
        failure = status
        table.unparkAll()
        pump()
    }

    /// Takes the mount away, whatever still uses it, and answers what is left. On the reactor's thread.
    func end() {
        guard isServing else { return }
        for index in table.active {
            if let caller = contexts[index].caller { answer(caller, error: EIO) }
            contexts[index].caller = nil
        }
        // The answers are with the kernel before the connection is cut.
        reactor.submit()
        connection?.end()
        stop()
        owner?.sessionEnded()
    }

    private func stop() {
        isServing = false
        if let target {
            reactor.cancel(target: target, token: FuseToken.messages)
            reactor.unregister(target)
        }
        target = nil
        connection = nil
        fuseDescriptor = -1
    }

    // MARK: the kernel's messages

    private func watch() {
        guard let target else { return }
        reactor.pollMultishot(
            fd: fuseDescriptor, events: UInt32(POLLIN), target: target, token: FuseToken.messages)
    }

    /// An entry of the ring has a request; /dev/fuse has messages, or the poll ended; or it is time to look for
    /// requests that took too long.
    func completed(token: UInt32, result: Int32, flags: CompletionFlags) {
        if token >= FuseToken.firstEntry {
            wasAsked = true
            return takeEntry(Int(token - FuseToken.firstEntry), result)
        }
        guard isServing else { return }
        switch token {
        case FuseToken.timeout: timePassed()
        case FuseToken.turn: looked()
        case FuseToken.space: lookForSpace()
        default:
            drain()
            if isServing, !flags.more { watch() }
        }
    }

    private func takeEntry(_ entry: Int, _ result: Int32) {
        guard let entries else { return }
        entries.with { ring in
            ring.completed(entry)
            guard isServing else { return }
            guard result >= 0 else {
                // Where the kernel does not take the entries, its requests come through /dev/fuse after all.
                if result != -ENOTCONN { pool.fill() }
                return
            }
            guard let request = ring.request(entry) else {
                preconditionFailure("an entry is smaller than a header")
            }
            unsafe handle(
                request, FuseCaller(unique: request.unique, entry: Int32(entry)),
                payload: ring.payload(entry),
                payloadCount: ring.payloadCount(entry))
        }
    }

    private func watchTime() {
        guard let target, let timeoutNanoseconds else { return }
        _ = reactor.setTimer(
            after: min(timeoutNanoseconds / 8, 1_000_000_000), target: target, token: FuseToken.timeout)
    }

    /// Fails what has waited for too long, wherever it is. The device stays, and goes on when the server does.
    private func timePassed() {
        guard let timeoutNanoseconds else { return }
        for index in table.active where reactor.now - contexts[index].since >= timeoutNanoseconds {
            table.failWaiting(index, .timedOut)
            backend.giveUp(tag: UInt64(index))
        }
        pump()
        watchTime()
    }

    func drain() {
        isStalled = false
        while isServing, !isPaused, let connection {
            guard !table.isFull, let buffer = unsafe receiving ?? pool.takeLarge() else {
                isStalled = true
                return
            }
            unsafe receiving = unsafe buffer
            let result = unsafe connection.receive(into: buffer.bytes, capacity: pool.largeBytes)
            switch result {
            case -EAGAIN: return
            case -EINTR, -ENOENT: continue
            case 1...: unsafe take(buffer.bytes, count: Int(result))
            default: end()
            }
        }
    }

    private func take(_ bytes: UnsafeMutableRawPointer, count: Int) {
        let message = unsafe UnsafeRawBufferPointer(start: bytes, count: count)
        guard let request = unsafe FuseRequest(message: message.bytes) else { return }
        if greeting.isEmpty { unsafe greeting = Array(message) }
        let position = request.payloadPosition
        unsafe handle(
            request, FuseCaller(unique: request.unique, entry: -1), payload: bytes + position,
            payloadCount: count - position)
    }
}

/// How large a message of the kernel may be.
enum FuseMessage {
    /// Bytes that are read at once: the largest write and a page for the header.
    static var bytesMax: Int { Int(AttachLimits.transferBytesMax) + Int(getpagesize()) }
}
