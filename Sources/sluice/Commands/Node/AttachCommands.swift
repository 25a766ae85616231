import ArgumentParser
import Attach
import Core
import FoundationEssentials
import Logging
import Logs
import SluiceClient

/// `sluice attach`
struct AttachCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "attach",
        abstract: "Make a volume a block device of this machine, and print its path.",
        discussion: """
            Goes to the background when the device is there; --foreground stays. Needs root. 'sluice detach'
            or SIGTERM ends it, with all data written back.

            EXAMPLES:
              sluice attach volume/data
              sluice attach volume/data --read-only --channels 4 --foreground
              sluice attach volume/data --take-over    (after an upgrade of this program)
            """)

    @OptionGroup var global: GlobalOptions
    @Argument(help: ArgumentHelp("The volume: volume/NAME.", valueName: "volume/name")) var resource:
        ResourceReference
    @OptionGroup var device: DeviceOptions
    @Flag(help: "Stay in the foreground until the volume is detached, or a signal comes.") var foreground =
        false
    @Flag(
        help: ArgumentHelp(
            "Go on with the device of the process that serves the volume now, in place of that process.",
            discussion:
                "For a new version of this program: the device stays, mounted and in use. The options are this command's, but for --read-only."
        ))
    var takeOver = false
    @Option(help: .hidden) var readyDescriptor: Int32?
    @Flag(help: .hidden) var detachesOnUnmount = false

    func run() throws {
        if foreground { AttachProcess.prepare() }
        var options = try global.attachOptions(resource, device, detachesOnUnmount: detachesOnUnmount)
        options.takesOver = takeOver
        if foreground { return try serve(options) }
        let attachment = try AttachCommand.inBackground(options)
        try global.output.show(AttachedVolume(attachment), sentence: attachment.device)
    }

    private func serve(_ options: AttachOptions) throws {
        Terminal.neverWait()
        let log = try LogSink(
            descriptor: LogSink.standardError(), format: try Self.logFormat, label: "sluice")
        defer { log.finish() }
        let logger = Logger(label: "sluice") { log.handler($0) }
        let format = readyDescriptor == nil ? global.output : nil
        do throws(AttachError) {
            try AttachProcess.serve(options, logger: logger, readyDescriptor: readyDescriptor) { attachment in
                // The device is there, also where the output could not be written.
                try? format?.show(AttachedVolume(attachment), sentence: attachment.device)
            }
        } catch {
            throw Failure(error)
        }
    }

    /// The form of log lines that the environment asks for.
    private static var logFormat: LogFormat {
        get throws {
            guard let name = ProcessInfo.processInfo.environment["SLUICE_LOG_FORMAT"], !name.isEmpty else {
                return .text
            }
            guard let format = LogFormat(rawValue: name) else {
                throw ValidationError("SLUICE_LOG_FORMAT is '\(name)': text or json would be right")
            }
            return format
        }
    }

    /// Attaches in a process of its own, which is this program with `--foreground`.
    static func inBackground(_ options: AttachOptions) throws -> Attachment {
        var command = [
            LoopHelper.ownExecutable, "attach", "volume/\(options.volume)", "--foreground",
            "--ready-descriptor", "3", "--credentials", options.credentialsFolder,
            "--channels", "\(options.channels)", "--lifetime", "\(options.lifetimeSeconds)s",
        ]
        if let server = options.server { command += ["--server", server] }
        if options.takesOver { command.append("--take-over") }
        if options.isReadOnly { command.append("--read-only") }
        if let seconds = options.ioTimeoutSeconds { command += ["--io-timeout", "\(seconds)s"] }
        if options.pollMicroseconds > 0 { command += ["--poll", "\(options.pollMicroseconds)"] }
        if let seconds = options.reconnectTimeoutSeconds {
            command += ["--reconnect-timeout", "\(seconds)s"]
        }
        if let file = options.capabilityFile { command += ["--capability", file] }
        if options.detachesOnUnmount { command.append("--detaches-on-unmount") }
        do throws(AttachError) {
            return try AttachProcess.startInBackground(command: command, options: options) {
                Terminal.note("waiting: \($0)")
            }
        } catch {
            throw Failure(error)
        }
    }
}

