import Core
import DriverKit
import Glibc
import Reactor

// SAFETY: the tables are allocated by init and freed by deinit, which comes only after the reactor has let go
// of this target: no operation is in the kernel then. Buffers were judged by `CheckedQueue`.
/// Requests of one reactor to a file pool, each a chain of operations on the reactor's ring.
@safe
final class FileQueue: DriverQueue, CompletionTarget, BatchTarget {
    private let driver: FileDriver
    private let reactor: Reactor
    private let queue: CheckedQueue
    private let onCompletions: () -> Void
    private let operations: UnsafeMutablePointer<FileOperation>
    private var table = FileVolumeTable()
    private var fixed: FixedArena
    private var space = SpaceAllowance()
    private var zeroes: UnsafeMutableRawPointer?
    private var freeHead: Int32 = 0
    private var inFlight = 0
    private var isScheduled = false
    private var target: TargetID?

    init(
        driver: FileDriver, reactor: Reactor, arena: Arena, submissions: SubmissionRing,
        completions: CompletionRing, onCompletions: @escaping () -> Void
    ) {
        self.driver = driver
        self.reactor = reactor
        queue = CheckedQueue(arena: arena, submissions: submissions, completions: completions)
        self.onCompletions = onCompletions
        fixed = FixedArena(arena, reactor: reactor)
        unsafe operations = UnsafeMutablePointer<FileOperation>.allocate(capacity: Limits.fileOperationsMax)
        for index in 0..<Limits.fileOperationsMax {
            let next = index + 1 < Limits.fileOperationsMax ? Int32(index + 1) : -1
            unsafe (operations + index).initialize(to: FileOperation(nextFree: next))
        }
    }

    deinit {
        unsafe operations.deallocate()
        if let zeroes = unsafe zeroes { unsafe munmap(zeroes, Limits.fileZeroPieceBytes) }
    }

    func start() { target = reactor.register(self) }

    func stop() {
        if let target { reactor.unregister(target) }
        target = nil
        table.removeAll()
        fixed.removeAll()
    }

    func indexChanged(_ index: UInt32) {
        table.set(index, driver.openVolume(index))
    }

    func process() {
        guard let target else { return }
        while freeHead >= 0, queue.room > inFlight, let next = queue.next({ table.open($0) }) {
            switch next {
            case .valid(let request, let opcode, let slot): begin(request, opcode, slot, target)
            case .refused(let tag, let status): complete(tag, status, 0)
            }
        }
    }

    private func begin(_ request: DriverRequest, _ opcode: DriverOpcode, _ slot: Int, _ target: TargetID) {
        if opcode == .blockStatus { return map(request, slot) }
        if opcode == .flush {
            let known = table[slot].volume.flushStatus
            if known != .ok { return complete(request.tag, known, 0) }
        }
        let index = freeHead
        let operation = unsafe operations + Int(index)
        freeHead = unsafe operation.pointee.nextFree
        inFlight += 1
        table.begin(slot)
        unsafe operation.pointee.tag = request.tag
        unsafe operation.pointee.offset = request.offset
        unsafe operation.pointee.length = opcode == .flush ? 0 : request.length
        unsafe operation.pointee.buffer = request.buffer
        unsafe operation.pointee.done = 0
        unsafe operation.pointee.slot = Int32(slot)
        unsafe operation.pointee.fd = table[slot].fd
        unsafe operation.pointee.isDurable = request.flags.contains(.fua)
        unsafe operation.pointee.keepsSpace = request.flags.contains(.noUnmap)
        unsafe operation.pointee.phase =
            switch opcode {
            case .read: .read
            case .write: .write
            case .flush: .flush
            case .discard: .discard
            case .writeZeroes: request.flags.contains(.noUnmap) ? .zeroRange : .punch
            case .blockStatus: preconditionFailure("a block status is answered at once")
            }
        unsafe start(operation, UInt32(index), target)
    }

    /// Starts the operation's next step, unless that wants space and the file system has no more for the pool.
    private func start(_ operation: UnsafeMutablePointer<FileOperation>, _ token: UInt32, _ target: TargetID)
    {
        switch unsafe operation.pointee.phase {
        case .write, .zeroRange, .writeZero:
            if unsafe space.isSpent(operation.pointee.pieceBytes), unsafe lacksSpace(operation.pointee) {
                return unsafe finish(operation, token, .noSpace)
            }
        case .read, .flush, .discard, .punch, .settle: break
        }
        unsafe issue(operation, token, target)
    }

    /// Whether the operation wants space, and the file system has no more for the pool: the pool leaves others
    /// their part. A write whose blocks have their space wants none. While the kernel changes where the file has
    /// its space, to ask about that would keep the whole pool waiting: then a write counts as one that has its
    /// space, and an operation that may want much as one that has not.
    @inline(never)
    private func lacksSpace(_ operation: FileOperation) -> Bool {
        space.look(free: driver.freeBytes())
        guard space.isFull else { return false }
        if table[Int(operation.slot)].volume.mapChangesNow { return operation.phase == .zeroRange }
        return !FileMap.isData(
            fd: operation.fd, offset: operation.offset + operation.done, length: operation.pieceBytes)
    }

