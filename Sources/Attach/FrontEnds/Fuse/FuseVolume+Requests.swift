import CFUSE
import Core
import Glibc

/// What the kernel asks for, what the backend is asked for, and the answers.
extension FuseVolume {
    func handle(
        _ request: FuseRequest, _ caller: FuseCaller, payload: UnsafeMutableRawPointer, payloadCount: Int
    ) {
        switch request.call {
        case .read(let offset, let count): read(caller, offset: offset, count: Int(count))
        case .write(let offset, let count):
            unsafe write(caller, offset: offset, bytes: payload, count: Int(count))
        // Nothing was written, so that nothing has to be made durable; nor may the server be asked for it without
        // the right.
        case .flush where geometry.isReadOnly: answer(caller, error: 0)
        case .flush: begin(.flush, caller, offset: 0, length: 0, context: FuseContext())
        case .allocate(let mode, let offset, let length):
            allocate(caller, mode: Int32(truncatingIfNeeded: mode), offset: offset, length: length)
        case .initialise(let offer): initialise(caller, offer)
        case .lookup:
            let isKnown =
                unsafe request.inode == FuseInode.root
                && isFileName(UnsafeRawBufferPointer(start: payload, count: payloadCount))
            if isKnown { answer(caller, entry) } else { answer(caller, error: ENOENT) }
        case .attributes:
            var reply = fuse_attr_out()
            reply.attr = attributes(of: request.inode)
            answer(caller, reply)
        case .open(let flags): open(caller, flags: Int32(truncatingIfNeeded: flags))
        case .statistics: answer(caller, FuseAnswer.statistics(size: geometry.size))
        case .nothing: answer(caller, error: 0)
        case .release:
            answer(caller, error: 0)
            if request.inode == FuseInode.volume { owner?.fileClosed() }
        case .unanswered: break
        case .unknown: answer(caller, error: ENOSYS)
        case .malformed: answer(caller, error: EINVAL)
        }
    }

    // MARK: answers

    func answer(_ caller: FuseCaller, error: Int32) {
        unsafe answer(caller, error: error, bytes: nil, count: 0)
    }

    private func answer(_ caller: FuseCaller, _ reply: some BitwiseCopyable) {
        unsafe withUnsafeBytes(of: reply) { bytes in
            if caller.entry >= 0, let entries {
                unsafe entries.with { unsafe $0.payload(Int(caller.entry)) }.copyMemory(
                    from: bytes.baseAddress!, byteCount: bytes.count)
            }
            unsafe answer(caller, error: 0, bytes: bytes.baseAddress, count: bytes.count)
        }
    }

    /// In a ring the bytes are the entry's payload already.
    private func answer(_ caller: FuseCaller, error: Int32, bytes: UnsafeRawPointer?, count: Int) {
        guard caller.entry >= 0, let entries else {
            unsafe connection?.answer(caller.unique, error: error, bytes: bytes, count: count)
            return
        }
        guard let target else { return }
        entries.with { ring in
            ring.answer(
                Int(caller.entry), caller.unique, error: error, count: count, on: reactor,
                descriptor: fuseDescriptor, target: target, firstToken: FuseToken.firstEntry)
        }
    }

    // MARK: requests that the server answers

    private func read(_ caller: FuseCaller, offset: UInt64, count: Int) {
        guard offset < geometry.size else { return answer(caller, error: 0) }
        var context = FuseContext()
        // The kernel asks for no more than it was told to; anything else is not answered from memory.
        let most: Int
        if caller.entry >= 0, let entries {
            most = entries.with { $0.payloadBytes }
            unsafe context.bytes = unsafe entries.with { unsafe $0.payload(Int(caller.entry)) }
        } else {
            most = pool.largeBytes
        }
        guard count <= most else { return answer(caller, error: EINVAL) }
        let length = min(UInt64(count), geometry.size - offset)
        begin(.read, caller, offset: offset, length: length, context: context)
    }

