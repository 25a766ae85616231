import Core
import Logging
import Reactor
import SluiceClient
import Wire

/// What an attachment hears of its server, and how it says so: in the log, and in the record that
/// `sluice status` shows.
extension AttachSession {
    // MARK: the connection

    func interrupted(_ reason: String, waiting: Int) {
        guard record?.state.isServing ?? false else { return }
        let now = SystemClock.monotonic()
        // A server that was silent before its connection ended is away since then.
        let (silentSince, silentWallSince) = (unansweredSince, record?.unansweredSince)
        setUnanswered(nil, nil)
        if interruption == nil {
            interruption = Interruption(
                since: silentWallSince ?? SystemWallClock().now(), reason: reason, begin: silentSince ?? now,
                nextLook: now,
                reports: ReportTimes(
                    now: now, firstSeconds: AttachLimits.waitReportSeconds.lowerBound,
                    longestSeconds: AttachLimits.waitReportSeconds.upperBound))
            logger.warning("requests wait: \(reason)", metadata: waitMetadata(waiting))
        } else {
            interruption?.reason = reason
        }
        noteWaiting(waiting)
    }

    func stillInterrupted(waiting: Int) {
        guard let current = interruption else { return noteWaiting(waiting) }
        let now = SystemClock.monotonic()
        interruption?.nextLook = now + AttachLimits.waitLookNanoseconds
        noteWaiting(waiting)
        if interruption?.reports.isDue(now) ?? false {
            logger.warning(
                "requests still wait, since \(Timestamp.text(current.since)): \(current.reason)",
                metadata: waitMetadata(waiting))
        }
    }

    // MARK: a server that does not answer

    func unanswered(_ nanoseconds: UInt64, waiting: Int) {
        guard record?.state.isWell ?? false, interruption == nil else { return }
        let now = SystemClock.monotonic()
        setUnanswered(now &- nanoseconds, SystemWallClock().now() &- nanoseconds / 1_000_000_000)
        logger.warning(
            "the server takes what is sent and answers nothing, not even a PING; requests wait",
            metadata: waitMetadata(waiting))
    }

    func answered() {
        guard let since = unansweredSince else { return }
        setUnanswered(nil, nil)
        let tenths = (SystemClock.monotonic() &- since) / 100_000_000
        logger.notice(
            "the server answers again after \(tenths / 10).\(tenths % 10) s",
            metadata: ["volume": "\(options.volume)"])
    }

    /// Puts it into the record, beside its state: the device goes on as one that is attached.
    private func setUnanswered(_ since: UInt64?, _ wallSince: UInt64?) {
        unansweredSince = since
        guard var record, record.unansweredSince != wallSince else { return }
        record.unansweredSince = wallSince
        self.record = record
        save()
    }

    func resumed(_ nanoseconds: UInt64, repeated: Int) {
        guard let ended = interruption else { return }
        interruption = nil
        // If the driver is still away the server says so anew.
        driverTrouble = nil
        let tenths = max(nanoseconds, SystemClock.monotonic() &- ended.begin) / 100_000_000
        logger.notice(
            "resumed after \(tenths / 10).\(tenths % 10) s, \(repeated.counted("request")) repeated",
            metadata: ["volume": "\(options.volume)"])
        describe()
    }

    private func noteWaiting(_ count: Int) {
        waiting = count
        describe()
    }

    // MARK: the driver

    /// The server's driver of the volume is away, or back: meanwhile the server has the requests, and answers none.
    private func driverIs(away words: String?) {
        guard let words else {
            guard let since = driverTrouble?.since else { return }
            driverTrouble = nil
            logger.notice("the volume's driver works again; requests waited since \(Timestamp.text(since))")
            return describe()
        }
        driverTrouble = DriverTrouble(
            since: driverTrouble?.since ?? SystemWallClock().now(), reason: words,
            nextLook: SystemClock.monotonic())
        logger.warning("requests wait: \(words)", metadata: ["volume": "\(options.volume)"])
        describe()
    }

    // MARK: what has failed

    /// Requests have failed, so many since the device was attached; the kernel and whoever it serves were told.
    func failed(_ total: FailureTotal, _ operation: BlockOperation, _ status: Status, _ message: String) {
        let words = message.isEmpty ? status.name : "\(status.name): \(message)"
        logger.error(
            "a request failed",
            metadata: [
                "volume": "\(options.volume)", "operation": "\(operation)", "status": "\(status.name)",
                "server": "\(message)", "failed": "\(total.all)", "lost": "\(total.lost)",
            ])
        if record?.failures == nil {
            record?.failures = AttachmentRecord.Failures(
                since: SystemWallClock().now(), count: 0, lost: 0,
                reason: "\(operation) was answered \(words)")
        }
        nextFailureLook = SystemClock.monotonic() + AttachLimits.waitLookNanoseconds
        counted(failures: total)
    }

    /// How many requests have failed until now.
    func counted(failures total: FailureTotal) {
        let sum = failedBefore + total
        guard let record, let known = record.failures, known.total != sum else { return }
        self.record?.failures?.count = sum.all
        self.record?.failures?.lost = sum.lost
        if record.state.isServing { describe() } else { save() }
    }

    private func waitMetadata(_ waiting: Int) -> Logger.Metadata {
        ["volume": "\(options.volume)", "requests": "\(waiting)"]
    }

    // MARK: space

