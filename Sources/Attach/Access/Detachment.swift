import Core
import Glibc
import Reactor

/// How an attachment is taken down from outside of its process.
extension Attachments {
    /// Writes everything back, takes the device away and ends the process that serves it. What ended processes left is
    /// only cleaned up, and what is still being attached is stopped.
    ///
    /// While something has the device or a partition of it mounted or otherwise in use, this refuses, says what,
    /// and leaves everything as it was. It refuses also after written data was lost, so that record and log go on
    /// saying what; `isForced` or `acceptsLoss` gives that up. `isForced` gives up data that cannot be written back
    /// as well, takes the device from processes that only have it open, and ends a serving process that does not
    /// let it go in seconds. While the server is away, or writing back takes long, this waits, and `waiting` hears
    /// for what and since when.
    ///
    /// - Returns: who keeps the device in the kernel until they let it go; nil when it is gone.
    @discardableResult
    public static func detach(
        _ attachment: Attachment, isForced: Bool = false, acceptsLoss: Bool = false,
        waiting: (String) -> Void = { _ in }
    ) throws(AttachError) -> String? {
        try detach(
            attachment, isForced: isForced, acceptsLoss: acceptsLoss, in: .standard, waiting: waiting)
    }

    @discardableResult
    static func detach(
        _ attachment: Attachment, isForced: Bool, acceptsLoss: Bool = false, in store: AttachmentStore,
        waiting: (String) -> Void = { _ in }
    ) throws(AttachError) -> String? {
        if attachment.isAttaching {
            try stopAttaching(attachment, isForced: isForced, in: store)
            return nil
        }
        guard let record = store.record(attachment.key), record.device == attachment.device else {
            throw AttachError(.notFound, "\(attachment.volume) is not attached any more")
        }
        guard let claim = try store.claimDetaching(record.key) else {
            throw AttachError(.busy, "\(attachment.volume) is being detached by another command")
        }
        defer { store.endDetaching(record.key, claim) }
        if !isForced, !acceptsLoss { try refuseLoss(settled(record, in: store)) }
        guard record.process.isAlive, record.loop.isPresent else {
            return try finish(record, isForced: true, in: store)
        }
        let use = DeviceUse.of(record.device)
        guard use.mayPass else { throw use.refusal(of: record.device) }
        if record.process.isStopped {
            guard isForced else {
                throw AttachError(
                    .busy,
                    "process \(record.process.pid), which serves \(record.device), is stopped, and cannot write data "
                        + "back; let it go on with: kill -CONT \(record.process.pid); or give that data up with: "
                        + "sluice detach --force \(attachment.volume)")
            }
            _ = record.process.signal(SIGKILL)
            return try finish(record, isForced: true, in: store)
        }
        return try release(
            record, isForced: isForced, acceptsLoss: acceptsLoss, in: store, waiting: waiting)
    }

    /// What was lost of an attachment, as far as its process knows; nil when nothing was.
    public static func loss(of attachment: Attachment) -> String? {
        let store = AttachmentStore.standard
        return store.record(attachment.key).flatMap { settled($0, in: store).loss }
    }

    /// The record, with all that has failed until now.
    private static func settled(_ record: AttachmentRecord, in store: AttachmentStore) -> AttachmentRecord {
        if record.process.isAlive, !record.process.isStopped {
            do throws(AttachError) {
                let channel = try SuccessionChannel.connect(to: record.process.pid, in: store.folder)
                try channel.send(SuccessionRequest.report)
                _ = try channel.receive(SuccessionAnswer.self)
            } catch {
                // The process is about to end, and writes its record before; or it is of a version that cannot be
                // asked.
                _ = record.process.waitUntilEnded(milliseconds: AttachLimits.reportMilliseconds)
            }
        }
        guard let now = store.record(record.key), now.mark == record.mark else { return record }
        return now
    }

    private static func refuseLoss(_ record: AttachmentRecord) throws(AttachError) {
        guard let loss = record.loss else { return }
        throw AttachError(
            .system,
            "data written to volume/\(record.volume) was lost: \(loss); it is kept as \(record.device) until that is "
                + "given up: \(lossAdvice(record))")
    }

    /// What to do about data that was lost.
    static func lossAdvice(_ record: AttachmentRecord) -> String {
        "check what is on it, and give the lost data up with: sluice detach --force volume/\(record.volume)"
    }

    private static func release(
        _ record: AttachmentRecord, isForced: Bool, acceptsLoss: Bool, in store: AttachmentStore,
        waiting: (String) -> Void
    ) throws(AttachError) -> String? {
        var record = record
        if isForced {
            // Whoever waits for the device holds it: everything that waits must fail first.
            if !isFlushed(record) { _ = record.process.signal(AttachProcess.giveUpSignal) }
        } else if record.state.isWaiting {
            waiting(record.obstacle)
            while record.state.isWaiting, record.process.isAlive {
                Pause.microseconds(AttachLimits.reconnectPollMicroseconds)
                guard let now = store.record(record.key), now.mark == record.mark else { return nil }
                record = now
            }
            guard record.process.isAlive else { return try finish(record, isForced: true, in: store) }
        }
        if !isForced, !acceptsLoss, !record.state.isServing {
            // The device fails everything: what the kernel still holds for it is lost, and the flush makes the
            // kernel say so.
            do throws(AttachError) { try LoopHelper.flush(record.loop) } catch {}
            try refuseLoss(settled(record, in: store))
        }
        // A device that fails everything has nothing left to write back to.
        let helper = try LoopHelper.release(record.loop, isForced: isForced || !record.state.isServing)
        let kept = try waitFor(helper, record, isForced: isForced, in: store, waiting: waiting)
        let left = try finish(record, isForced: isForced, in: store)
        return kept ?? left
    }

