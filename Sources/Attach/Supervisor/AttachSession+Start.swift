import Core
import Glibc
import Logging
import Reactor

/// An attachment before it has its device: what it waits for is said, and it ends with whoever wants it.
extension AttachSession {
    /// Says what the volume waits for that is to be attached, where `sluice status` and the waiting command find it.
    func waits(for reason: String) {
        guard let process = ProcessIdentity.current, !options.takesOver else { return }
        if attaching?.reason == reason { return }
        let next = AttachingRecord(
            key: key, volume: options.volume.text, server: access.server.description,
            isReadOnly: options.isReadOnly, channels: options.channels,
            detachesOnUnmount: options.detachesOnUnmount, process: process, since: SystemWallClock().now(),
            reason: reason)
        attaching = next
        do throws(AttachError) { try store.write(next) } catch { logger.warning("\(error)") }
    }

    /// The command that waits for the device has gone: nobody would know of it.
    func refuseAbandoned() throws(AttachError) {
        guard let starter, !options.takesOver else { return }
        var entry = pollfd(fd: starter, events: 0, revents: 0)
        guard unsafe poll(&entry, 1, 0) > 0, entry.revents & Int16(POLLERR) != 0 else { return }
        throw AttachError(.interrupted, "the command that waited for it has ended")
    }

    /// The same when the device is there: it ends as by a signal. One that was taken over is in use.
    func abandon() {
        guard !options.takesOver else { return }
        logger.warning("the command that waited for the device has ended: the device is taken away again")
        inbox.post(.signal(SIGTERM))
    }

    // MARK: the block device

    /// Has a helper process make the loop device. The kernel reads from it at once, which may wait for the server as long
    /// as that takes; a signal, or the end of the command that waits, ends it.
    func makeDevice(_ geometry: BlockGeometry, mark: String) throws(AttachError) -> LoopDevice.Made {
        let helper = try LoopHelper.attaching(
            file: "\(store.mountFolder(key))/\(options.volume)", blockSize: geometry.blockSize,
            isReadOnly: options.isReadOnly, mark: mark)
        let loudFrom = SystemClock.monotonic() + AttachLimits.silentNanoseconds
        var isSaid = false
        while true {
            if let answer = try helper.answer(within: AttachLimits.startLookMilliseconds / 2) {
                return try LoopHelper.made(answer)
            }
            do throws(AttachError) {
                try lookAround()
            } catch {
                leftOver = giveUp(helper, mark: mark)
                guard let leftOver else { throw error }
                logger.error("\(leftOver)", metadata: ["volume": "\(options.volume)"])
                throw AttachError(error.reason, "\(error.message); \(leftOver)", code: error.code)
            }
            if !isSaid, SystemClock.monotonic() >= loudFrom, let attaching {
                logger.notice("not attached yet: \(attaching.text)")
                isSaid = true
            }
        }
    }

    /// Takes what has come meanwhile: says it where it is about what is waited for, and keeps it for later.
    private func lookAround() throws(AttachError) {
        try refuseAbandoned()
        for _ in 0..<AttachLimits.noticesAtOnce {
            guard let notice = inbox.take(until: 0) else { break }
            switch notice {
            case .signal: throw AttachError(.interrupted, "stopped while it was being attached")
            case .event(.driverRecovering(let handle, let isRecovering)):
                heard(.driverRecovering(handle: handle, isRecovering: isRecovering))
                continue
            case .event(.driverQuarantined(let handle, let reason)):
                heard(.driverQuarantined(handle: handle, reason: reason))
                continue
            case .interrupted(let reason, _): waits(for: "the connection: \(reason)")
            case .unanswered: waits(for: "the server, which takes what is sent and answers nothing")
            case .resumed, .answered: waits(for: "its block device")
            default: break
            }
            deferred.removeAll { notice.supersedes($0) }
            deferred.append(notice)
        }
        if let driverTrouble { waits(for: driverTrouble.reason) }
    }

    /// Fails what the helper waits for, and takes its device away again. Each takes a bounded time.
    ///
    /// - Returns: what is left; nil when nothing is.
    private func giveUp(_ helper: HelperProcess, mark: String) -> String? {
        _ = thread?.remote.post { [server] in server.giveUp() }
        let patience = Int32(AttachLimits.forceNanoseconds / 1_000_000)
        let made: LoopDevice.Made
        do throws(AttachError) {
            guard let answer = try helper.answer(within: patience) else {
                return
                    "process \(helper.process), which was to make its block device, does not end yet; it takes back what it"
                    + " makes"
            }
            made = try LoopHelper.made(answer)
        } catch {
            logger.notice("there is no device: \(error)")
            return nil
        }
        let advice = "run losetup -d \(made.device)"
        do throws(AttachError) {
            let loop = LoopOwner(
                device: made.device, mark: mark, folder: store.mountFolder(key), identity: made.identity)
            let release = try LoopHelper.release(loop, isForced: true)
            guard let keepers = try release.answer(within: patience) else {
                return "\(made.device) is left, which the kernel does not let go: when it does, \(advice)"
            }
            return keepers.isEmpty ? nil : keepers
        } catch {
            return "\(made.device) is left (\(error.message)): \(advice)"
        }
    }
}
