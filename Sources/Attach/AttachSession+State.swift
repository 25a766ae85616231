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
        guard let record, record.state.isServed else { return }
        let now = SystemClock.monotonic()
        // What the connection was waited for is over, one way or the other.
        setUnanswered(nil, nil)
        if interruption == nil {
            interruption = Interruption(
                since: SystemWallClock().now(), reason: reason, nextLook: now,
                reports: ReportTimes(
                    now: now, firstSeconds: AttachLimits.waitReportSeconds.lowerBound,
                    longestSeconds: AttachLimits.waitReportSeconds.upperBound))
            logger.warning(
                "the connection is lost, requests wait: \(reason)", metadata: waitMetadata(waiting))
        } else {
            interruption?.reason = reason
        }
        noteWaiting(waiting)
    }

    func stillInterrupted(waiting: Int) {
        guard let current = interruption else { return }
        let now = SystemClock.monotonic()
        interruption?.nextLook = now + AttachLimits.waitLookNanoseconds
        noteWaiting(waiting)
        if interruption?.reports.isDue(now) ?? false {
            logger.warning(
                "still no connection, since \(Timestamp.text(current.since)): \(current.reason)",
                metadata: waitMetadata(waiting))
        }
    }

    // MARK: a server that does not answer

    func unanswered(_ nanoseconds: UInt64, waiting: Int) {
        guard record?.state == .attached, interruption == nil else { return }
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
        do throws(AttachError) {
            try store.write(record)
        } catch {
            logger.error("\(error)")
        }
    }

    func resumed(_ nanoseconds: UInt64, repeated: Int) {
        guard interruption != nil else { return }
        interruption = nil
        let tenths = nanoseconds / 100_000_000
        logger.notice(
            "resumed after \(tenths / 10).\(tenths % 10) s, \(repeated) requests repeated",
            metadata: ["volume": "\(options.volume)"])
        guard record?.state == .reconnecting else { return }
        update(.attached, attachedMessage)
    }

    private func noteWaiting(_ waiting: Int) {
        guard let interruption else { return }
        update(
            .reconnecting,
            "since \(Timestamp.text(interruption.since)): \(interruption.reason); \(waiting) requests wait")
    }

    private func waitMetadata(_ waiting: Int) -> Logger.Metadata {
        ["volume": "\(options.volume)", "requests": "\(waiting)"]
    }

    // MARK: space

    func waitsForSpace(_ waiting: Int) {
        guard let record, record.state.isServed, record.state != .reconnecting else { return }
        guard waiting > 0 else {
            guard let shortage else { return }
            self.shortage = nil
            logger.notice(
                "there is space again, which writes waited for since \(Timestamp.text(shortage.since))",
                metadata: ["volume": "\(options.volume)"])
            return update(.attached, renewalMessage)
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
        update(
            .waiting,
            "the volume's pool is full, since \(Timestamp.text(current.since)): \(waiting) writes wait until the server"
                + " has space; discarding or deleting what is not needed makes some")
    }

    func disconnected(_ error: ChannelError) {
        isConnected = false
        interruption = nil
        nextRenewal = .max
        guard record?.state.isServed == true else { return }
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
        case .expiring: renew()
        case .draining(let seconds, let target):
            let place = target.isEmpty ? "" : "; go to \(target)"
            logger.warning("the server goes away within \(seconds) seconds\(place)")
        case .driverRecovering(_, let isRecovering):
            logger.warning("the volume's driver \(isRecovering ? "is being restarted" : "works again")")
        }
    }

    /// A helper process has the device take over the volume's size, one at a time: that waits for requests under way,
    /// which may be for ever.
    private func resize() {
        guard let record, !isReleasing else { return }
        guard !isResizing else { return isResizeOwed = true }
        isResizing = true
        _ = BackgroundThread { [inbox] in
            do throws(AttachError) {
                let size = try LoopHelper.resize(record.loop, file: "\(record.folder)/\(record.volume)")
                inbox.post(.resized(.success(size)))
            } catch {
                inbox.post(.resized(.failure(error)))
            }
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
        do throws(AttachError) {
            try store.write(record)
        } catch {
            logger.error("\(error)")
        }
    }
}
