import CFUSE
import Core
import Glibc
import Reactor

/// What a FUSE volume tells its owner, on the reactor's thread.
protocol FuseVolumeOwner: AnyObject {
    /// A request failed on the server; only the first of a series with the same status is told.
    func requestFailed(_ operation: BlockOperation, _ status: Status)
    /// The kernel ended the session: the mount is gone and every request was answered.
    func sessionEnded()
}

/// A file system of one file, which is the volume; a loop device over that file is the block device.
///
/// Everything runs on the reactor's thread: the kernel's messages are taken from /dev/fuse when it has some,
/// turned into requests to the backend, and answered from the backend's completions, without a hand-over to
/// another thread. A write's bytes stay in the buffer that the kernel's message came in, or are copied once
/// where they are few.
@safe final class FuseVolume<Backend: BlockBackend>: FuseFileSystem, CompletionTarget {
    @safe private struct Context {
        var request: fuse_req_t?
        var operation = BlockOperation.flush
        var lease: BufferPool.Lease?
        /// A write's bytes, when they do not begin where the lease does.
        var bytes: UnsafeMutableRawPointer?
        var count = 0
        /// When the kernel asked, in the reactor's time.
        var since: UInt64 = 0
    }

    private enum Token {
        static var messages: UInt32 { 0 }
        static var timeout: UInt32 { 1 }
    }

    private static var rootInode: fuse_ino_t { 1 }
    private static var volumeInode: fuse_ino_t { 2 }

    /// The name of the one file.
    let fileName: String
    private(set) var geometry: BlockGeometry
    private let reactor: Reactor
    private let backend: Backend
    private weak var owner: (any FuseVolumeOwner)?
    private var session: FuseSession?
    private var target: TargetID?
    private var descriptor: Int32 = -1
    private let pool: BufferPool
    private var table: RequestTable
    private var contexts: [Context]
    private var receiving: BufferPool.Lease?
    private var isStalled = false
    private var isServing = false
    /// Nothing more is taken from the kernel: a successor will.
    private var isPaused = false
    private var paused: (() -> Void)?
    /// The kernel's first message.
    private(set) var greeting: [UInt8] = []
    private var failure: Status?
    private var lastTold: Status?
    private let since: time_t
    private let timeoutNanoseconds: UInt64?

    /// A volume that nothing serves yet. The backend's completions must be given to `completed(tag:status:)`.
    /// A request that takes longer than `timeoutSeconds` fails.
    init(
        fileName: String, geometry: BlockGeometry, backend: Backend, reactor: Reactor,
        timeoutSeconds: UInt64? = nil, owner: any FuseVolumeOwner
    ) {
        timeoutNanoseconds = timeoutSeconds.map { $0 * 1_000_000_000 }
        self.fileName = fileName
        self.geometry = geometry
        self.backend = backend
        self.reactor = reactor
        self.owner = owner
        let transfer = min(geometry.maximumTransfer, AttachLimits.transferBytesMax)
        table = RequestTable(
            capacity: AttachLimits.requestsMax, transferMax: transfer, rangeMax: AttachLimits.rangeBytesMax)
        contexts = Array(repeating: Context(), count: AttachLimits.requestsMax)
        pool = BufferPool(
            largeBytes: FuseMessage.bytesMax,
            counts: (
                AttachLimits.smallBufferCount, AttachLimits.mediumBufferCount, AttachLimits.largeBufferCount
            ))
        since = time(nil)
    }

    /// Mounts at `folder` and begins to serve. On the reactor's thread.
    func serve(at folder: String) throws(AttachError) {
        let session = try FuseSession(serving: self, source: "volume/\(fileName)")
        descriptor = try session.mount(at: folder)
        self.session = session
        isServing = true
        target = reactor.register(self)
        watch()
        watchTime()
    }

