import Core
import Glibc
import Logging
import Reactor
import SluiceClient

/// How an attachment ends.
extension AttachSession {
    /// A signal asked for the end, and something uses the device, or data could not be written back.
    struct Ending {
        /// Unix seconds.
        let since: UInt64
        /// When to try again; monotonic nanoseconds, `.max` while a try is under way.
        var next = UInt64.max
        var pauseMilliseconds = AttachLimits.endingRetryMilliseconds.lowerBound
        /// What it waits for.
        var reason: String?
    }

    /// The first signal gives the device up, with everything written back, as soon as nothing uses it any more; while
    /// that waits for the server, the second gives up what is not written. `giveUpSignal` does that at any time.
    func signalled(_ number: Int32) {
        if number == AttachProcess.giveUpSignal { return giveUp("asked for by 'sluice detach --force'") }
        guard ending != nil else {
            logger.info("stopping", metadata: ["signal": "\(number)"])
            ending = Ending(since: SystemWallClock().now())
            if interruption != nil {
                logger.notice("waiting for the server to write data back; a second signal gives that data up")
            }
            return startRelease()
        }
        guard let record, DeviceUse.quick(record.device).mayPass else {
            return logger.notice("a second signal came; \(ending?.reason ?? "the device is in use")")
        }
        if isReleasing || interruption != nil { giveUp("a second signal came") }
        if !isReleasing { startRelease() }
    }

    /// Fails every request, so that whoever waits for one goes on.
    private func giveUp(_ why: String) {
        givesUp = true
        interruption = nil
        if record?.state.isServing ?? false {
            note(.disconnected, "data that is not written back is given up: \(why); every request fails")
        }
        _ = thread?.remote.post { [server] in server.giveUp() }
    }

    /// A helper process gives the device up, since that may wait for requests of the device.
    private func startRelease() {
        guard let record else { return }
        isReleasing = true
        ending?.next = .max
        let isForced = givesUp || !record.state.isServing
        inBackground("release") { [inbox] in
            do throws(AttachError) {
                let helper = try LoopHelper.release(record.loop, isForced: isForced)
                while try helper.answer(within: -1) == nil {}
                inbox.post(.released(nil, isForced: isForced))
            } catch {
                inbox.post(.released(error, isForced: isForced))
            }
        } otherwise: { [inbox] error in
            inbox.post(.released(error, isForced: isForced))
        }
    }

    /// The helper has ended; true when everything is gone.
    func released(_ problem: AttachError?, isForced: Bool) throws(AttachError) -> Bool {
        isReleasing = false
        if let problem {
            // It failed because its requests did: once more, without them.
            if givesUp, !isForced { startRelease() } else { awaitRelease(problem.message) }
            return false
        }
        if try rememberLoss() { return true }
        sayDetached()
        takeDown()
        return true
    }

    /// A signal has ended it, and what was written may be lost: the record says so until somebody gives that up.
    private func rememberLoss() throws(AttachError) -> Bool {
        guard let record, let loss = record.loss, !givesUp, !store.isDetaching(key) else { return false }
        let text = "it was detached by a signal, and what was written may be lost: \(loss)"
        note(.stale, "\(text); \(Attachments.lossAdvice(record))")
        takeDown(keepsRecord: true)
        throw AttachError(.system, "volume/\(options.volume): \(text)")
    }

    private func sayDetached() {
        guard let record else { return }
        logger.info("detached", metadata: ["volume": "\(record.volume)", "device": "\(record.device)"])
    }

    /// The device is in use, or could not be written to: it goes on, and the end is tried again, ever more seldom.
    private func awaitRelease(_ reason: String) {
        guard var ending else { return logger.error("not detached: \(reason)") }
        ending.next = SystemClock.monotonic() + ending.pauseMilliseconds * 1_000_000
        ending.pauseMilliseconds = min(
            ending.pauseMilliseconds * 2, AttachLimits.endingRetryMilliseconds.upperBound)
        if ending.reason != reason {
            logger.warning("not detached yet, tried again and again: \(reason)")
            ending.reason = reason
        }
        self.ending = ending
        describe()
    }

    /// It is time to try again. While it is mounted still, there is no need to.
    func tryRelease() {
        guard let record, !isReleasing else { return }
        let use = DeviceUse.quick(record.device)
        if use.mayPass { startRelease() } else { awaitRelease(use.refusal(of: record.device).message) }
    }

    // MARK: an end that comes from outside

    /// The kernel has closed the volume's file, which the loop device had open. True when that is the end.
    func fileClosed() throws(AttachError) -> Bool {
        // A helper had the file open to learn its size, or our own one has given the device up and says so next.
        guard let record, !isReleasing, !record.loop.isPresent else { return false }
        return try goneFromOutside("\(record.device) was taken away from outside, as 'losetup -d' does")
    }

    /// The FUSE mount is gone. True when that is the end.
    func mountGone() throws(AttachError) -> Bool {
        hasMount = false
        return try goneFromOutside("the FUSE mount of volume/\(options.volume) was taken away from outside")
    }

    /// Somebody else has taken the device away: in order, or not.
    private func goneFromOutside(_ what: String) throws(AttachError) -> Bool {
        if isReleasing || ending != nil || store.isDetaching(key) {
            if try rememberLoss() { return true }
            sayDetached()
            takeDown()
            return true
        }
        let advice =
            "nothing uses the volume any more; clean up with 'sluice detach volume/\(options.volume)', "
        note(
            .stale,
            "since \(Timestamp.text(SystemWallClock().now())), \(what): " + advice + "or attach it again")
        takeDown(keepsRecord: true)
        throw AttachError(.system, "volume/\(options.volume): \(what)")
    }

    /// Ends FUSE, the connection and the reactor, whatever their state, and takes the record away, unless it is to say
    /// what happened.
    func takeDown(keepsRecord: Bool = false) {
        renewer?.stop()
        if let thread {
            _ = thread.remote.post { [server] in server.endServing() }
            if hasMount {
                wait { if case .fuseEnded = $0 { true } else { false } }
            }
            _ = thread.remote.post { [server] in server.close() }
            wait { if case .closed = $0 { true } else { false } }
            thread.remote.stop()
            thread.join()
        }
        thread = nil
        _ = unsafe unlink(SuccessionChannel.path(getpid(), in: store.folder))
        if !keepsRecord { store.remove(key) }
    }

    private func wait(until isAwaited: (AttachNotice) -> Bool) {
        let deadline = Self.deadline(seconds: AttachLimits.endSeconds)
        while let notice = inbox.take(until: deadline), !isAwaited(notice) {}
    }
}
