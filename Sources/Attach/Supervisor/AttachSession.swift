import Capability
import Core
import Glibc
import Logging
import Reactor
import SluiceClient
import Wire

/// The supervisor of one attachment: sets everything up, waits for what happens, and takes everything down
/// again.
///
/// It runs on the process's first thread and may block; the requests are served by the reactor's thread
/// alone.
final class AttachSession {
    let options: AttachOptions
    let logger: Logger
    let store: AttachmentStore
    let key: String
    let inbox = Mailbox<AttachNotice>()
    let server: VolumeServer
    var access: VolumeAccess
    var thread: ReactorThread?
    var renewer: CapabilityRenewer?
    var capability: IssuedCapability?
    var nextRenewal = UInt64.max
    var isRenewing = false
    /// When the capability was asked for that is the newest, in monotonic nanoseconds.
    var lastIssue: UInt64 = 0
    /// Requests wait for another one.
    var awaitsCapability = false
    var record: AttachmentRecord?
    var isConnected = false
    var hasMount = false
    /// The kernel's requests come through a ring.
    var hasRing = false
    var lock: Int32 = -1
    /// Who waits for the device.
    var successor: Successor?
    /// The connection is lost and not back yet.
    var interruption: Interruption?
    /// The server takes what is sent and answers nothing: since when, monotonic nanoseconds.
    var unansweredSince: UInt64?
    /// Writes wait for space on the server.
    var shortage: Shortage?
    /// Requests of the kernel that waited at the last look.
    var waiting = 0
    /// What keeps the server from answering, if anything does.
    var driverTrouble: DriverTrouble?
    /// Requests that failed before this process had the device.
    var failedBefore = FailureTotal()
    /// When to count failed requests again, in monotonic nanoseconds.
    var nextFailureLook = UInt64.max
    /// What is wrong with renewing, if anything is.
    var renewalTrouble: Trouble?
    /// A helper process has the device take over the volume's size, and has to do so once more.
    var isResizing = false
    var isResizeOwed = false
    /// What is wrong with the node's certificate, if anything is; since when, in Unix seconds.
    var certificateTrouble: (state: CertificateState, since: UInt64)?
    /// How many renewals of the node's certificate were heard of.
    var certificateRenewals = 0
    /// The device is being given up by a helper process.
    var isReleasing = false
    /// The pipe to the command that started this process and waits for the device; nil without one.
    var starter: Int32?
    /// What is left of a device that was given up while it was made; nil when nothing is.
    var leftOver: String?
    /// What there is to say while there is no device yet.
    var attaching: AttachingRecord?
    /// What came before there was a device, and is for later.
    var deferred: [AttachNotice] = []
    /// A signal asked for the end, which has not come yet.
    var ending: Ending?
    /// What cannot be written back is given up.
    var givesUp = false

    /// A time without connection.
    struct Interruption {
        /// Unix seconds; when the server was last heard.
        var since: UInt64
        var reason: String
        /// When the server was last heard, in monotonic nanoseconds.
        var begin: UInt64
        /// When to look at it again, and when to say it again; monotonic nanoseconds.
        var nextLook: UInt64
        var reports: ReportTimes
    }

    /// A time without space on the server.
    struct Shortage {
        /// Unix seconds.
        var since: UInt64
        var reports: ReportTimes
    }

    /// A time in which the server has the requests and does not answer them.
    struct DriverTrouble {
        /// Unix seconds.
        var since: UInt64
        var reason: String
        /// When to count again what waits, in monotonic nanoseconds.
        var nextLook: UInt64
    }

    /// Renewing the capability fails.
    struct Trouble {
        /// Unix seconds.
        var since: UInt64
        var reason: String
        var reports: ReportTimes
        /// The end of it was said: the capability has expired.
        var isOver = false
    }

    init(_ options: AttachOptions, logger: Logger, store: AttachmentStore) throws(AttachError) {
        self.options = options
        self.logger = logger
        self.store = store
        var access = try VolumeAccess(
            volume: options.volume, credentialsFolder: options.credentialsFolder, server: options.server)
        access.capabilityFile = options.capabilityFile
        self.access = access
        key = AttachmentStore.key(volume: options.volume.text, server: access.server.description)
        server = VolumeServer(inbox: inbox, timeoutSeconds: options.ioTimeoutSeconds)
    }

