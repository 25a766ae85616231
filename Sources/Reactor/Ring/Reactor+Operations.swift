import CURing
import Glibc

/// Operations. Each completes with `token` on `target`: a result of 0 or more, or -errno. Their memory and
/// descriptors must stay valid until the last completion. On a reactor that is stopping they complete with
/// -ECANCELED.
extension Reactor {
    /// Accepts connections until cancelled; each completion's result is a descriptor that is close-on-exec
    /// and blocking.
    ///
    /// It goes on after an aborted connection; it ends (without `more`) where descriptors or memory ran out.
    public func acceptMultishot(fd: Int32, target: TargetID, token: UInt32) {
        startMultishot(.accept, fd: fd, events: 0, target: target, token: token)
    }

    /// Receives until cancelled, end of stream (result 0) or an error; each completion brings a receive
    /// buffer.
    ///
    /// Running out of receive buffers pauses it, unseen, until some are recycled.
    public func receiveMultishot(fd: Int32, target: TargetID, token: UInt32) {
        startMultishot(.receive, fd: fd, events: 0, target: target, token: token)
    }

    /// Completes with the events each time that some of `events` (`poll(2)`) arise, until cancelled. Edges,
    /// not levels.
    public func pollMultishot(fd: Int32, events: UInt32, target: TargetID, token: UInt32) {
        startMultishot(.poll, fd: fd, events: events, target: target, token: token)
    }

    /// Completes once, with the events that are there.
    public func poll(fd: Int32, events: UInt32, target: TargetID, token: UInt32) {
        guard let entry = unsafe begin(target, token) else { return }
        unsafe io_uring_prep_poll_add(entry, fd, events)
        unsafe name(entry, target, token)
    }

    /// Does nothing, completely: completes with 0 at the next wake-up.
    public func noOperation(target: TargetID, token: UInt32) {
        guard let entry = unsafe begin(target, token) else { return }
        unsafe io_uring_prep_nop(entry)
        unsafe name(entry, target, token)
    }

    /// Receives into memory of the caller.
    public func receive(
        fd: Int32, into buffer: UnsafeMutableRawBufferPointer, target: TargetID, token: UInt32
    ) {
        guard let entry = unsafe begin(target, token) else { return }
        unsafe io_uring_prep_recv(entry, fd, buffer.baseAddress, buffer.count, 0)
        unsafe name(entry, target, token)
    }

    /// Sends all the bytes; the result is less than their count only when the peer failed or the send was
    /// cancelled.
    public func send(fd: Int32, _ bytes: UnsafeRawBufferPointer, target: TargetID, token: UInt32) {
        guard let entry = unsafe begin(target, token) else { return }
        unsafe io_uring_prep_send(
            entry, fd, bytes.baseAddress, bytes.count, Int32(MSG_NOSIGNAL | MSG_WAITALL))
        unsafe name(entry, target, token)
    }

    /// Connects a socket.
    public func connect(fd: Int32, address: SocketAddress, target: TargetID, token: UInt32) {
        guard let entry = unsafe begin(target, token) else { return }
        let (memory, length) = unsafe address.allocated()
        unsafe state.pointee.addresses.append(memory)
        unsafe io_uring_prep_connect(entry, fd, memory.assumingMemoryBound(to: sockaddr.self), length)
        unsafe name(entry, target, token)
    }

    /// Reads at an offset of a file, or the next bytes of a pipe or device when `offset` is `UInt64.max`.
    ///
    /// With `fixed`, the buffer lies in that registered memory; otherwise the result is -EFAULT.
    public func read(
        fd: Int32, into buffer: UnsafeMutableRawBufferPointer, at offset: UInt64, fixed: FixedBuffer? = nil,
        target: TargetID, token: UInt32
    ) {
        guard let entry = unsafe begin(target, token) else { return }
        let count = UInt32(truncatingIfNeeded: buffer.count)
        if let fixed {
            unsafe io_uring_prep_read_fixed(
                entry, fd, buffer.baseAddress, count, offset, Int32(fixed.index))
        } else {
            unsafe io_uring_prep_read(entry, fd, buffer.baseAddress, count, offset)
        }
        unsafe name(entry, target, token)
    }