    private func write(_ caller: FuseCaller, offset: UInt64, bytes: UnsafeMutableRawPointer, count: Int) {
        guard !geometry.isReadOnly else { return answer(caller, error: EROFS) }
        guard let range = checked(offset, UInt64(count)) else { return answer(caller, error: ENOSPC) }
        var context = FuseContext()
        if caller.entry >= 0 {
            unsafe context.bytes = unsafe bytes
        } else if count <= AttachLimits.mediumBufferBytes, let lease = unsafe pool.take(bytes: count) {
            unsafe memcpy(lease.bytes, bytes, count)
            unsafe context.lease = unsafe lease
            unsafe context.bytes = unsafe lease.bytes
        } else {
            // The message keeps its buffer until the write is done; the next message gets another.
            unsafe context.lease = unsafe receiving
            unsafe context.bytes = unsafe bytes
            unsafe receiving = nil
        }
        begin(.write, caller, offset: range.offset, length: range.length, context: context)
    }

    private func allocate(_ caller: FuseCaller, mode: Int32, offset: UInt64, length: UInt64) {
        guard !geometry.isReadOnly else { return answer(caller, error: EROFS) }
        guard let operation = Self.operation(mode: mode), operation != .discard || geometry.allowsDiscard
        else {
            return answer(caller, error: EOPNOTSUPP)
        }
        guard let range = checked(offset, length) else { return answer(caller, error: EINVAL) }
        begin(operation, caller, offset: range.offset, length: range.length, context: FuseContext())
    }

    /// A hole is a discard, which reads as zero or is refused: the loop driver asks for one when a range shall read
    /// as zero, and writes zeroes itself when it is told that there are none. A zeroed range keeps its space. A mode
    /// that would change the size is nothing for a volume.
    static func operation(mode: Int32) -> BlockOperation? {
        guard mode & FALLOC_FL_KEEP_SIZE != 0 else { return nil }
        return switch mode & ~FALLOC_FL_KEEP_SIZE {
        case FALLOC_FL_PUNCH_HOLE: .discard
        case FALLOC_FL_ZERO_RANGE: .writeZeroes
        default: nil
        }
    }

    private func checked(_ offset: UInt64, _ length: UInt64) -> (offset: UInt64, length: UInt64)? {
        guard length > 0, offset <= geometry.size, length <= geometry.size - offset else { return nil }
        return (offset, length)
    }

    private func begin(
        _ operation: BlockOperation, _ caller: FuseCaller, offset: UInt64, length: UInt64,
        context: FuseContext
    ) {
        // Only so many entries and messages are taken at once.
        precondition(!table.isFull, "more requests than the table was made for")
        let index = table.begin(operation, offset: offset, length: length)
        contexts[index] = context
        contexts[index].caller = caller
        contexts[index].operation = operation
        contexts[index].count = Int(length)
        contexts[index].since = reactor.now
        contexts[index].writesBefore = unflushed.done
        pump()
    }

    /// Sends what waits, in order, until the backend or the buffers are used up.
    func pump() {
        while let index = table.firstWaiting {
            if let failure { table.failWaiting(index, failure) }
            while let piece = table.nextPiece(of: index) {
                guard send(piece) else { return }
            }
            if let finished = table.advance() { answer(finished.index, finished.status) }
        }
    }