    /// Writes back what can be written back in seconds; whether that was all of it.
    private static func isFlushed(_ record: AttachmentRecord) -> Bool {
        guard record.state.isWell, let helper = try? LoopHelper.flushing(record.loop) else {
            return false
        }
        let milliseconds = Int32(AttachLimits.forceNanoseconds / 1_000_000)
        return ((try? helper.answer(within: milliseconds)) ?? nil) != nil
    }

    /// Waits for the helper, and says what it waits for.
    private static func waitFor(
        _ helper: HelperProcess, _ record: AttachmentRecord, isForced: Bool, in store: AttachmentStore,
        waiting: (String) -> Void
    ) throws(AttachError) -> String? {
        let (begin, since) = (SystemClock.monotonic(), Timestamp.text(SystemWallClock().now()))
        var said: String?
        var isEnded = false
        while true {
            if let answer = try helper.answer(within: 200) { return answer.isEmpty ? nil : answer }
            let elapsed = SystemClock.monotonic() - begin
            if isForced, !isEnded, elapsed > AttachLimits.forceNanoseconds {
                isEnded = true
                waiting("process \(record.process.pid) does not let \(record.device) go, and is ended")
                _ = record.process.signal(SIGKILL)
            }
            guard !isForced || elapsed < AttachLimits.forceAtMostNanoseconds else {
                throw AttachError(.busy, "the kernel does not let \(record.device) go; see its log")
            }
            guard !isForced, elapsed > AttachLimits.silentNanoseconds else { continue }
            let reason = obstacle(record, in: store)
            if reason != said { waiting("since \(since), \(reason)") }
            said = reason
        }
    }

    /// What keeps data from being written back.
    private static func obstacle(_ record: AttachmentRecord, in store: AttachmentStore) -> String {
        let now = store.record(record.key)
        if record.process.isStopped {
            return
                "process \(record.process.pid), which serves it, is stopped: kill -CONT \(record.process.pid)"
        }
        if let now, now.state.isWaiting { return now.obstacle }
        if let reasons = DeviceUse.of(record.device).reasons(for: record.device) {
            return "\(record.device) is \(reasons)"
        }
        return "data is being written to the server"
    }

    /// Ends the process, and takes away what is left of the attachment: its process does that itself, unless it has
    /// ended before its time.
    private static func finish(
        _ record: AttachmentRecord, isForced: Bool, in store: AttachmentStore
    ) throws(AttachError) -> String? {
        if record.process.signal(SIGTERM) {
            let patience =
                isForced ? Int32(AttachLimits.forceNanoseconds / 1_000_000) : AttachLimits.detachMilliseconds
            var hasEnded = record.process.waitUntilEnded(milliseconds: patience)
            if !hasEnded, isForced || !record.loop.isPresent {
                _ = record.process.signal(SIGKILL)
                hasEnded = record.process.waitUntilEnded(milliseconds: patience)
            }
            guard hasEnded else {
                throw AttachError(
                    .busy,
                    "\(record.device) is given up, but process \(record.process.pid) has not ended in "
                        + "\(patience / 1000) seconds; its log is \(store.logFile(record.key))")
            }
        }
        guard let lock = try store.claimOfEnded(record) else {
            throw AttachError(.busy, "volume/\(record.volume) is being attached anew by another process")
        }
        defer { close(lock) }
        // Nothing of it, or something newer, needs no cleaning.
        guard let left = store.record(record.key), left.mark == record.mark else {
            if store.record(record.key) == nil { store.remove(record.key) }
            return nil
        }
        return try clear(left, in: store)
    }

    /// Takes away what an ended process has left behind: the loop device, the mount, the record. The caller has the
    /// claim of the key.
    ///
    /// This waits for nobody. Who has the device mounted or open finds every request failing, and the device goes
    /// when they let it go. Returns who they are; nil when it is gone, or was not there any more.
    @discardableResult
    static func clear(
        _ record: AttachmentRecord, in store: AttachmentStore, keepsClaim: Bool = false
    ) throws(AttachError) -> String? {
        var keepers: String?
        // Of another run of the machine only files are left: what has the device's name now is somebody else's.
        if record.process.boot == ProcessIdentity.currentBoot {
            let loop = record.loop
            // An old version's device is known by where its file is, as long as that is mounted.
            if loop.identity == nil, loop.isPresent { keepers = try LoopDevice.abandon(loop) }
            try FuseMount.remove(record.folder)
            if loop.isPresent { keepers = try LoopDevice.abandon(loop) }
        }
        _ = unsafe unlink(SuccessionChannel.path(record.process.pid, in: store.folder))
        store.remove(record.key, keepsClaim: keepsClaim)
        return keepers
    }
}
