import Core
import Glibc
import Logging
import Reactor
import SluiceClient

/// How an attachment goes from one process to another without an end of the device: the old process hands over
/// /dev/fuse, between two requests, to a new one that has opened the volume in the same session before.
///
/// A ring cannot be handed over, and the kernel takes nothing back that it has given to one of its entries. So the
/// kernel is first asked to keep reads and writes to itself; then the new process gives it entries of its own,
/// which it takes first; and only when nothing is under way through the old ones do these end, with their thread.
extension AttachSession {
    /// A process that waits for the device.
    struct Successor {
        let channel: SuccessionChannel
        /// Monotonic nanoseconds.
        let deadline: UInt64
    }

    // MARK: the new process

    /// Takes the device over from the process that serves it. When this throws, that process goes on.
    func succeed(_ old: AttachmentRecord) throws(AttachError) -> Attachment {
        _ = unsafe chdir("/")
        for missing in MemoryGuard.engage() {
            logger.warning("under memory pressure the device may stall: \(missing)")
        }
        let channel = try SuccessionChannel.connect(to: old.process.pid, in: store.folder)
        try channel.send(SuccessionRequest.offer)
        let (answer, _) = try channel.receive(SuccessionAnswer.self)
        guard let offer = answer.offer else {
            throw AttachError(.busy, answer.problem ?? "process \(old.process.pid) offers nothing")
        }
        let record: AttachmentRecord
        do {
            record = try take(offer, channel)
        } catch {
            leave()
            throw error
        }
        logger.notice(
            "taken over", metadata: ["device": "\(record.device)", "from": "\(old.process.pid)"])
        if offer.record.size != record.size { heard(.resized(handle: 0, size: record.size)) }
        return Attachment(record, store: store, mounts: [])
    }

    private func take(
        _ offer: SuccessionOffer, _ channel: SuccessionChannel
    ) throws(AttachError) -> AttachmentRecord {
        guard let session = Identifier(hex: offer.session), let secret = Hex.decode(offer.secret),
            let instance = Identifier(hex: offer.instance)
        else {
            throw AttachError(.system, "the other process does not speak as this version does")
        }
        var record = offer.record
        guard record.isReadOnly == options.isReadOnly else {
            throw AttachError(
                .usage,
                "\(record.device) is attached \(record.isReadOnly ? "read-only" : "for writing"), and stays so"
            )
        }
        let (capability, rights) = try authorise()
        var clientOptions = try access.clientOptions(capability, rights: rights, channels: options.channels)
        clientOptions.channel.ticket = SessionTicket(
            session: session, secret: SecretBytes(secret), instance: instance)
        clientOptions.knownGeneration = offer.writerGeneration
        clientOptions.succeedsSession = true
        let thread = try startReactor(clientOptions)
        self.thread = thread
        let state = try waitUntilOpen()
        guard state.resource.hex == record.volumeID, state.range.offset == offer.base else {
            throw AttachError(
                .denied,
                "\(record.device) shows another part of the volume than the grant allows now: "
                    + "detach and attach it again")
        }
        guard let process = ProcessIdentity.current else {
            throw AttachError(.system, "cannot read /proc/self/stat; is /proc mounted?")
        }
        let ring = try makeRing(offer)
        try channel.send(ring == nil ? SuccessionRequest.handOver : .handOverRing)
        let (grant, descriptors) = try channel.receive(SuccessionGrant.self)
        guard grant.problem == nil, descriptors.count == 2 else {
            throw AttachError(.busy, grant.problem ?? "the other process did not hand over its device")
        }
        lock = descriptors[1]
        let geometry = try serve(
            on: thread, folder: record.folder, isReadOnly: record.isReadOnly,
            adopting: VolumeServer.Adoption(
                descriptor: descriptors[0], greeting: offer.greeting, ring: ring,
                entriesPerQueue: offer.knowsTurns == true ? AttachLimits.successionEntries : nil,
                hasUnflushed: grant.hasUnflushed ?? true))
        hasMount = true
        let last = ring == nil ? grant : awaitLeaving(channel, offer) ?? grant
        if last.hasUnflushed != nil { record.failures = last.failures }
        record.process = process
        record.size = geometry.size
        record.sizeMax = geometry.sizeMax
        record.channels = options.channels
        record.state = .attached
        record.message = nil
        record.unansweredSince = nil
        failedBefore = record.failures?.total ?? FailureTotal()
        self.record = record
        try store.write(record)
        try beginServing(capability, rights)
        describe()
        return self.record ?? record
    }

    /// The memory for a ring of the old process's kind, before anything waits for it.
    private func makeRing(_ offer: SuccessionOffer) throws(AttachError) -> FuseRing? {
        guard let bytes = offer.ringPayloadBytes else { return nil }
        guard let ring = FuseRing(payloadBytes: bytes) else {
            throw AttachError(.system, "there is no memory for a ring like the other process's")
        }
        return ring
    }