/// `sluice detach`
struct DetachCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "detach",
        abstract: "Write everything back and take an attached volume's device away.",
        discussion: """
            Refused while the device or a partition of it is mounted or used. While the server is away, waits for
            it; --force does not. Refused when written data was lost, which --force gives up: 'sluice status' says what.
            What an ended process left is only cleaned up, and what is still being attached is stopped. A volume that is attached from
            several servers is chosen by --server, or named by its device.

            EXAMPLES:
              sluice detach volume/data
              sluice detach /dev/loop3
            """)

    @OptionGroup var global: GlobalOptions
    @Argument(
        help: ArgumentHelp(
            "The volume (volume/NAME), its device, or the folder that it is mounted on.",
            valueName: "attachment"))
    var name: String
    @Flag(
        help: ArgumentHelp(
            "Give up data that cannot be written back within seconds, and do not care who has the device open.",
            discussion: "For them every request fails from then on. A device that is mounted is not given up."
        ))
    var force = false

    func run() throws {
        let attachment: Attachment
        let keeper: String?
        do throws(AttachError) {
            attachment = try Attachments.find(
                name, server: global.chosenServer, isOnly: global.server != nil && !name.hasPrefix("/"))
            HeldSignals().say("'sluice status' says whether \(attachment.volume) is attached still")
            keeper = try Attachments.detach(attachment, isForced: force) { reason in
                let advice =
                    "; to give up what is not written back: sluice detach --force \(attachment.volume)"
                Terminal.note("waiting: \(reason)\(force ? "" : advice)")
            }
        } catch {
            throw Failure(error)
        }
        var ended = Ended(.detached, attachment.volume)
        ended.device = attachment.isAttaching ? nil : attachment.device
        ended.note = keeper
        try global.output.show(
            ended,
            sentence: attachment.isAttaching
                ? "\(attachment.volume) is not attached, and not being attached any more"
                : "\(attachment.volume) detached from \(attachment.device)")
        if let keeper, global.output == .table { Terminal.note("sluice: \(keeper)") }
    }
}

/// `sluice status`
struct StatusCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "status",
        abstract: "List the volumes that are attached to this machine.",
        discussion: """
            STATE: attaching (there is no device yet); attached; reconnecting (requests wait for the connection, or a capability); waiting (for a driver,
            for space, or a server that answers nothing); failed (some have failed, those to come are served);
            stopped (the process that serves it is); disconnected or revoked (every request fails); stale (nothing
            serves it, or its device is gone: detach or attach again). MEMORY is what its process has in memory.

            EXAMPLES:
              sluice status
              sluice status -o json | jq -r '.[].device'
            """)

    @OptionGroup var global: GlobalOptions

    func run() throws {
        let attachments = Attachments.list(looksElsewhere: true)
        try global.output.show(list: attachments.map(AttachedVolume.init))
        guard global.output == .table else { return }
        for attachment in attachments {
            if let message = attachment.message { Terminal.note("\(attachment.volume): \(message)") }
            for mount in attachment.mountsElsewhere ?? [] {
                Terminal.note("\(attachment.volume): \(mount.place)")
            }
        }
        noteCertificate()
    }

    /// What there is to say of this machine's certificate, where it can be read.
    private func noteCertificate() {
        guard let credentials = try? Credentials.load(folder: global.folder) else { return }
        let (certificate, now) = (credentials.certificate, TimeText.now)
        guard CertificateRenewal.isLate(certificate, now: now) else { return }
        let end = TimeText.text(certificate.notAfter)
        Terminal.note(
            certificate.notAfter < now
                ? "the certificate in \(credentials.folder) ended at \(end): any command that asks the server renews it by its key"
                : "the certificate in \(credentials.folder) ends at \(end) and was not renewed yet: any command that asks the server does that"
        )
    }
}