    /// Writes at an offset of a file; `dataSync` makes this one write durable before it completes
    /// (`RWF_DSYNC`).
    ///
    /// With `fixed`, the bytes lie in that registered memory; otherwise the result is -EFAULT.
    public func write(
        fd: Int32, from bytes: UnsafeRawBufferPointer, at offset: UInt64, dataSync: Bool = false,
        fixed: FixedBuffer? = nil, target: TargetID, token: UInt32
    ) {
        guard let entry = unsafe begin(target, token) else { return }
        let count = UInt32(truncatingIfNeeded: bytes.count)
        if let fixed {
            unsafe io_uring_prep_write_fixed(
                entry, fd, bytes.baseAddress, count, offset, Int32(fixed.index))
        } else {
            unsafe io_uring_prep_write(entry, fd, bytes.baseAddress, count, offset)
        }
        if dataSync { unsafe sluice_sqe_rw_flags(entry, Int32(SLUICE_RWF_DSYNC)) }
        unsafe name(entry, target, token)
    }

    /// Makes a file durable: fsync(2), or fdatasync(2) with `dataOnly`.
    public func fsync(fd: Int32, dataOnly: Bool, target: TargetID, token: UInt32) {
        guard let entry = unsafe begin(target, token) else { return }
        unsafe io_uring_prep_fsync(entry, fd, dataOnly ? UInt32(SLUICE_FSYNC_DATASYNC) : 0)
        unsafe name(entry, target, token)
    }

    /// Changes a file's allocation (`fallocate(2)`).
    public func fallocate(
        fd: Int32, mode: FileAllocation, offset: UInt64, length: UInt64, target: TargetID, token: UInt32
    ) {
        guard let entry = unsafe begin(target, token) else { return }
        unsafe io_uring_prep_fallocate(
            entry, fd, mode.rawValue, off_t(Int64(bitPattern: offset)), off_t(Int64(bitPattern: length)))
        unsafe name(entry, target, token)
    }

    /// Gives a command to the driver behind a descriptor (`IORING_OP_URING_CMD`): its number, the 24 bytes that
    /// go with it, and as many `struct iovec` as `vectors` holds, which the kernel reads at the submission.
    ///
    /// Only in a reactor that `takesCommands`. It completes when the driver says so; cancelling does not end it.
    public func command(
        fd: Int32, _ operation: UInt32, words: (UInt64, UInt64, UInt64),
        vectors: UnsafeRawPointer? = nil, vectorCount: UInt32 = 0, target: TargetID, token: UInt32
    ) {
        precondition(options.takesCommands, "a reactor without room for commands")
        guard let entry = unsafe begin(target, token) else { return }
        unsafe sluice_sqe_command(
            entry, fd, operation, vectors, vectorCount, words.0, words.1, words.2)
        unsafe name(entry, target, token)
    }

    /// Does not wait for so many commands when it stops: their driver keeps them until this thread has ended.
    ///
    /// What they use must stay valid until then.
    public func disown(commands: Int) { unsafe state.pointee.operations &-= commands }

    /// Closes a descriptor. Cancel its operations first: an operation in flight keeps the file open.
    public func close(fd: Int32, target: TargetID, token: UInt32) {
        if unsafe state.pointee.isStopping {
            let result = Glibc.close(fd) == 0 ? 0 : -errno
            refuse(target, token, result)
            return
        }
        guard let entry = unsafe begin(target, token) else { return }
        unsafe io_uring_prep_close(entry, fd)
        unsafe name(entry, target, token)
    }