    deinit { if lock >= 0 { Glibc.close(lock) } }

    // MARK: setting up

    /// Attaches the volume; when this throws, nothing is left behind.
    func start() throws(AttachError) -> Attachment {
        if options.takesOver, let old = store.record(key), old.process.isAlive { return try succeed(old) }
        try claim()
        waits(for: "a capability from \(access.server)")
        // No folder that someone may want to unmount is kept busy.
        _ = unsafe chdir("/")
        for missing in MemoryGuard.engage() {
            logger.warning("under memory pressure the device may stall: \(missing)")
        }
        do {
            return try attach()
        } catch {
            takeDown()
            throw error
        }
    }

    private func claim() throws(AttachError) {
        let left = store.record(key)
        let claimed = if let left { try store.claimOfEnded(left) } else { try store.claim(key) }
        guard let claimed else {
            if let other = store.attaching(key) {
                throw AttachError(
                    .busy,
                    "volume/\(options.volume) is being attached already by process \(other.process.pid): \(other.text)"
                )
            }
            let device = store.record(key).map { " as \($0.device)" } ?? ""
            throw AttachError(
                .busy, "volume/\(options.volume) is attached already\(device); see 'sluice status'")
        }
        lock = claimed
        if let left = store.record(key) {
            logger.notice(
                "clearing what an earlier process left behind", metadata: ["device": "\(left.device)"])
            if let loss = left.loss { logger.warning("what was written to it may be lost: \(loss)") }
            try Attachments.clear(left, in: store, keepsClaim: true)
        }
    }

    private func attach() throws(AttachError) -> Attachment {
        let (capability, rights) = try authorise()
        try refuseSecond(of: capability.resource.hex)
        let clientOptions = try access.clientOptions(capability, rights: rights, channels: options.channels)
        waits(for: "the data channel")
        let thread = try startReactor(clientOptions)
        self.thread = thread
        let state = try waitUntilOpen()
        waits(for: "its block device")
        let geometry = try serve(on: thread)
        let mark = "sluice:\(Hex.encode(SystemRandom().bytes(16)))"
        let made = try makeDevice(geometry, mark: mark)
        guard let process = ProcessIdentity.current else {
            throw AttachError(.system, "cannot read /proc/self/stat; is /proc mounted?")
        }
        let record = AttachmentRecord(
            key: key, volume: options.volume.text, volumeID: state.resource.hex,
            server: access.server.description, device: made.device, mark: mark, identity: made.identity,
            folder: store.mountFolder(key), process: process, since: SystemWallClock().now(),
            size: geometry.size,
            blockSize: geometry.blockSize,
            isReadOnly: options.isReadOnly, channels: options.channels,
            detachesOnUnmount: options.detachesOnUnmount, state: .attached, sizeMax: geometry.sizeMax)
        self.record = record
        try store.write(record)
        store.endAttaching(key)
        try beginServing(capability, rights)
        describe()
        logger.info(
            "attached",
            metadata: [
                "volume": "\(options.volume)", "device": "\(made.device)", "bytes": "\(geometry.size)",
                "capability": "\(capability.id)", "rights": "\(rights.names.joined(separator: ","))",
            ])
        return Attachment(self.record ?? record, store: store, mounts: [])
    }

    /// A server may have several names; a volume has one id, and one device here.
    private func refuseSecond(of volumeID: String) throws(AttachError) {
        guard let other = store.records().first(where: { $0.volumeID == volumeID && $0.process.isAlive })
        else {
            return
        }
        let from =
            other.server == access.server.description
            ? "" : ", from \(other.server), which is another name of the same server"
        let name = other.volume == options.volume.text ? "" : ", by the name of volume/\(other.volume)"
        throw AttachError(
            .busy,
            "volume/\(options.volume) is attached already as \(other.device)\(from)\(name); see 'sluice status'"
        )
    }

