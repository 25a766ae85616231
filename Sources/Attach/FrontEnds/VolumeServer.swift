import Core
import Reactor
import SluiceClient
import Wire

/// What the reactor's thread tells the supervisor of an attachment.
enum AttachNotice: Sendable {
    /// The volume is open.
    case opened(ResourceState)
    /// A connection is lost; requests of the kernel wait, that many now.
    case interrupted(reason: String, waiting: Int)
    /// The server takes what is sent, and has answered nothing for so many nanoseconds; requests wait, that many now.
    case unanswered(nanoseconds: UInt64, waiting: Int)
    /// The server answers again.
    case answered
    /// Everything works again, after so many nanoseconds.
    case resumed(nanoseconds: UInt64, repeated: Int)
    /// How many requests of the kernel wait now.
    case waiting(Int)
    /// The server wants a newer capability before it goes on.
    case needsCapability
    /// The connection to the server has ended for good.
    case closed(ChannelError)
    /// The server said something.
    case event(ChannelEvent)
    /// The server said something that the client does not believe; all stays as it is.
    case ignored(String)
    /// The device has the volume's new size, or could not take it over.
    case resized(Result<UInt64, AttachError>)
    /// A request failed; the server's own words, if it sent any.
    case requestFailed(BlockOperation, Status, String, total: FailureTotal)
    /// So many requests have failed.
    case failures(FailureTotal)
    /// Everything that had failed when somebody asked was told before.
    case reported(SuccessionChannel)
    /// So many writes wait for space on the server; 0 when none does any more.
    case noSpace(waiting: Int)
    /// A successor asks for something.
    case succession(SuccessionRequest, SuccessionChannel)
    /// What a successor must know; nil when it cannot be had now.
    case offer(SuccessionOffer?, SuccessionChannel)
    /// Every request is answered, and nothing more is taken from this descriptor.
    case drained(Int32, ServingAccount)
    /// Nothing of the ring is this process's any more: the successor serves it.
    case left(ServingAccount)
    /// Something came through the ring after the successor's last entries: it is to give the kernel more.
    case leavingAgain(ServingAccount)
    /// The successor's channel has ended.
    case successorGone(SuccessionChannel)
    /// The kernel sends requests through a ring of so many entries.
    case ring(entries: Int)
    /// The FUSE mount is gone.
    case fuseEnded
    /// The kernel has closed the volume's file, which somebody had open.
    case fileClosed
    /// The process was asked to stop.
    case signal(Int32)
    /// A helper process has given the device up, or could not.
    case released(AttachError?, isForced: Bool)
    /// The control API issued another capability, or did not.
    case issued(Result<IssuedCapability, AttachError>)
    /// The data channel took the capability that expires then, in Unix seconds, or did not.
    case renewed(Result<UInt64, ChannelError>)
    /// The node's certificate was renewed, or it was due and could not be, or not be kept.
    case certificate(CertificateState)
}

extension AttachNotice {
    /// Whether the other need not be heard any more when this one has come. What a server can say any number of times
    /// waits for the supervisor at most once a kind.
    func supersedes(_ other: AttachNotice) -> Bool {
        switch (self, other) {
        case (.event(let new), .event(let old)): new.kind == old.kind
        case (.interrupted, .interrupted), (.interrupted, .resumed), (.resumed, .interrupted),
            (.resumed, .resumed), (.needsCapability, .needsCapability), (.ignored, .ignored),
            (.waiting, .waiting), (.noSpace, .noSpace), (.failures, .failures), (.unanswered, .unanswered),
            (.unanswered, .answered), (.answered, .unanswered), (.answered, .answered):
            true
        case (
            .requestFailed(let operation, let status, _, _), .requestFailed(let before, let old, _, _)
        ):
            operation == before && status == old
        default: false
        }
    }
}

/// The part of an attachment that lives on the reactor's thread: a FUSE file over a volume of an I/O server.
///
/// Made anywhere; everything else on the reactor's thread. What happens goes into the supervisor's mailbox.
final class VolumeServer: BlockBackend, VolumeClientDelegate, FuseVolumeOwner, @unchecked Sendable {
    // SAFETY: after `init` only the reactor's thread touches the object; other threads hold it to post work
    // to it.
    private let inbox: Mailbox<AttachNotice>
    private var client: VolumeClient?
    private var volume: FuseVolume<VolumeServer>?
    private let timeoutSeconds: UInt64?
    private var base: UInt64 = 0
    private var end: UInt64 = 0
    private var blockSize: UInt32 = 512

    /// A request of the kernel that takes longer than `timeoutSeconds` fails.
    init(inbox: Mailbox<AttachNotice>, timeoutSeconds: UInt64?) {
        self.inbox = inbox
        self.timeoutSeconds = timeoutSeconds
    }