    /// Cancels the operations of this target and token. Each still completes: with -ECANCELED, or as it ended
    /// before.
    public func cancel(target: TargetID, token: UInt32) {
        var index = unsafe state.pointee.targets.slot(target).pointee.firstMultishot
        while index >= 0 {
            let record = unsafe state.pointee.multishots.records[Int(index)]
            if record.token == token && !record.isCancelled {
                cancelMultishot(Int(index))
                return
            }
            index = record.next
        }
        cancelInKernel(UserData.target(target.index, token))
    }

    /// Cancels every operation on a descriptor, whatever its target. Each still completes.
    public func cancelAll(fd: Int32) {
        for index in unsafe 0..<state.pointee.multishots.capacity {
            let record = unsafe state.pointee.multishots.records + index
            if unsafe record.pointee.state == .free || record.pointee.fd != fd || record.pointee.isCancelled {
                continue
            }
            markCancelled(index)
        }
        guard let entry = unsafe begin(Reactor.internalTarget, 0) else { return }
        unsafe io_uring_prep_cancel_fd(entry, fd, UInt32(SLUICE_CANCEL_ALL))
        unsafe name(entry, Reactor.internalTarget, 0)
    }

    // MARK: Submission

    /// Counts the operation and takes a submission entry; nil: the reactor is stopping and has refused.
    @inline(__always)
    private func begin(_ target: TargetID, _ token: UInt32) -> UnsafeMutablePointer<io_uring_sqe>? {
        let slot = unsafe state.pointee.targets.slot(target)
        if unsafe state.pointee.isStopping {
            refuse(target, token, -ECANCELED)
            return nil
        }
        unsafe slot.pointee.operations &+= 1
        unsafe state.pointee.operations &+= 1
        return unsafe nextEntry()
    }

    @inline(__always)
    private func name(_ entry: UnsafeMutablePointer<io_uring_sqe>, _ target: TargetID, _ token: UInt32) {
        unsafe entry.pointee.user_data = UserData.target(target.index, token)
    }

    @inline(__always)
    private func nextEntry() -> UnsafeMutablePointer<io_uring_sqe> {
        if let entry = unsafe io_uring_get_sqe(ring) { return unsafe entry }
        return unsafe nextEntryAfterSubmission()
    }

    /// The submission queue is full: submits it and goes on.
    @inline(never)
    private func nextEntryAfterSubmission() -> UnsafeMutablePointer<io_uring_sqe> {
        start()
        while true {
            let result = unsafe sluice_ring_enter(ring, state.pointee.registeredDescriptor, 0, 0, -1)
            if result == -EBUSY || result == -EAGAIN { makeRoom() }
            precondition(
                result >= 0 || [EBUSY, EAGAIN, EINTR].contains(-result),
                "io_uring_enter: \(ReactorError.text(errno: -result))")
            if let entry = unsafe io_uring_get_sqe(ring) { return unsafe entry }
        }
    }

    /// Takes completions out of the ring, to be dispatched later, so that the kernel can submit again.
    private func makeRoom() {
        var completion = sluice_completion()
        while unsafe sluice_cq_take(ring, &completion) != 0 {
            unsafe state.pointee.spill.append(
                SpilledCompletion(
                    userData: completion.user_data, result: completion.result, flags: completion.flags))
        }
        _ = unsafe sluice_ring_enter(ring, state.pointee.registeredDescriptor, 0, 1, -1)
    }

    /// Completes an operation that the kernel never sees.
    private func refuse(_ target: TargetID, _ token: UInt32, _ result: Int32) {
        unsafe state.pointee.targets.slot(target).pointee.operations &+= 1
        unsafe state.pointee.operations &+= 1
        spill(UserData.target(target.index, token), result)
    }

    func spill(_ userData: UInt64, _ result: Int32) {
        unsafe state.pointee.spill.append(SpilledCompletion(userData: userData, result: result, flags: 0))
    }

    func releaseAddresses() {
        if unsafe state.pointee.addresses.isEmpty || sluice_ring_unsubmitted(ring) != 0 { return }
        unsafe state.pointee.addresses.forEach { unsafe $0.deallocate() }
        unsafe state.pointee.addresses.removeAll(keepingCapacity: true)
    }