    /// The device is there: from now on it can be renewed, and handed over.
    func beginServing(_ capability: IssuedCapability, _ rights: Rights) throws(AttachError) {
        renewer = try CapabilityRenewer(
            access: access, rights: rights, lifetimeSeconds: options.lifetimeSeconds, inbox: inbox)
        scheduleRenewal(capability)
        try SuccessionChannel.listen(in: store.folder) { [inbox] request, channel in
            inbox.post(request.map { .succession($0, channel) } ?? .successorGone(channel))
        }
    }

    /// A capability with the rights that a block device needs.
    func authorise() throws(AttachError) -> (IssuedCapability, Rights) {
        let capability = try access.issue(
            rights: options.isReadOnly ? [.read] : nil, lifetimeSeconds: options.lifetimeSeconds)
        self.capability = capability
        let rights = capability.rights.intersection(
            options.isReadOnly ? [.read] : [.read, .write, .discard, .flush])
        let needed: Rights = options.isReadOnly ? [.read] : [.read, .write, .flush]
        let missing = needed.subtracting(rights)
        guard missing.isEmpty else {
            let advice =
                options.isReadOnly || missing.contains(.read)
                ? "an administrator can widen the grant (sluice grant set)"
                : "attach with --read-only, or have the grant widened (sluice grant set)"
            throw AttachError(
                .denied,
                "volume/\(options.volume): the grant lacks \(missing.names.joined(separator: ", ")); "
                    + advice
            )
        }
        return (capability, rights)
    }

    func startReactor(_ clientOptions: VolumeClientOptions) throws(AttachError) -> ReactorThread {
        var clientOptions = clientOptions
        clientOptions.channel.depth = options.queueDepth
        clientOptions.channel.clientName = "sluice attach"
        clientOptions.reconnectSeconds = options.reconnectTimeoutSeconds
        clientOptions.takesOver = true
        var reactorOptions = Reactor.Options()
        reactorOptions.pollNanoseconds = options.pollMicroseconds * 1000
        reactorOptions.takesCommands = true
        // The few channels of one device; what is mapped counts as locked memory.
        reactorOptions.receiveBufferCount = AttachLimits.receiveBuffers
        do {
            return try Reactor.start(reactorOptions) { [server, inbox, clientOptions] reactor in
                do {
                    try Signals.forward(AttachProcess.signals, on: reactor) { inbox.post(.signal($0)) }
                } catch {
                    inbox.post(.closed(.lost("\(error)")))
                    return
                }
                server.open(clientOptions, reactor: reactor)
            }
        } catch {
            throw AttachError(.system, "\(error)")
        }
    }

    func waitUntilOpen() throws(AttachError) -> ResourceState {
        let deadline = Self.deadline(seconds: AttachLimits.openSeconds)
        var silentUntil = SystemClock.monotonic() + AttachLimits.silentNanoseconds
        while SystemClock.monotonic() < deadline {
            let look = SystemClock.monotonic() + UInt64(AttachLimits.startLookMilliseconds) * 1_000_000
            guard let notice = inbox.take(until: look) else {
                try refuseAbandoned()
                if SystemClock.monotonic() >= silentUntil, let attaching {
                    logger.notice("not attached yet: \(attaching.text)")
                    silentUntil = .max
                }
                continue
            }
            switch notice {
            case .opened(let state):
                isConnected = true
                return state
            case .closed(let error): throw AttachError(error, volume: options.volume.text)
            case .signal: throw AttachError(.interrupted, "stopped while it was being attached")
            // A channel that opens first hears how the driver is, once.
            case .event(let event):
                heard(event)
                waits(for: driverTrouble.map { "the server to open it: \($0.reason)" } ?? "the data channel")
            case .interrupted(let reason, _): waits(for: "the data channel: \(reason)")
            case .unanswered:
                waits(for: "the data channel: the server takes what is sent and answers nothing")
            default: continue
            }
        }
        throw AttachError(
            .unreachable,
            "volume/\(options.volume): the server did not open it in \(AttachLimits.openSeconds) seconds"
                + (attaching.map { "; \($0.text)" } ?? ""))
    }

    private func serve(on thread: ReactorThread) throws(AttachError) -> BlockGeometry {
        let folder = store.mountFolder(key)
        try FuseMount.remove(folder)
        guard unsafe mkdir(folder, 0o700) == 0 || errno == EEXIST else {
            throw .system(errno, "cannot make the folder \(folder)")
        }
        return try serve(on: thread, folder: folder, isReadOnly: options.isReadOnly, adopting: nil)
    }