    /// Connects and opens; `opened` or `closed` follows.
    func open(_ options: VolumeClientOptions, reactor: Reactor) {
        let client = VolumeClient(reactor: reactor, options: options, delegate: self)
        self.client = client
        client.start()
    }

    /// The mount of another process, to be gone on with.
    struct Adoption: Sendable {
        var descriptor: Int32
        var greeting: [UInt8]
        /// What the requests come through, if not through the descriptor.
        var ring: FuseRing?
        /// How many entries of each of its queues the kernel is given at first; nil for all.
        var entriesPerQueue: Int?
        /// Whether the other process has done writes that may not be durable.
        var hasUnflushed: Bool
    }

    /// Mounts the opened volume as a file in `folder`, or goes on with the mount there, and serves it.
    func serve(
        fileName: String, folder: String, isReadOnly: Bool, adopting adoption: Adoption? = nil,
        reactor: Reactor
    ) throws(AttachError) -> BlockGeometry {
        guard let state = client?.state else {
            throw AttachError(
                .unreachable, "volume/\(fileName): the connection was lost while it was being attached")
        }
        // A capability for a part of the volume makes a device of that part.
        base = state.range.offset
        end = state.range.end
        blockSize = max(state.blockSize, 512)
        guard blockSize <= 4096, base.isMultiple(of: UInt64(blockSize)) else {
            throw AttachError(
                .denied,
                "volume/\(fileName): its blocks of \(blockSize) bytes, from its byte \(base) on, make no block device"
            )
        }
        var geometry = BlockGeometry(
            size: size(volumeSize: state.size), blockSize: blockSize,
            maximumTransfer: max(state.transferBytesMax / blockSize * blockSize, blockSize),
            isReadOnly: isReadOnly)
        geometry.sizeMax = end == .max ? nil : size(volumeSize: .max)
        geometry.allowsDiscard = state.rights.contains(.discard)
        guard geometry.size > 0 else {
            throw AttachError(.denied, "volume/\(fileName): the grant's range holds no byte of the volume")
        }
        let volume = FuseVolume(
            fileName: fileName, geometry: geometry, backend: self, reactor: reactor,
            timeoutSeconds: timeoutSeconds, owner: self)
        // Requests may end while the volume is still looking at what waited for it.
        self.volume = volume
        if let adoption {
            volume.adopt(
                descriptor: adoption.descriptor, greeting: adoption.greeting, folder: folder,
                ring: adoption.ring, entriesPerQueue: adoption.entriesPerQueue,
                hasUnflushed: adoption.hasUnflushed)
        } else {
            try volume.serve(at: folder)
        }
        return geometry
    }

    // MARK: a successor

    /// What a successor must know; its record is the supervisor's to add. Nil when it cannot be had now.
    func offer(_ record: AttachmentRecord) -> SuccessionOffer? {
        guard let client, let volume, let ticket = client.ticket, let state = client.state else { return nil }
        let secret = unsafe ticket.secret.withBytes { unsafe Hex.encode(Array($0)) }
        return SuccessionOffer(
            record: record, session: ticket.session.hex, secret: secret, instance: ticket.instance.hex,
            writerGeneration: state.writerGeneration, base: base, greeting: volume.greeting,
            ringPayloadBytes: volume.ringPayloadBytes, knowsTurns: true)
    }

    /// Takes nothing more from the kernel; `drained` follows when everything is answered.
    func pause() {
        guard let volume else { return inbox.post(.drained(-1, ServingAccount())) }
        volume.pause { [inbox] in inbox.post(.drained(volume.fuseDescriptor, volume.account)) }
    }

    /// No successor came.
    func unpause() { volume?.unpause() }

    /// Leaves the mount to the successor.
    func leave() { volume?.leave() }

    /// Leaves the ring to the successor, whose own entries the kernel has by now; `left` follows when nothing is
    /// under way any more.
    func leaveRing(inTurns: Bool) {
        guard let volume else { return }
        let again = { [inbox] in inbox.post(.leavingAgain(volume.account)) }
        volume.leaveRing(again: inTurns ? again : nil) { [inbox] in inbox.post(.left(volume.account)) }
    }

    /// Gives the kernel further entries of each queue of the ring, or all that are left.
    func arm(_ entriesPerQueue: Int?) { volume?.arm(entriesPerQueue) }

    /// The process that served the device before does so no more.
    func predecessorLeft(hasUnflushed: Bool) { volume?.predecessorLeft(hasUnflushed: hasUnflushed) }

    /// The device's size in whole blocks, of a volume of that size.
    private func size(volumeSize: UInt64) -> UInt64 {
        let bytes = min(volumeSize, end).subtractingSaturated(base)
        return bytes - bytes % UInt64(blockSize)
    }