    /// The kernel has both rings' entries: waits until the old process has left, and lets reads and writes go on. Returns
    /// the old process's last words.
    private func awaitLeaving(_ channel: SuccessionChannel, _ offer: SuccessionOffer) -> SuccessionGrant? {
        var last: SuccessionGrant?
        let turns = offer.knowsTurns == true ? AttachLimits.successionTurns : 0
        do throws(AttachError) {
            for turn in 0...turns {
                try channel.send(turn < turns ? SuccessionRequest.servingInTurns : .serving)
                let grant = try channel.receive(SuccessionGrant.self).0
                last = grant
                guard grant.again == true, let thread else { break }
                _ = thread.remote.call { [server] _ in server.arm(AttachLimits.successionEntries) }
            }
        } catch {
            // It has ended, and its entries with it; or it hangs, and what it still has waits for it.
            logger.warning("the old process did not say that it has left: \(error)")
        }
        // The kernel takes the old ring's entries away after the end of its process, by and by, and ends what it gives to one
        // of them until then. One request of each queue gets through meanwhile, and to entries of this process.
        let patience = Int32(AttachLimits.successionSeconds * 1000)
        if !offer.record.process.waitUntilEnded(milliseconds: patience) {
            logger.warning(
                "process \(offer.record.process.pid) does not end: what the kernel still gives to its ring fails"
            )
        }
        Pause.microseconds(AttachLimits.ringEndMicroseconds)
        let hasUnflushed = last?.hasUnflushed ?? true
        _ = thread?.remote.post { [server] in
            server.arm(nil)
            server.predecessorLeft(hasUnflushed: hasUnflushed)
        }
        thaw(folder: offer.record.folder)
        return last
    }

    private func thaw(folder: String) {
        do throws(AttachError) {
            try FuseControl.set(backgroundMax: AttachLimits.requestsMax, folder: folder)
        } catch {
            logger.error("reads and writes wait in the kernel: \(error)")
        }
    }

    // MARK: the old process

    func asked(_ request: SuccessionRequest, _ channel: SuccessionChannel) {
        switch request {
        case .offer:
            guard let record else { return }
            _ = thread?.remote.post { [server, inbox] in inbox.post(.offer(server.offer(record), channel)) }
        case .handOver, .handOverRing:
            do throws(AttachError) {
                try prepareHandOver(to: channel, knowsRings: request == .handOverRing)
            } catch {
                try? channel.send(SuccessionGrant(problem: error.message))
            }
        case .report:
            _ = thread?.remote.post { [server, inbox] in
                server.countFailures()
                inbox.post(.reported(channel))
            }
        case .serving, .servingInTurns:
            guard successor?.channel === channel else { return }
            _ = thread?.remote.post { [server] in server.leaveRing(inTurns: request == .servingInTurns) }
        }
    }

    private func prepareHandOver(to channel: SuccessionChannel, knowsRings: Bool) throws(AttachError) {
        guard successor == nil, !isReleasing, let record, record.state.isWell else {
            throw AttachError(.busy, "the attachment is not well, or on its way out")
        }
        if hasRing {
            guard knowsRings else {
                throw AttachError(
                    .busy,
                    "the kernel's requests come through a ring, and the version that is to take over does not "
                        + "know rings: detach and attach again")
            }
            try FuseControl.set(backgroundMax: 0, folder: record.folder)
        }
        logger.notice("a successor takes the device over")
        successor = Successor(
            channel: channel, deadline: Self.deadline(seconds: AttachLimits.successionSeconds / 2))
        _ = thread?.remote.post { [server] in server.pause() }
    }

    func offered(_ offer: SuccessionOffer?, _ channel: SuccessionChannel) {
        guard record?.state.isWell ?? false, let offer else {
            let state = record?.state.rawValue ?? "not attached"
            try? channel.send(
                SuccessionAnswer(
                    problem: "volume/\(options.volume) is \(state): only a device that works is taken over"))
            return
        }
        try? channel.send(SuccessionAnswer(offer: offer))
    }

    func refuseSuccessor(_ why: String) {
        guard let successor else { return }
        self.successor = nil
        logger.warning("the successor does not get the device: \(why)")
        try? successor.channel.send(SuccessionGrant(problem: why))
        if hasRing, let record { thaw(folder: record.folder) }
        _ = thread?.remote.post { [server] in server.unpause() }
    }

    /// Every request is answered: the device goes to the successor. True when it has it; with a ring that is later.
    func handedOver(_ descriptor: Int32, _ account: ServingAccount) -> Bool {
        guard let successor else { return false }
        guard descriptor >= 0, lock >= 0 else {
            refuseSuccessor("there is no device to hand over")
            return false
        }
        do throws(AttachError) {
            try successor.channel.send(lastWords(account), descriptors: [descriptor, lock])
        } catch {
            refuseSuccessor("\(error)")
            return false
        }
        if hasRing { return false }
        leave()
        logger.notice("the successor has the device")
        return true
    }

    /// Something came through the old ring since the successor's last entries.
    func leavingAgain(_ account: ServingAccount) {
        guard let successor else { return }
        var words = lastWords(account)
        words.again = true
        // One that cannot be told has gone, and its channel's end says so.
        try? successor.channel.send(words)
    }

    /// Nothing comes through the old ring any more: its entries end with the reactor's thread. True when they did.
    func left(_ account: ServingAccount) -> Bool {
        guard let successor else { return false }
        let words = lastWords(account)
        leave()
        try? successor.channel.send(words)
        logger.notice("the successor has the device")
        return true
    }

    /// What the successor must know of the time since its offer.
    private func lastWords(_ account: ServingAccount) -> SuccessionGrant {
        counted(failures: account.failed)
        return SuccessionGrant(
            problem: nil, failures: record?.failures, hasUnflushed: account.hasUnflushed)
    }

    /// Ends the connection and the reactor, and leaves the device and the record to the other process.
    private func leave() {
        renewer?.stop()
        _ = unsafe unlink(SuccessionChannel.path(getpid(), in: store.folder))
        guard let thread else { return }
        _ = thread.remote.post { [server] in
            server.leave()
            server.close()
        }
        let deadline = Self.deadline(seconds: AttachLimits.endSeconds)
        while let notice = inbox.take(until: deadline) {
            if case .closed = notice { break }
        }
        thread.remote.stop()
        thread.join()
        self.thread = nil
    }
}
