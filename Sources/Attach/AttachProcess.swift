import CFUSE
import Core
import FoundationEssentials
import Glibc
import Logging
import Reactor

/// The process that serves an attachment, and the way to start one in the background.
public enum AttachProcess {
    /// The signals that stop it.
    static let signals: [Int32] = [SIGTERM, SIGINT, SIGHUP, giveUpSignal]
    /// The signal at which it fails every request, so that nothing waits for a server that is away.
    static let giveUpSignal = SIGUSR1

    /// Sets the serving process up: the first thing that it does, while it has one thread.
    public static func prepare() {
        Signals.block(signals)
        _ = signal(SIGPIPE, SIG_IGN)
        sluice_attach_spare_memory()
    }

    /// Sees to it that so many connections, and what else it takes, can be open at once.
    static func allowFiles(channels: Int) throws(AttachError) {
        let needed = UInt64(AttachLimits.openFilesNeeded + channels)
        let allowed = OpenFiles.allow(max(needed, AttachLimits.openFilesWanted))
        guard allowed >= needed else {
            throw AttachError(
                .denied,
                "this process may open \(allowed) files, and needs \(needed): raise the limit (ulimit -n, LimitNOFILE=)"
            )
        }
    }

    /// Attaches a volume and serves it until it is detached, or a signal stops it and nothing uses it any
    /// more.
    ///
    /// Blocks for as long as that is. `ready` is called once, when the device is there; `readyDescriptor` is
    /// the end of the pipe that `startInBackground` waits at, and is closed here.
    /// - Throws: `AttachError`; nothing is left behind then.
    public static func serve(
        _ options: AttachOptions, logger: Logger, readyDescriptor: Int32? = nil,
        ready: (Attachment) -> Void = { _ in }
    ) throws(AttachError) {
        let session: AttachSession
        do {
            try allowFiles(channels: options.channels)
            session = try AttachSession(options, logger: logger, store: .standard)
            let attachment = try session.start()
            if let readyDescriptor { tell(readyDescriptor, ReadyMessage(attachment: attachment)) }
            ready(attachment)
        } catch {
            if let readyDescriptor {
                tell(readyDescriptor, ReadyMessage(reason: error.reason, message: error.message))
            }
            throw error
        }
        try session.run()
    }

    /// Starts a serving process in the background and waits until its device is there.
    ///
    /// - Parameter command: the program and arguments that end in `serve` with descriptor 3 as
    ///   `readyDescriptor`. What it writes goes to the attachment's log.
    /// - Throws: `AttachError`, also the one that the process failed with.
    public static func startInBackground(
        command: [String], options: AttachOptions
    ) throws(AttachError) -> Attachment {
        let store = AttachmentStore.standard
        let access = try VolumeAccess(
            volume: options.volume, credentialsFolder: options.credentialsFolder, server: options.server)
        let key = AttachmentStore.key(volume: options.volume.text, server: access.server.description)
        try store.create()
        let logFile = store.logFile(key)
        let log = unsafe open(logFile, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0o600)
        guard log >= 0 else { throw .system(errno, "cannot write \(logFile)") }
        defer { close(log) }
        let pipe = try Subprocess.pipe()
        defer { close(pipe.read) }
        let process: Int32
        do {
            defer { close(pipe.write) }
            process = try Subprocess.start(
                command, output: log, errors: log, extra: pipe.write, inNewSession: true)
        }
        let bytes = TextFile.bytes(descriptor: pipe.read, max: AttachLimits.recordBytesMax) ?? []
        guard let message = try? JSONDecoder().decode(ReadyMessage.self, from: Data(bytes)) else {
            throw AttachError(
                .system,
                "process \(process) ended before volume/\(options.volume) was attached; see \(logFile)")
        }
        if let attachment = message.attachment { return attachment }
        store.removeLeftOver(key)
        throw AttachError(message.reason ?? .system, message.message ?? "see \(logFile)")
    }

    /// What a serving process tells the one that started it.
    private struct ReadyMessage: Codable {
        var attachment: Attachment?
        var reason: AttachError.Reason?
        var message: String?
    }

    private static func tell(_ descriptor: Int32, _ message: ReadyMessage) {
        if let data = try? JSONEncoder().encode(message) {
            let bytes = Array(data)
            // A parent that has gone does not matter: the device is there, and `sluice status` shows it.
            _ = unsafe write(descriptor, bytes, bytes.count)
        }
        close(descriptor)
    }
}