    private func send(_ piece: RequestTable.Piece) -> Bool {
        if piece.operation == .read, unsafe contexts[piece.index].bytes == nil {
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
        if status == .noSpaceYet { return waitForSpace(index) }
        if index == probe { probed(status) }
        let context = contexts[index]
        contexts[index] = FuseContext()
        switch (status, context.operation) {
        case (.ok, let operation):
            lastTold = nil
            unflushed.succeeded(operation, writesBefore: context.writesBefore)
        // No failure: the kernel goes another way.
        case (.notSupported, .discard), (.notSupported, .writeZeroes): break
        default: noteFailure(context.operation, status)
        }
        if let caller = context.caller {
            switch (status, context.operation) {
            case (.ok, .read): unsafe answer(caller, error: 0, bytes: context.bytes, count: context.count)
            case (.ok, .write):
                var reply = fuse_write_out()
                reply.size = UInt32(context.count)
                answer(caller, reply)
            case (.ok, _): answer(caller, error: 0)
            // Without the right to discard the device keeps working, only without discards.
            case (.denied, .discard): answer(caller, error: EOPNOTSUPP)
            default: answer(caller, error: status.blockErrno)
            }
        }
        if let lease = unsafe context.lease { unsafe pool.give(lease) }
        if paused != nil || leaving != nil { sayPaused() }
    }

    // MARK: waiting for space

    /// Keeps a write for which the server has no space yet. One of those that wait looks whether there is some, so
    /// that not all of them send all that they have each second.
    private func waitForSpace(_ index: Int) {
        if index == probe { probe = nil }
        owner?.waitsForSpace(table.parkedCount)
        setSpaceTimer()
    }

    private func setSpaceTimer() {
        guard !isSpaceTimerSet, let target else { return }
        isSpaceTimerSet = true
        _ = reactor.setTimer(
            after: AttachLimits.spaceLookNanoseconds, target: target, token: FuseToken.space)
    }

    func lookForSpace() {
        isSpaceTimerSet = false
        owner?.waitsForSpace(table.parkedCount)
        guard table.parkedCount > 0 else { return }
        if probe == nil { probe = table.unparkFirst() }
        pump()
        if table.parkedCount > 0 { setSpaceTimer() }
    }

    private func probed(_ status: Status) {
        probe = nil
        // Where the pool's writes fail now, those that wait do so at once.
        guard status == .ok || status == .noSpace else { return setSpaceTimer() }
        table.unparkAll()
        owner?.waitsForSpace(0)
    }

    private func noteFailure(_ operation: BlockOperation, _ status: Status) {
        // The server refused what it does not allow, and the kernel does without.
        if operation == .discard, status == .denied { return }
        let isLoss = unflushed.isLoss(operation)
        failed.all += 1
        if isLoss { failed.lost += 1 }
        if let lastTold, lastTold.status == status, lastTold.isLoss || !isLoss { return }
        lastTold = (status, isLoss)
        owner?.requestFailed(operation, status)
    }

    // MARK: the one file

    /// The kernel's first message: what was agreed on is in force when it is answered.
    private func initialise(_ caller: FuseCaller, _ offer: FuseOffer) {
        guard offer.major == FUSE_KERNEL_VERSION, offer.minor >= AttachLimits.fuseMinorVersionMin else {
            return answer(caller, error: EPROTO)
        }
        let made = reactor.takesCommands && offer.hasRing && entries == nil ? FuseRing() : nil
        answer(
            caller,
            FuseAnswer.initialise(
                offer,
                transferBytesMax: made.map { UInt32($0.payloadBytes) } ?? AttachLimits.transferBytesMax,
                usesRing: made != nil))
        if let made { serve(made) } else { pool.fill() }
    }

    private func isFileName(_ name: UnsafeRawBufferPointer) -> Bool {
        unsafe name.prefix { $0 != 0 }.elementsEqual(fileName.utf8)
    }

    private func attributes(of inode: UInt64) -> fuse_attr {
        FuseAnswer.attributes(
            inode: inode, isFolder: inode == FuseInode.root, isReadOnly: geometry.isReadOnly,
            size: geometry.size, since: UInt64(since))
    }

    private var entry: fuse_entry_out {
        var entry = fuse_entry_out()
        entry.nodeid = FuseInode.volume
        entry.entry_valid = 3600
        entry.attr = attributes(of: FuseInode.volume)
        return entry
    }

    private func open(_ caller: FuseCaller, flags: Int32) {
        guard !geometry.isReadOnly || flags & O_ACCMODE == O_RDONLY else {
            return answer(caller, error: EROFS)
        }
        answer(caller, FuseAnswer.open)
    }
}