    func waitsForSpace(_ waiting: Int) {
        guard record?.state.isServing ?? false else { return }
        self.waiting = waiting
        guard waiting > 0 else {
            guard let shortage else { return }
            self.shortage = nil
            logger.notice(
                "there is space again, which writes waited for since \(Timestamp.text(shortage.since))",
                metadata: ["volume": "\(options.volume)"])
            return describe()
        }
        let now = SystemClock.monotonic()
        var current =
            shortage
            ?? Shortage(
                since: SystemWallClock().now(),
                reports: ReportTimes(
                    now: now, firstSeconds: AttachLimits.waitReportSeconds.lowerBound,
                    longestSeconds: AttachLimits.waitReportSeconds.upperBound))
        if shortage == nil || current.reports.isDue(now) {
            logger.warning(
                "the volume's pool is full: writes wait for space since \(Timestamp.text(current.since))",
                metadata: waitMetadata(waiting))
        }
        shortage = current
        describe()
    }

    func disconnected(_ error: ChannelError) {
        isConnected = false
        interruption = nil
        driverTrouble = nil
        shortage = nil
        nextRenewal = .max
        guard record?.state.isServing ?? false else { return }
        if case .refused(_, let status, _) = error, status.kind == .denied || status == .writerConflict {
            note(.revoked, "\(error); every request fails. Unmount, 'sluice detach' and attach again")
        } else {
            note(.disconnected, "\(error); every request fails. Unmount, 'sluice detach' and attach again")
        }
    }

    func heard(_ event: ChannelEvent) {
        switch event {
        case .resized: resize()
        case .revoked(_, let status, let reason):
            nextRenewal = .max
            let why = reason.isEmpty ? status.name : "\(status.name): \(reason)"
            note(.revoked, "the server took the right away (\(why)); every request fails")
        case .expiring: renewAtOnce()
        case .draining(let seconds, let target):
            let place = target.isEmpty ? "" : "; go to \(target)"
            logger.warning("the server goes away within \(seconds.counted("second"))\(place)")
        case .driverRecovering, .driverQuarantined: driverIs(away: event.driverIsAway)
        }
    }

    /// A helper process has the device take over the volume's size, one at a time: that waits for requests under way,
    /// which may be for ever.
    private func resize() {
        guard let record, !isReleasing else { return }
        guard !isResizing else { return isResizeOwed = true }
        isResizing = true
        inBackground("resize") { [inbox] in
            do throws(AttachError) {
                let size = try LoopHelper.resize(record.loop, file: "\(record.folder)/\(record.volume)")
                inbox.post(.resized(.success(size)))
            } catch {
                inbox.post(.resized(.failure(error)))
            }
        } otherwise: { [inbox] error in
            inbox.post(.resized(.failure(error)))
        }
    }

    /// The helper has ended.
    func resized(_ result: Result<UInt64, AttachError>) {
        isResizing = false
        defer {
            if isResizeOwed {
                isResizeOwed = false
                resize()
            }
        }
        guard var record, !isReleasing else { return }
        do throws(AttachError) {
            record.size = try result.get()
            self.record = record
            try store.write(record)
            logger.info("resized", metadata: ["device": "\(record.device)", "bytes": "\(record.size)"])
        } catch {
            logger.error("cannot take over the volume's new size: \(error)")
        }
    }

    // MARK: the record

    /// Says in the record how the attachment is, from all that there is to say, the worst first.
    func describe() {
        guard let record, record.state.isServing else { return }
        var parts: [String] = []
        var state = AttachmentRecord.State.attached
        if let failures = record.failures {
            state = .failed
            parts.append(
                failures.total.lost > 0
                    ? "\(failures.text). What was written may be lost: unmount, check the file system, "
                        + "'sluice detach --force' and attach again"
                    : "\(failures.text). Nothing that was written is lost")
        }
        if let shortage {
            state = .waiting
            parts.insert(
                "the volume's pool is full, since \(Timestamp.text(shortage.since)): "
                    + "\(waiting.counted("write waits", "writes wait")) until the server has space; discarding or deleting what is not needed makes some",
                at: 0)
        }
        if let driverTrouble {
            state = .waiting
            parts.insert(
                "since \(Timestamp.text(driverTrouble.since)): \(driverTrouble.reason); \(requestsWait)",
                at: 0)
        }
        if let interruption {
            state = .reconnecting
            parts.insert(
                "since \(Timestamp.text(interruption.since)): \(interruption.reason); \(requestsWait)",
                at: 0)
        }
        if let ending, let reason = ending.reason {
            parts.append("since \(Timestamp.text(ending.since)) it is to end, and waits: \(reason)")
        }
        if let attachedMessage { parts.append(attachedMessage) }
        update(state, parts.isEmpty ? nil : parts.joined(separator: "; "))
    }

    private var requestsWait: String { waiting.counted("request waits", "requests wait") }

    /// Puts a state into the record, where `sluice status` finds it, and into the log.
    func note(_ state: AttachmentRecord.State, _ message: String) {
        logger.error("\(message)", metadata: ["volume": "\(options.volume)", "state": "\(state.rawValue)"])
        update(state, message)
    }

    /// Puts a state into the record alone.
    func update(_ state: AttachmentRecord.State, _ message: String?) {
        guard var record, record.state != state || record.message != message else { return }
        record.state = state
        record.message = message
        self.record = record
        save()
    }

    func save() {
        guard let record else { return }
        do throws(AttachError) {
            try store.write(record)
        } catch {
            logger.error("\(error)")
        }
    }
}