    /// Has the kernel do the operation's next step.
    private func issue(_ operation: UnsafeMutablePointer<FileOperation>, _ token: UInt32, _ target: TargetID)
    {
        let fd = unsafe operation.pointee.fd
        let offset = unsafe operation.pointee.offset + operation.pointee.done
        let length = unsafe operation.pointee.pieceBytes
        if unsafe operation.pointee.changesMap {
            unsafe table[Int(operation.pointee.slot)].volume.mapChangeBegan()
        }
        switch unsafe operation.pointee.phase {
        case .read:
            let memory = unsafe queue.arena.base + Int(operation.pointee.buffer + operation.pointee.done)
            unsafe reactor.read(
                fd: fd, into: UnsafeMutableRawBufferPointer(start: memory, count: Int(length)), at: offset,
                fixed: fixedBuffer(operation), target: target, token: token)
        case .write:
            let memory = unsafe queue.arena.base + Int(operation.pointee.buffer + operation.pointee.done)
            unsafe reactor.write(
                fd: fd, from: UnsafeRawBufferPointer(start: memory, count: Int(length)), at: offset,
                dataSync: operation.pointee.isDurable, fixed: fixedBuffer(operation), target: target,
                token: token)
        case .writeZero:
            unsafe reactor.write(
                fd: fd, from: UnsafeRawBufferPointer(start: zeroMemory(), count: Int(length)), at: offset,
                target: target, token: token)
        case .flush, .settle: reactor.fsync(fd: fd, dataOnly: true, target: target, token: token)
        case .punch, .discard:
            reactor.fallocate(
                fd: fd, mode: .punchHole, offset: offset, length: length, target: target, token: token)
        case .zeroRange:
            reactor.fallocate(
                fd: fd, mode: .zeroRange, offset: offset, length: length, target: target, token: token)
        }
    }

    /// A registered buffer for direct files alone: the page cache copies, and need not know where the pages are.
    @inline(__always)
    private func fixedBuffer(_ operation: UnsafeMutablePointer<FileOperation>) -> FixedBuffer? {
        unsafe table[Int(operation.pointee.slot)].isDirect
            ? fixed.buffer(offset: operation.pointee.buffer, length: operation.pointee.length) : nil
    }

    func completed(token: UInt32, result: Int32, flags: CompletionFlags) {
        guard let target else { return }
        let operation = unsafe operations + Int(token)
        if unsafe operation.pointee.changesMap {
            unsafe table[Int(operation.pointee.slot)].volume.mapChangeEnded()
        }
        if result == -EAGAIN || result == -EINTR {
            unsafe issue(operation, token, target)
            return
        }
        switch unsafe operation.pointee.step(result) {
        case .again: unsafe start(operation, token, target)
        case .finished(let status): unsafe finish(operation, token, status)
        case .flushFailed(let status):
            unsafe table[Int(operation.pointee.slot)].volume.flushFailed(status)
            unsafe finish(operation, token, status)
        case .writeFailed(let status):
            // The kernel reports lost write-back once, to whoever syncs first: the next FLUSH must hear of it
            // too.
            let slot = unsafe Int(operation.pointee.slot)
            if unsafe operation.pointee.isDurable && (!table[slot].isDirect || status != .noSpace) {
                table[slot].volume.flushFailed(status)
            }
            unsafe finish(operation, token, status)
        }
    }

    private func finish(_ operation: UnsafeMutablePointer<FileOperation>, _ token: UInt32, _ status: Status) {
        unsafe table.end(Int(operation.pointee.slot))
        unsafe operation.pointee.nextFree = freeHead
        freeHead = Int32(token)
        inFlight -= 1
        unsafe complete(operation.pointee.tag, status, operation.pointee.length)
    }

    /// Answers a block status. It blocks as long as the file system takes to find its extents, which it has in
    /// memory, or in a few blocks. While the kernel changes them, the question would keep the whole pool waiting for
    /// seconds: all counts as data then.
    private func map(_ request: DriverRequest, _ slot: Int) {
        let file = table[slot]
        var map = unsafe BlockMapWriter(
            buffer: queue.arena.base + Int(request.buffer), length: request.length)
        if file.volume.mapChangesNow {
            unsafe map.append(request.length, .allocated)
        } else {
            unsafe FileMap.write(
                &map, fd: file.fd, offset: request.offset, length: request.length,
                blockSize: UInt64(file.geometry.blockSize))
        }
        unsafe complete(request.tag, .ok, map.covered, mapBytes: UInt32(map.bytes))
    }

    private func complete(_ tag: UInt64, _ status: Status, _ length: UInt64, mapBytes: UInt32 = 0) {
        queue.complete(tag, status, length, mapBytes: mapBytes)
        if !isScheduled {
            isScheduled = true
            reactor.atBatchEnd(self)
        }
    }

    func batchEnded() {
        isScheduled = false
        onCompletions()
        if queue.hasRequests { process() }
    }

    /// Zeroes to write from; made when a file system first needs them.
    private func zeroMemory() -> UnsafeMutableRawPointer {
        if let zeroes = unsafe zeroes { return unsafe zeroes }
        guard
            let memory = unsafe mmap(
                nil, Limits.fileZeroPieceBytes, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0),
            unsafe memory != MAP_FAILED
        else { preconditionFailure("no memory for \(Limits.fileZeroPieceBytes) bytes of zeroes") }
        unsafe zeroes = unsafe memory
        return unsafe memory
    }
}