    /// Goes on with the mount of another process at `folder`, whose /dev/fuse this is. On the reactor's thread.
    func adopt(descriptor: Int32, greeting: [UInt8], folder: String) throws(AttachError) {
        let session = try FuseSession(serving: self, source: "volume/\(fileName)")
        try session.adopt(descriptor: descriptor, greeting: greeting, folder: folder)
        self.descriptor = descriptor
        self.greeting = greeting
        self.session = session
        isServing = true
        target = reactor.register(self)
        watch()
        watchTime()
        drain()
    }

    /// Takes nothing more from the kernel; calls `body` when everything that was taken is answered.
    func pause(_ body: @escaping () -> Void) {
        isPaused = true
        paused = body
        sayPaused()
    }

    private func sayPaused() {
        guard table.activeCount == 0, let body = paused else { return }
        paused = nil
        body()
    }

    /// Goes on after `pause`.
    func unpause() {
        isPaused = false
        paused = nil
        if isServing { drain() }
    }

    /// Leaves the mount, which a successor serves now. After `pause`, when everything is answered.
    func leave() {
        guard isServing else { return }
        isServing = false
        if let target {
            reactor.cancel(target: target, token: Token.messages)
            reactor.unregister(target)
        }
        target = nil
        session?.leave()
        session = nil
    }

    /// /dev/fuse, which stays the session's; -1 before `serve`.
    var fuseDescriptor: Int32 { descriptor }

    /// Requests of the kernel that are not answered.
    var waitingCount: Int { table.activeCount }

    /// The volume has another size; the loop device learns it from LOOP_SET_CAPACITY.
    func resized(to size: UInt64) { geometry.size = size }

    /// From now on every request fails with `status`, those that wait included. What the backend has is still
    /// completed by the backend.
    func fail(_ status: Status) {
        failure = status
        pump()
    }

    /// Takes the mount away, whatever still uses it, and answers what is left. On the reactor's thread.
    func end() {
        guard isServing else { return }
        isServing = false
        if let target {
            reactor.cancel(target: target, token: Token.messages)
            reactor.unregister(target)
        }
        target = nil
        for index in table.active {
            if let request = unsafe contexts[index].request { unsafe fuse_reply_err(request, EIO) }
            unsafe contexts[index].request = nil
        }
        session?.unmount()
        session = nil
        owner?.sessionEnded()
    }

    // MARK: the kernel's messages

    private func watch() {
        guard let target else { return }
        reactor.pollMultishot(fd: descriptor, events: UInt32(POLLIN), target: target, token: Token.messages)
    }

    /// /dev/fuse has messages, or the poll ended; or it is time to look for requests that took too long.
    func completed(token: UInt32, result: Int32, flags: CompletionFlags) {
        guard isServing else { return }
        if token == Token.timeout { return timePassed() }
        drain()
        if isServing, !flags.more { watch() }
    }