    /// Serves the mount in a folder, on the reactor's thread.
    func serve(
        on thread: ReactorThread, folder: String, isReadOnly: Bool, adopting adoption: VolumeServer.Adoption?
    ) throws(AttachError) -> BlockGeometry {
        let name = options.volume.text
        let answer = thread.remote.call { [server] reactor -> Result<BlockGeometry, AttachError> in
            do throws(AttachError) {
                return .success(
                    try server.serve(
                        fileName: name, folder: folder, isReadOnly: isReadOnly, adopting: adoption,
                        reactor: reactor))
            } catch {
                return .failure(error)
            }
        }
        guard let answer else { throw AttachError(.system, "the thread that serves the volume has ended") }
        let geometry = try answer.get()
        hasMount = true
        return geometry
    }

    // MARK: serving

    /// Serves until the device is detached or a signal ends it.
    func run() throws(AttachError) {
        while true {
            guard let notice = deferred.isEmpty ? inbox.take(until: nextEvent) : deferred.removeFirst() else {
                timePassed()
                continue
            }
            switch notice {
            case .signal(let number): signalled(number)
            case .released(let problem, let isForced):
                if try released(problem, isForced: isForced) { return }
            case .fuseEnded:
                if try mountGone() { return }
            case .fileClosed:
                if try fileClosed() { return }
            case .closed(let error): disconnected(error)
            case .interrupted(let reason, let waiting): interrupted(reason, waiting: waiting)
            case .unanswered(let nanoseconds, let waiting): unanswered(nanoseconds, waiting: waiting)
            case .answered: answered()
            case .resumed(let nanoseconds, let repeated): resumed(nanoseconds, repeated: repeated)
            case .waiting(let count): stillInterrupted(waiting: count)
            case .noSpace(let waiting): waitsForSpace(waiting)
            case .needsCapability:
                awaitsCapability = true
                renewAtOnce()
            case .event(let event): heard(event)
            case .resized(let result): resized(result)
            case .ignored(let what): logger.warning("what the server says is not believed: \(what)")
            case .requestFailed(let operation, let status, let message, let total):
                failed(total, operation, status, message)
            case .failures(let total): counted(failures: total)
            case .reported(let channel): try? channel.send(SuccessionAnswer())
            case .issued(let result): issued(result)
            case .renewed(let result): renewed(result)
            case .certificate(let state): heard(state)
            case .succession(let request, let channel): asked(request, channel)
            case .offer(let offer, let channel): offered(offer, channel)
            case .drained(let descriptor, let account):
                if handedOver(descriptor, account) { return }
            case .left(let account):
                if left(account) { return }
            case .leavingAgain(let account): leavingAgain(account)
            case .successorGone(let channel):
                if successor?.channel === channel { refuseSuccessor("it has gone") }
            case .ring(let entries):
                hasRing = true
                logger.info("the kernel's requests come through a ring", metadata: ["entries": "\(entries)"])
            case .opened: break
            }
        }
    }

    private var nextEvent: UInt64 {
        min(
            nextRenewal, interruption?.nextLook ?? .max, driverTrouble?.nextLook ?? .max, nextFailureLook,
            successor?.deadline ?? .max, ending?.next ?? .max)
    }

    private func timePassed() {
        let now = SystemClock.monotonic()
        if now >= nextRenewal { renew() }
        if let successor, now >= successor.deadline { refuseSuccessor("requests are still under way") }
        if let ending, now >= ending.next { tryRelease() }
        if now >= min(interruption?.nextLook ?? .max, driverTrouble?.nextLook ?? .max) {
            interruption?.nextLook = .max
            driverTrouble?.nextLook = now + AttachLimits.waitLookNanoseconds
            _ = thread?.remote.post { [server] in server.countWaiting() }
        }
        if now >= nextFailureLook {
            nextFailureLook = now + AttachLimits.waitLookNanoseconds
            _ = thread?.remote.post { [server] in server.countFailures() }
        }
    }

    static func deadline(seconds: UInt64) -> UInt64 {
        SystemClock.monotonic().addingSaturated(Nanoseconds.seconds(seconds))
    }
}