    /// Sends a newer capability; `renewed` follows.
    func renew(_ capability: IssuedCapability) {
        guard let client else { return inbox.post(.renewed(.failure(.closed))) }
        client.renew(capability: capability.bytes) { [inbox] result in
            inbox.post(.renewed(result.map(\.expiry)))
        }
    }

    /// Says how many requests of the kernel have failed.
    func countFailures() { inbox.post(.failures(volume?.failed ?? FailureTotal())) }

    /// Says how many requests of the kernel wait.
    func countWaiting() { inbox.post(.waiting(volume?.waitingCount ?? 0)) }

    /// Fails every request from now on, those that wait included.
    func giveUp() {
        volume?.fail(.ioError)
        client?.close()
    }

    /// Takes the FUSE mount away, whatever uses it.
    func endServing() { volume?.end() }

    /// Ends the connection; `closed` follows, at once when there is none.
    func close() {
        guard let client else { return inbox.post(.closed(.closed)) }
        client.close()
    }

    // MARK: requests

    func submit(_ request: BlockRequest) -> Bool {
        guard let client else { return false }
        let opcode = unsafe Self.opcode(request.operation)
        let offset = unsafe request.operation == .flush ? 0 : base + request.offset
        let flags = unsafe Self.flags(request.operation)
        return unsafe client.submit(
            opcode, flags: flags, offset: offset, count: request.count, buffer: request.buffer,
            tag: request.tag)
    }

    func giveUp(tag: UInt64) { client?.giveUp(tag: tag) }

    private static func opcode(_ operation: BlockOperation) -> Opcode {
        switch operation {
        case .read: .read
        case .write: .write
        case .writeZeroes: .writeZeroes
        case .discard: .discard
        case .flush: .flush
        }
    }

    /// How an operation is asked for.
    static func flags(_ operation: BlockOperation) -> RequestFlags {
        switch operation {
        case .writeZeroes: .noUnmap
        case .read, .write, .discard, .flush: []
        }
    }

    // MARK: the volume's client

    /// Says what a server can cause any number of times.
    private func tell(_ notice: AttachNotice) { inbox.post(notice) { notice.supersedes($0) } }

    func volumeReady(_ volume: VolumeClient) {
        if let state = volume.state { inbox.post(.opened(state)) }
    }

    func volumeCompleted(_ client: VolumeClient, _ completions: Span<ChannelCompletion>) {
        guard let volume else { return }
        for index in completions.indices {
            volume.completed(tag: completions[index].tag, status: completions[index].status)
        }
    }

    func volumeEvent(_ client: VolumeClient, _ event: ChannelEvent) {
        switch event {
        case .resized(_, let size): volume?.resized(to: self.size(volumeSize: size))
        // The handle is dead for good: no request needs to ask the server again.
        case .revoked(_, let status, _): volume?.fail(status)
        case .expiring, .draining, .driverRecovering, .driverQuarantined: break
        }
        tell(.event(event))
    }

    func volumeHasRoom(_ client: VolumeClient) { volume?.slotsFreed() }

    func volumeInterrupted(_ client: VolumeClient, _ reason: ChannelError) {
        tell(.interrupted(reason: reason.description, waiting: volume?.waitingCount ?? 0))
    }

    func volumeIsUnanswered(_ client: VolumeClient, forNanoseconds silence: UInt64) {
        tell(.unanswered(nanoseconds: silence, waiting: volume?.waitingCount ?? 0))
    }

    func volumeIsAnswered(_ client: VolumeClient) { tell(.answered) }

    func volumeResumed(_ client: VolumeClient, afterNanoseconds pause: UInt64, repeated: Int) {
        tell(.resumed(nanoseconds: pause, repeated: repeated))
    }

    func volumeIgnored(_ client: VolumeClient, _ what: String) { tell(.ignored(what)) }

    func volumeNeedsCapability(_ client: VolumeClient) { tell(.needsCapability) }

    func volumeClosed(_ client: VolumeClient, _ error: ChannelError) {
        self.client = nil
        volume?.fail(.ioError)
        inbox.post(.closed(error))
    }

    // MARK: the FUSE volume

    func requestFailed(_ operation: BlockOperation, _ status: Status) {
        // What this side says itself is not in the server's words.
        let words = status == .ioError ? client?.lastLoss : nil
        tell(
            .requestFailed(
                operation, status, words ?? client?.lastMessage ?? "", total: volume?.failed ?? FailureTotal()
            ))
    }

    func waitsForSpace(_ count: Int) { tell(.noSpace(waiting: count)) }

    func ringServes(entries: Int) { inbox.post(.ring(entries: entries)) }

    func fileClosed() { inbox.post(.fileClosed) }

    func sessionEnded() { inbox.post(.fuseEnded) }
}