    private func watchTime() {
        guard let target, let timeoutNanoseconds else { return }
        _ = reactor.setTimer(
            after: min(timeoutNanoseconds / 8, 1_000_000_000), target: target, token: Token.timeout)
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

    private func drain() {
        isStalled = false
        while isServing, !isPaused {
            guard !table.isFull, let buffer = unsafe receiving ?? pool.takeLarge() else {
                isStalled = true
                return
            }
            unsafe receiving = unsafe buffer
            var message = unsafe fuse_buf()
            unsafe message.mem = unsafe buffer.bytes
            unsafe message.size = pool.largeBytes
            let result = unsafe session?.receive(into: &message) ?? 0
            switch result {
            case -EAGAIN: return
            case -EINTR, -ENOENT: continue
            case 1...:
                if greeting.isEmpty { unsafe keepGreeting(buffer.bytes, count: Int(result)) }
                unsafe session?.process(&message)
            default: end()
            }
        }
    }

    private func keepGreeting(_ bytes: UnsafeMutableRawPointer, count: Int) {
        unsafe greeting = Array(UnsafeRawBufferPointer(start: bytes, count: count))
    }

    // MARK: requests that the server answers

    override func read(_ request: fuse_req_t, offset: Int64, count: Int) {
        let size = geometry.size
        guard offset >= 0, UInt64(offset) < size else {
            unsafe fuse_reply_buf(request, nil, 0)
            return
        }
        let length = min(UInt64(count), size - UInt64(offset))
        unsafe begin(.read, request, offset: UInt64(offset), length: length, context: Context())
    }

    override func write(_ request: fuse_req_t, offset: Int64, bytes: UnsafeMutableRawPointer, count: Int) {
        guard !geometry.isReadOnly else {
            unsafe fuse_reply_err(request, EROFS)
            return
        }
        guard let range = checked(offset, Int64(count)) else {
            unsafe fuse_reply_err(request, ENOSPC)
            return
        }
        var context = Context()
        if count <= AttachLimits.mediumBufferBytes, let lease = unsafe pool.take(bytes: count) {
            unsafe memcpy(lease.bytes, bytes, count)
            unsafe context.lease = unsafe lease
            unsafe context.bytes = unsafe lease.bytes
        } else {
            // The message keeps its buffer until the write is done; the next message gets another.
            unsafe context.lease = unsafe receiving
            unsafe context.bytes = unsafe bytes
            unsafe receiving = nil
        }
        unsafe begin(.write, request, offset: range.offset, length: range.length, context: context)
    }

    override func flush(_ request: fuse_req_t) {
        unsafe begin(.flush, request, offset: 0, length: 0, context: Context())
    }

    override func allocate(_ request: fuse_req_t, mode: Int32, offset: Int64, length: Int64) {
        guard !geometry.isReadOnly else {
            unsafe fuse_reply_err(request, EROFS)
            return
        }
        guard let operation = Self.operation(mode: mode) else {
            unsafe fuse_reply_err(request, EOPNOTSUPP)
            return
        }
        guard let range = checked(offset, length) else {
            unsafe fuse_reply_err(request, EINVAL)
            return
        }
        unsafe begin(operation, request, offset: range.offset, length: range.length, context: Context())
    }

    /// A hole is a discard, a zeroed range is zeroes; a mode that would change the size is nothing for a
    /// volume.
    static func operation(mode: Int32) -> BlockOperation? {
        guard mode & FALLOC_FL_KEEP_SIZE != 0 else { return nil }
        return switch mode & ~FALLOC_FL_KEEP_SIZE {
        case FALLOC_FL_PUNCH_HOLE: .discard
        case FALLOC_FL_ZERO_RANGE: .writeZeroes
        default: nil
        }
    }

    private func checked(_ offset: Int64, _ length: Int64) -> (offset: UInt64, length: UInt64)? {
        guard offset >= 0, length > 0 else { return nil }
        let (start, count) = (UInt64(offset), UInt64(length))
        guard start <= geometry.size, count <= geometry.size - start else { return nil }
        return (start, count)
    }

    private func begin(
        _ operation: BlockOperation, _ request: fuse_req_t, offset: UInt64, length: UInt64, context: Context
    ) {
        let index = table.begin(operation, offset: offset, length: length)
        contexts[index] = context
        unsafe contexts[index].request = unsafe request
        contexts[index].operation = operation
        contexts[index].count = Int(length)
        contexts[index].since = reactor.now
        pump()
    }

    /// Sends what waits, in order, until the backend or the buffers are used up.
    private func pump() {
        while let index = table.firstWaiting {
            if let failure { table.failWaiting(index, failure) }
            while let piece = table.nextPiece(of: index) {
                guard send(piece) else { return }
            }
            if let finished = table.advance() { answer(finished.index, finished.status) }
        }
    }

    private func send(_ piece: RequestTable.Piece) -> Bool {
        if piece.operation == .read, unsafe contexts[piece.index].lease == nil {
            guard let lease = unsafe pool.take(bytes: contexts[piece.index].count) else { return false }
            unsafe contexts[piece.index].lease = unsafe lease
            unsafe contexts[piece.index].bytes = unsafe lease.bytes
        }
        let bytes = unsafe contexts[piece.index].bytes
        table.sent(piece)
        let isTaken = unsafe backend.submit(
            BlockRequest(
                operation: piece.operation, offset: piece.offset, count: piece.count,
                buffer: bytes.map { unsafe $0 + Int(piece.position) }, tag: UInt64(piece.index)))
        if !isTaken { table.refused(piece) }
        return isTaken
    }

    /// The backend has answered a piece. On the reactor's thread.
    func completed(tag: UInt64, status: Status) {
        if let finished = table.completed(Int(tag), status) { answer(finished.index, finished.status) }
        pump()
        if isStalled { drain() }
    }

    /// The backend takes requests again, without one of its completions saying so.
    func slotsFreed() { pump() }

    private func answer(_ index: Int, _ status: Status) {
        let context = contexts[index]
        contexts[index] = Context()
        if status != .ok { tell(context.operation, status) } else { lastTold = nil }
        if let request = unsafe context.request {
            switch (status, context.operation) {
            case (.ok, .read):
                unsafe fuse_reply_buf(
                    request, context.bytes?.assumingMemoryBound(to: CChar.self), context.count)
            case (.ok, .write): unsafe fuse_reply_write(request, context.count)
            case (.ok, _): unsafe fuse_reply_err(request, 0)
            // Without the right to discard the device keeps working, only without discards.
            case (.denied, .discard): unsafe fuse_reply_err(request, EOPNOTSUPP)
            default: unsafe fuse_reply_err(request, status.blockErrno)
            }
        }
        if let lease = unsafe context.lease { unsafe pool.give(lease) }
        if isPaused { sayPaused() }
    }

    private func tell(_ operation: BlockOperation, _ status: Status) {
        guard lastTold != status else { return }
        lastTold = status
        owner?.requestFailed(operation, status)
    }

    // MARK: the one file

    private func status(of inode: fuse_ino_t) -> stat {
        var status = stat()
        status.st_ino = ino_t(inode)
        status.st_mtim.tv_sec = since
        status.st_ctim.tv_sec = since
        if inode == Self.rootInode {
            status.st_mode = S_IFDIR | 0o700
            status.st_nlink = 2
        } else {
            status.st_mode = S_IFREG | (geometry.isReadOnly ? 0o400 : 0o600)
            status.st_nlink = 1
            status.st_size = off_t(geometry.size)
            status.st_blocks = blkcnt_t(geometry.size / 512)
            status.st_blksize = 4096
        }
        return status
    }

    override func lookup(_ request: fuse_req_t, parent: fuse_ino_t, name: UnsafePointer<CChar>) {
        guard parent == Self.rootInode, unsafe strcmp(name, fileName) == 0 else {
            unsafe fuse_reply_err(request, ENOENT)
            return
        }
        var entry = fuse_entry_param()
        entry.ino = Self.volumeInode
        entry.entry_timeout = 3600
        entry.attr = status(of: Self.volumeInode)
        unsafe fuse_reply_entry(request, &entry)
    }

    override func attributes(_ request: fuse_req_t, inode: fuse_ino_t) {
        var status = status(of: inode)
        unsafe fuse_reply_attr(request, &status, 0)
    }

    override func open(_ request: fuse_req_t, inode: fuse_ino_t, flags: Int32) {
        guard !geometry.isReadOnly || flags & O_ACCMODE == O_RDONLY else {
            unsafe fuse_reply_err(request, EROFS)
            return
        }
        unsafe sluice_fuse_reply_open_direct(request, 1)
    }

    override func statistics(_ request: fuse_req_t) {
        var statistics = statvfs()
        // The loop driver takes its discard granularity from here.
        statistics.f_bsize = 4096
        statistics.f_frsize = 4096
        statistics.f_blocks = fsblkcnt_t(geometry.size / 4096)
        statistics.f_namemax = 255
        unsafe fuse_reply_statfs(request, &statistics)
    }
}

/// How large a message of the kernel may be.
enum FuseMessage {
    /// Bytes that libfuse may read at once: its largest write and the header's page.
    static var bytesMax: Int { (256 + 1) * Int(getpagesize()) }
}
