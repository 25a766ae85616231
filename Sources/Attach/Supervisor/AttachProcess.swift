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
        var begun: AttachSession?
        let session: AttachSession
        do {
            try allowFiles(channels: options.channels)
            session = try AttachSession(options, logger: logger, store: .standard)
            begun = session
            session.starter = readyDescriptor
            let attachment = try session.start()
            if let readyDescriptor, !tell(readyDescriptor, ReadyMessage(attachment: attachment)) {
                session.abandon()
            }
            ready(attachment)
        } catch {
            if let readyDescriptor {
                _ = tell(
                    readyDescriptor,
                    ReadyMessage(
                        reason: error.reason, message: error.message, code: error.code, left: begun?.leftOver)
                )
            }
            throw error
        }
        try session.run()
    }

    /// Starts a serving process in the background and waits until its device is there; `waiting` is told what that waits
    /// for, when it takes some seconds.
    ///
    /// A signal that comes meanwhile ends that process too. One that comes later ends this one, which says that the device
    /// stays, and how to take it away.
    ///
    /// - Parameter command: the program and arguments that end in `serve` with descriptor 3 as
    ///   `readyDescriptor`. What it writes goes to the attachment's log.
    /// - Throws: `AttachError`, also the one that the process failed with.
    public static func startInBackground(
        command: [String], options: AttachOptions, waiting: (String) -> Void = { _ in }
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
        let signals = HeldSignals()
        let process: Int32
        do {
            defer { close(pipe.write) }
            process = try Subprocess.start(
                command, output: log, errors: log, extra: pipe.write, inNewSession: true)
        }
        let start = BackgroundStart(
            process: process, key: key, options: options, store: store, signals: signals)
        let bytes = try start.message(from: pipe.read, waiting: waiting)
        guard let message = try? JSONDecoder().decode(ReadyMessage.self, from: Data(bytes)) else {
            throw AttachError(
                .system,
                "process \(process) ended before volume/\(options.volume) was attached; see \(logFile)")
        }
        if let attachment = message.attachment {
            signals.say(
                "\(attachment.volume) stays attached as \(attachment.device); take it away with: "
                    + "sluice detach \(attachment.volume)")
            return attachment
        }
        store.removeLeftOver(key)
        throw AttachError(
            message.reason ?? .system, message.message ?? "see \(logFile)", code: message.code)
    }

    /// What a serving process tells the one that started it.
    struct ReadyMessage: Codable {
        var attachment: Attachment?
        var reason: AttachError.Reason?
        var message: String?
        var code: String?
        /// What is left of a device that was given up while it was made.
        var left: String?
    }

    /// Whether that command still listens.
    private static func tell(_ descriptor: Int32, _ message: ReadyMessage) -> Bool {
        defer { close(descriptor) }
        guard let data = try? JSONEncoder().encode(message) else { return true }
        let bytes = Array(data)
        return unsafe write(descriptor, bytes, bytes.count) == bytes.count
    }
}
