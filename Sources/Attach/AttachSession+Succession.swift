import Core
import Glibc
import Logging
import Reactor
import SluiceClient

/// How an attachment goes from one process to another without an end of the device: the old process hands over
/// /dev/fuse, between two requests, to a new one that has opened the volume in the same session before.
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
        try channel.send(SuccessionRequest.handOver)
        let (grant, descriptors) = try channel.receive(SuccessionGrant.self)
        guard grant.problem == nil, descriptors.count == 2 else {
            throw AttachError(.busy, grant.problem ?? "the other process did not hand over its device")
        }
        lock = descriptors[1]
        let geometry = try serve(
            on: thread, folder: record.folder, isReadOnly: record.isReadOnly,
            adopting: VolumeServer.Adoption(descriptor: descriptors[0], greeting: offer.greeting))
        hasMount = true
        record.process = process
        record.size = geometry.size
        record.channels = options.channels
        record.state = .attached
        record.message = nil
        self.record = record
        try store.write(record)
        try beginServing(capability, rights)
        return record
    }

    // MARK: the old process

    func asked(_ request: SuccessionRequest, _ channel: SuccessionChannel) {
        switch request {
        case .offer:
            guard let record else { return }
            _ = thread?.remote.post { [server, inbox] in inbox.post(.offer(server.offer(record), channel)) }
        case .handOver:
            guard successor == nil, !isReleasing, record?.state == .attached else {
                try? channel.send(SuccessionGrant(problem: "the attachment is not well, or on its way out"))
                return
            }
            logger.notice("a successor takes the device over")
            successor = Successor(
                channel: channel, deadline: Self.deadline(seconds: AttachLimits.successionSeconds / 2))
            _ = thread?.remote.post { [server] in server.pause() }
        }
    }

    func offered(_ offer: SuccessionOffer?, _ channel: SuccessionChannel) {
        guard record?.state == .attached, let offer else {
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
        _ = thread?.remote.post { [server] in server.unpause() }
    }

    /// Every request is answered: the device goes to the successor. True when it has it.
    func handedOver(_ descriptor: Int32) -> Bool {
        guard let successor else { return false }
        guard descriptor >= 0, lock >= 0 else {
            refuseSuccessor("there is no device to hand over")
            return false
        }
        do throws(AttachError) {
            try successor.channel.send(SuccessionGrant(problem: nil), descriptors: [descriptor, lock])
        } catch {
            refuseSuccessor("\(error)")
            return false
        }
        leave()
        logger.notice("the successor has the device")
        return true
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