    // MARK: Multishot

    private func startMultishot(
        _ kind: MultishotKind, fd: Int32, events: UInt32, target: TargetID, token: UInt32
    ) {
        let slot = unsafe state.pointee.targets.slot(target)
        if unsafe state.pointee.isStopping {
            refuse(target, token, -ECANCELED)
            return
        }
        unsafe slot.pointee.operations &+= 1
        unsafe state.pointee.operations &+= 1
        let index = unsafe state.pointee.multishots.insert(
            kind: kind, fd: fd, events: events, token: token, target: target.index, slot: slot)
        arm(index)
    }

    /// Gives a parked record to the kernel.
    func arm(_ index: Int) {
        let entry = unsafe nextEntry()
        let record = unsafe state.pointee.multishots.records + index
        unsafe record.pointee.state = .armed
        switch unsafe record.pointee.kind {
        case .accept:
            unsafe io_uring_prep_multishot_accept(
                entry, record.pointee.fd, nil, nil, Int32(SOCK_CLOEXEC.rawValue))
        case .receive:
            unsafe io_uring_prep_recv_multishot(entry, record.pointee.fd, nil, 0, 0)
            unsafe sluice_sqe_select_buffer(entry, ReceiveBuffers.group)
            unsafe sluice_sqe_poll_first(entry)
        case .poll:
            unsafe io_uring_prep_poll_multishot(entry, record.pointee.fd, record.pointee.events)
        }
        unsafe entry.pointee.user_data = unsafe UserData.multishot(
            index, generation: record.pointee.generation)
    }

    /// Cancels one record, wherever it is: the kernel's, or parked and then completed by the reactor itself.
    func cancelMultishot(_ index: Int) {
        let record = unsafe state.pointee.multishots.records + index
        if unsafe record.pointee.isCancelled { return }
        let isArmed = unsafe record.pointee.state == .armed
        markCancelled(index)
        if isArmed { unsafe cancelInKernel(UserData.multishot(index, generation: record.pointee.generation)) }
    }

    private func markCancelled(_ index: Int) {
        let record = unsafe state.pointee.multishots.records + index
        unsafe record.pointee.isCancelled = true
        if unsafe record.pointee.state == .parked {
            unsafe spill(UserData.multishot(index, generation: record.pointee.generation), -ECANCELED)
        }
    }

    private func cancelInKernel(_ userData: UInt64) {
        guard let entry = unsafe begin(Reactor.internalTarget, 0) else { return }
        unsafe io_uring_prep_cancel64(entry, userData, Int32(SLUICE_CANCEL_ALL))
        unsafe name(entry, Reactor.internalTarget, 0)
    }

    /// Asks the kernel to cancel all that it has.
    func cancelInKernel() {
        unsafe state.pointee.targets.slot(Reactor.internalTarget).pointee.operations &+= 1
        unsafe state.pointee.operations &+= 1
        let entry = unsafe nextEntry()
        unsafe io_uring_prep_cancel64(entry, 0, Int32(SLUICE_CANCEL_EVERYTHING))
        unsafe name(entry, Reactor.internalTarget, 0)
    }
}

/// The modes of `fallocate(2)` that a block store needs.
public enum FileAllocation: Sendable {
    /// Allocates space without changing the size.
    case reserve
    /// Gives space back; the range reads as zeroes.
    case punchHole
    /// Makes the range read as zeroes and keeps its space.
    case zeroRange

    var rawValue: Int32 {
        let keep = Int32(SLUICE_FALLOC_KEEP_SIZE)
        return switch self {
        case .reserve: keep
        case .punchHole: keep | Int32(SLUICE_FALLOC_PUNCH_HOLE)
        case .zeroRange: keep | Int32(SLUICE_FALLOC_ZERO_RANGE)
        }
    }
}
