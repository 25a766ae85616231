import Core
import Glibc
import Logging
import Reactor
import SluiceClient

/// How an attachment ends.
extension AttachSession {
    /// The first signal gives the device up, with everything written back; while that waits for the server, the
    /// second gives up what is not written. `giveUpSignal` does that at any time.
    func signalled(_ number: Int32) {
        if number == AttachProcess.giveUpSignal { return giveUp("asked for by 'sluice detach --force'") }
        guard isReleasing else {
            logger.info("stopping", metadata: ["signal": "\(number)"])
            if interruption != nil {
                logger.notice("waiting for the server to write data back; a second signal gives that data up")
            }
            return startRelease()
        }
        giveUp("a second signal came")
    }

    /// Fails every request, so that whoever waits for one goes on.
    private func giveUp(_ why: String) {
        givesUp = true
        interruption = nil
        if record?.state == .attached || record?.state == .reconnecting {
            note(.disconnected, "data that is not written back is given up: \(why); every request fails")
        }
        _ = thread?.remote.post { [server] in server.giveUp() }
    }

    /// A helper process gives the device up, since that may wait for requests of the device.
    private func startRelease() {
        guard let record else { return }
        isReleasing = true
        let isForced = givesUp || (record.state != .attached && record.state != .reconnecting)
        _ = BackgroundThread { [inbox] in
            do throws(AttachError) {
                try LoopHelper.release(
                    device: record.device, mark: record.mark, isForced: isForced, folder: record.folder)
                inbox.post(.released(nil, isForced: isForced))
            } catch {
                inbox.post(.released(error, isForced: isForced))
            }
        }
    }

    /// The helper has ended; true when everything is gone.
    func released(_ problem: AttachError?, isForced: Bool) -> Bool {
        isReleasing = false
        if let problem {
            // It failed because its requests did: once more, without them.
            if givesUp, !isForced { startRelease() } else { logger.error("not detached: \(problem)") }
            return false
        }
        takeDown()
        if let record {
            logger.info("detached", metadata: ["volume": "\(record.volume)", "device": "\(record.device)"])
        }
        return true
    }

    /// Ends FUSE, the connection and the reactor, whatever their state, and takes the record away.
    func takeDown() {
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
        store.remove(key)
    }

    private func wait(until isAwaited: (AttachNotice) -> Bool) {
        let deadline = Self.deadline(seconds: AttachLimits.endSeconds)
        while let notice = inbox.take(until: deadline), !isAwaited(notice) {}
    }
}
