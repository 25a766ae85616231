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
    private let options: AttachOptions
    private let logger: Logger
    private let store: AttachmentStore
    private let key: String
    private let inbox = Mailbox<AttachNotice>()
    private let server: VolumeServer
    private let access: VolumeAccess
    private var thread: ReactorThread?
    private var renewer: CapabilityRenewer?
    private var capability: IssuedCapability?
    private var nextRenewal = UInt64.max
    private var isRenewing = false
    private var record: AttachmentRecord?
    private var isConnected = false
    private var hasMount = false
    private var lock: Int32 = -1

    init(_ options: AttachOptions, logger: Logger, store: AttachmentStore) throws(AttachError) {
        self.options = options
        self.logger = logger
        self.store = store
        access = try VolumeAccess(
            volume: options.volume, credentialsFolder: options.credentialsFolder, server: options.server)
        key = AttachmentStore.key(volume: options.volume.text, server: access.server.description)
        server = VolumeServer(inbox: inbox)
    }

    deinit { if lock >= 0 { Glibc.close(lock) } }

    // MARK: setting up

    /// Attaches the volume; when this throws, nothing is left behind.
    func start() throws(AttachError) -> Attachment {
        try claim()
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
        guard let claimed = try store.claim(key) else {
            let device = store.record(key).map { " as \($0.device)" } ?? ""
            throw AttachError(
                .busy, "volume/\(options.volume) is attached already\(device); see 'sluice status'")
        }
        lock = claimed
        if let left = store.record(key) {
            logger.notice(
                "clearing what an earlier process left behind", metadata: ["device": "\(left.device)"])
            try Attachments.clear(left, in: store)
        }
    }

    private func attach() throws(AttachError) -> Attachment {
        let (capability, rights) = try authorise()
        let clientOptions = try access.clientOptions(capability, rights: rights, channels: options.channels)
        let thread = try startReactor(clientOptions)
        self.thread = thread
        let state = try waitUntilOpen()
        let geometry = try serve(on: thread)
        let mark = "sluice:\(Hex.encode(SystemRandom().bytes(16)))"
        let device = try LoopHelper.attach(
            file: "\(store.mountFolder(key))/\(options.volume)", blockSize: geometry.blockSize,
            isReadOnly: options.isReadOnly, mark: mark)
        guard let process = ProcessIdentity.current else {
            throw AttachError(.system, "cannot read /proc/self/stat; is /proc mounted?")
        }
        let record = AttachmentRecord(
            key: key, volume: options.volume.text, volumeID: state.resource.hex,
            server: access.server.description, device: device, mark: mark, folder: store.mountFolder(key),
            process: process, since: SystemWallClock().now(), size: geometry.size,
            blockSize: geometry.blockSize,
            isReadOnly: options.isReadOnly, channels: options.channels,
            detachesOnUnmount: options.detachesOnUnmount, state: .attached)
        self.record = record
        try store.write(record)
        renewer = CapabilityRenewer(access: access, rights: rights, inbox: inbox)
        scheduleRenewal(capability)
        logger.info(
            "attached",
            metadata: [
                "volume": "\(options.volume)", "device": "\(device)", "bytes": "\(geometry.size)",
                "capability": "\(capability.id)", "rights": "\(rights.names.joined(separator: ","))",
            ])
        return Attachment(record, store: store, mounts: [])
    }

    /// A capability with the rights that a block device needs.
    private func authorise() throws(AttachError) -> (IssuedCapability, Rights) {
        var access = access
        let capability = try access.issue(rights: options.isReadOnly ? [.read] : nil)
        self.capability = capability
        let rights = capability.rights.intersection(
            options.isReadOnly ? [.read] : [.read, .write, .discard, .flush])
        let needed: Rights = options.isReadOnly ? [.read] : [.read, .write, .flush]
        let missing = needed.subtracting(rights)
        guard missing.isEmpty else {
            let advice =
                options.isReadOnly || missing.contains(.read)
                ? "an administrator can widen the grant"
                : "attach with --read-only, or have the grant widened"
            throw AttachError(
                .denied,
                "volume/\(options.volume): the grant lacks \(missing.names.joined(separator: ", ")); "
                    + advice
            )
        }
        return (capability, rights)
    }

    private func startReactor(_ clientOptions: VolumeClientOptions) throws(AttachError) -> ReactorThread {
        var clientOptions = clientOptions
        clientOptions.channel.depth = options.queueDepth
        clientOptions.channel.clientName = "sluice attach"
        do {
            return try Reactor.start(Reactor.Options()) { [server, inbox, clientOptions] reactor in
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

    private func waitUntilOpen() throws(AttachError) -> ResourceState {
        let deadline = Self.deadline(seconds: AttachLimits.openSeconds)
        while let notice = inbox.take(until: deadline) {
            switch notice {
            case .opened(let state):
                isConnected = true
                return state
            case .closed(let error): throw AttachError(error, volume: options.volume.text)
            case .signal: throw AttachError(.system, "stopped while it was being attached")
            default: continue
            }
        }
        throw AttachError(.unreachable, "volume/\(options.volume): the server did not open it in time")
    }

    private func serve(on thread: ReactorThread) throws(AttachError) -> BlockGeometry {
        let folder = store.mountFolder(key)
        try FuseMount.remove(folder)
        guard unsafe mkdir(folder, 0o700) == 0 || errno == EEXIST else {
            throw .system(errno, "cannot make the folder \(folder)")
        }
        let answer = Mailbox<Result<BlockGeometry, AttachError>>()
        let (name, isReadOnly) = (options.volume.text, options.isReadOnly)
        _ = thread.remote.postWithReactor { [server] reactor in
            do throws(AttachError) {
                answer.post(
                    .success(
                        try server.serve(
                            fileName: name, folder: folder, isReadOnly: isReadOnly, reactor: reactor)))
            } catch {
                answer.post(.failure(error))
            }
        }
        let geometry = try answer.take().get()
        hasMount = true
        return geometry
    }

    // MARK: serving

    /// Serves until the device is detached or a signal ends it.
    func run() throws(AttachError) {
        while true {
            guard let notice = inbox.take(until: nextRenewal) else {
                renew()
                continue
            }
            switch notice {
            case .signal(let number):
                logger.info("stopping", metadata: ["signal": "\(number)"])
                if detach() { return }
            case .fuseEnded:
                hasMount = false
                takeDown()
                throw AttachError(
                    .system, "volume/\(options.volume): its FUSE mount was taken away from outside")
            case .closed(let error): disconnected(error)
            case .event(let event): heard(event)
            case .requestFailed(let operation, let status, let message):
                logger.error(
                    "a request failed",
                    metadata: [
                        "volume": "\(options.volume)", "operation": "\(operation)",
                        "status": "\(status.name)",
                        "server": "\(message)",
                    ])
            case .issued(let result): issued(result)
            case .renewed(let result): renewed(result)
            case .opened: break
            }
        }
    }

    private func disconnected(_ error: ChannelError) {
        isConnected = false
        nextRenewal = .max
        guard record?.state == .attached else { return }
        note(.disconnected, "\(error); every request fails. Unmount, 'sluice detach' and attach again")
    }

    private func heard(_ event: ChannelEvent) {
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

    private func resize() {
        guard var record else { return }
        do throws(AttachError) {
            record.size = try LoopHelper.resize(
                device: record.device, file: "\(record.folder)/\(record.volume)", mark: record.mark)
            self.record = record
            try store.write(record)
            logger.info("resized", metadata: ["device": "\(record.device)", "bytes": "\(record.size)"])
        } catch {
            logger.error("cannot take over the volume's new size: \(error)")
        }
    }

    /// Puts a state into the record, where `sluice status` finds it, and into the log.
    private func note(_ state: AttachmentRecord.State, _ message: String) {
        logger.error("\(message)", metadata: ["volume": "\(options.volume)", "state": "\(state.rawValue)"])
        guard var record else { return }
        record.state = state
        record.message = message
        self.record = record
        do throws(AttachError) {
            try store.write(record)
        } catch {
            logger.error("\(error)")
        }
    }

    // MARK: renewing the capability

    /// The next renewal comes when a third of the capability's life is left.
    private func scheduleRenewal(_ capability: IssuedCapability) {
        self.capability = capability
        let now = SystemWallClock().now()
        let left = capability.expiry > now ? capability.expiry - now : 0
        let life = capability.expiry > capability.issuedAt ? capability.expiry - capability.issuedAt : 0
        nextRenewal = Self.deadline(seconds: left > life / 3 ? left - life / 3 : 1)
    }

    private func renew() {
        nextRenewal = .max
        guard isConnected, !isRenewing, record?.state == .attached else { return }
        isRenewing = true
        renewer?.request()
    }

    private func issued(_ result: Result<IssuedCapability, AttachError>) {
        switch result {
        case .success(let capability):
            self.capability = capability
            _ = thread?.remote.post { [server] in server.renew(capability) }
        case .failure(let error): retryRenewal("no new capability: \(error)")
        }
    }

    private func renewed(_ result: Result<UInt64, ChannelError>) {
        switch result {
        case .success(let expiry):
            isRenewing = false
            logger.info("capability renewed", metadata: ["expiry": "\(expiry)"])
            if let capability { scheduleRenewal(capability) }
        case .failure(let error): retryRenewal("the server did not take the new capability: \(error)")
        }
    }

    private func retryRenewal(_ why: String) {
        isRenewing = false
        guard isConnected, record?.state == .attached else { return }
        let now = SystemWallClock().now()
        let left = capability.map { $0.expiry > now ? $0.expiry - now : 0 } ?? 0
        let range = AttachLimits.renewalRetrySeconds
        let wait = min(max(left / 8, range.lowerBound), range.upperBound)
        logger.error("\(why); trying again in \(wait) seconds, the capability lasts for \(left)")
        nextRenewal = Self.deadline(seconds: wait)
    }

    // MARK: taking down

    /// Gives the device up, unless something uses it; true when everything is gone.
    private func detach() -> Bool {
        guard let record else { return true }
        do throws(AttachError) {
            try LoopHelper.release(
                device: record.device, mark: record.mark, isForced: record.state != .attached,
                folder: record.folder)
        } catch {
            logger.error("not detached: \(error)")
            return false
        }
        takeDown()
        logger.info("detached", metadata: ["volume": "\(record.volume)", "device": "\(record.device)"])
        return true
    }

    /// Ends FUSE, the connection and the reactor, whatever their state, and takes the record away.
    private func takeDown() {
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
        store.remove(key)
    }

    private func wait(until isAwaited: (AttachNotice) -> Bool) {
        let deadline = Self.deadline(seconds: AttachLimits.endSeconds)
        while let notice = inbox.take(until: deadline), !isAwaited(notice) {}
    }

    private static func deadline(seconds: UInt64) -> UInt64 {
        SystemClock.monotonic() + seconds * 1_000_000_000
    }
}
