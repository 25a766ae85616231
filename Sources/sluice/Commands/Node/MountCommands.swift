import ArgumentParser
import Attach
import Core
import SluiceClient

extension VolumeMount.FileSystem: ExpressibleByArgument {}

/// `sluice mount`
struct MountCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "mount",
        abstract: "Attach a volume and mount the file system on it.",
        discussion: """
            'sluice umount' detaches it again. A volume that is attached already is mounted as it is. Programs on it
            cannot become other users by their mode bits, and its device nodes are none (nosuid, nodev).

            EXAMPLES:
              sluice mount volume/data /mnt/data --mkfs ext4      (the first time)
              sluice mount volume/data /mnt/data
            """)

    @OptionGroup var global: GlobalOptions
    @Argument(help: ArgumentHelp("The volume: volume/NAME.", valueName: "volume/name")) var resource:
        ResourceReference
    @Argument(help: "The folder to mount it on.", completion: .directory) var folder: String
    @OptionGroup var device: DeviceOptions
    @Option(
        help:
            "Make this file system first: ext4 or xfs. Refused unless the volume is blank: no known signature, and nothing but zeroes."
    )
    var mkfs: VolumeMount.FileSystem?
    @Flag(help: "With --mkfs: also over what the volume holds, which is lost.") var force = false
    @Flag(help: "Let programs on it run as their owners (no nosuid): only if you trust all who write to it.")
    var allowSuid = false
    @Flag(help: "Let device nodes on it be devices (no nodev): only if you trust all who write to it.")
    var allowDevices = false

    func validate() throws {
        if device.readOnly, mkfs != nil { throw ValidationError("--mkfs and --read-only exclude each other") }
        if force, mkfs == nil { throw ValidationError("--force is for --mkfs: mounting overwrites nothing") }
    }

    func run() throws {
        let options = try global.attachOptions(resource, device, detachesOnUnmount: true)
        let attachment: Attachment
        let present: Attachment?
        do throws(AttachError) {
            try VolumeMount.check(folder: folder)
            present = try MountCommand.present(resource, options)
        } catch { throw Failure(error) }
        attachment = try present ?? AttachCommand.inBackground(options)
        let interruption = interruption(attachment, isOurs: present == nil)
        do {
            try mount(attachment, options, interruption)
        } catch {
            interruption.end(isDone: false)
            throw takeBack(attachment, isOurs: present == nil, after: error, interruption)
        }
        interruption.end(isDone: true)
        try global.output.show(
            MountedVolume(
                volume: attachment.volume, device: attachment.device, folder: folder, isMounted: true),
            sentence: "\(attachment.volume) (\(attachment.device)) mounted on \(folder)")
    }

    /// The volume's attachment, if there is one that works.
    private static func present(
        _ resource: ResourceReference, _ options: AttachOptions
    ) throws(AttachError) -> Attachment? {
        let all = Attachments.list().filter {
            $0.volume == resource.description && $0.state != "stale" && !$0.isAttaching
        }
        let present = all.first { $0.server == options.server }
        if let present { try VolumeMount.check(serving: present) }
        return present
    }

    /// Has signals end what was attached for this mount, whatever it waits for.
    private func interruption(_ attachment: Attachment, isOurs: Bool) -> Interruption {
        let (volume, device, folder) = (attachment.volume, attachment.device, self.folder)
        let stays = "\(volume) stays attached as \(device)"
        return Interruption(
            stays: isOurs ? "\(stays); take it away with: sluice detach --force \(volume)" : stays
        ) {
            guard isOurs else { return "interrupted; \(stays), as it was" }
            do throws(AttachError) { try VolumeMount.undo(attachment, on: folder, isForced: true) } catch {
                return "interrupted; \(stays): \(Failure(error).message)"
            }
            return "interrupted; \(volume) is not attached"
        }
    }

    /// Detaches what was attached for a mount that then failed, and says why it did and what stays.
    private func takeBack(
        _ attachment: Attachment, isOurs: Bool, after error: any Error, _ interruption: Interruption
    ) -> any Error {
        var failure = error as? Failure ?? Failure(.failure, "\(error)")
        if interruption.hasCome {
            failure.status = .interrupted
            failure.code = ExitStatus.interrupted.code
        }
        guard isOurs else {
            if interruption.hasCome { failure.message += "; \(attachment.volume) stays attached, as it was" }
            return failure
        }
        do throws(AttachError) {
            try VolumeMount.undo(attachment, on: folder, isForced: interruption.hasCome)
            if interruption.hasCome { failure.message += "; \(attachment.volume) is not attached" }
        } catch {
            Terminal.note(
                "sluice: \(attachment.volume) stays attached as \(attachment.device): \(Failure(error).message)"
            )
        }
        return failure
    }

    private func mount(
        _ attachment: Attachment, _ options: AttachOptions, _ interruption: Interruption
    ) throws {
        do throws(AttachError) {
            // From here on the device is this volume's, whatever happens elsewhere.
            let held = try VolumeMount.hold(attachment)
            if let mkfs {
                var overwrites = force
                if !force, let found = try content(attachment, held, options, interruption) {
                    do {
                        try Confirmation.ask(
                            "\(attachment.volume) holds \(found)", name: "\(resource)",
                            otherwise: "sluice mount \(resource) \(folder) --mkfs \(mkfs.rawValue) --force"
                                + device.token.words)
                    } catch let refusal as Failure {
                        throw AttachError(.holdsData, refusal.message)
                    } catch { throw AttachError(.system, "\(error)") }
                    overwrites = true
                }
                try VolumeMount.make(mkfs, on: attachment, held, overwrites: overwrites, interruption)
            }
            var mounting = VolumeMount.Options()
            mounting.isReadOnly = device.readOnly
            mounting.allowsSetUserID = allowSuid
            mounting.allowsDevices = allowDevices
            try VolumeMount.mount(attachment, held, on: folder, mounting, interruption)
        } catch {
            throw Failure(error)
        }
    }

    /// What is on the volume; nil when nothing is, for certain.
    private func content(
        _ attachment: Attachment, _ held: HeldDevice, _ options: AttachOptions, _ interruption: Interruption
    ) throws(AttachError) -> String? {
        try VolumeMount.flush(attachment)
        let extents = try KnownBlocks.ask(
            options.volume, folder: options.credentialsFolder, server: attachment.server, range: nil,
            capabilityFile: options.capabilityFile)
        return try VolumeContent.find(on: held, extents: extents, interruption) { bytes in
            Terminal.note(
                "reading \(ByteCount(bytes)) of \(attachment.volume), to be sure that nothing is on it")
        }
    }
}

/// What the server knows of a volume's blocks, for those who are about to write over them.
enum KnownBlocks {
    /// The extents of a volume or a range of it; nil where the server does not say.
    static func ask(
        _ volume: ResourceName, folder: String, server: String, range: ByteRange?,
        capabilityFile: String?
    ) throws(AttachError) -> [VolumeExtent]? {
        var access = try VolumeAccess(volume: volume, credentialsFolder: folder, server: server)
        access.capabilityFile = capabilityFile
        let capability = try access.issue(rights: .read)
        let options = try access.clientOptions(capability, rights: .read, channels: 1)
        do {
            return try VolumeMapper.map(options, range: range) {
                Terminal.note("waiting: volume/\(volume): \($0)")
            }
        } catch ChannelError.refused(_, .notSupported, _), ChannelError.refused(_, .tooLarge, _) {
            return nil
        } catch {
            throw AttachError(
                .unreachable,
                "the server does not say what volume/\(volume) holds, and nothing was done: \(error)")
        }
    }
}

/// `sluice umount`
struct UmountCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "umount",
        abstract: "Unmount a volume's file system, and detach the volume if 'sluice mount' attached it.",
        discussion: """
            Fails when what was written may be lost, though it is unmounted: the attachment is kept then, and 'sluice
            status' says why, until 'sluice detach --force' gives that up. Also unmounts what an ended process left.

            EXAMPLE:
              sluice umount /mnt/data
            """)

    @OptionGroup var global: GlobalOptions
    @Argument(help: "The folder that it is mounted on.", completion: .directory) var folder: String

    func run() throws {
        let attachment: Attachment
        HeldSignals().say(
            "'sluice status' says whether \(folder) is mounted still, and what is attached: the same again goes on, and "
                + "'sluice detach' takes away what is only attached")
        if let present = try? Attachments.find(folder, server: global.chosenServer),
            ["reconnecting", "waiting"].contains(present.state)
        {
            Terminal.note(
                "\(present.volume) is \(present.state), \(present.message ?? ""); umount waits, to write data back"
            )
        }
        do throws(AttachError) {
            attachment = try VolumeMount.unmount(folder)
            let isLast = attachment.mounts.count <= 1
            if attachment.detachesOnUnmount, isLast { try UmountCommand.detach(attachment, folder) }
        } catch {
            throw Failure(error)
        }
        try global.output.show(
            MountedVolume(
                volume: attachment.volume, device: attachment.device, folder: folder, isMounted: false),
            sentence: "\(attachment.volume) unmounted from \(folder)")
    }

    private static func detach(_ attachment: Attachment, _ folder: String) throws(AttachError) {
        do throws(AttachError) {
            try Attachments.detach(attachment) { Terminal.note("waiting: \($0)") }
        } catch {
            // A process that was asked to end has ended as soon as nothing used its device any more.
            guard error.reason == .notFound else {
                throw AttachError(
                    error.reason,
                    "\(attachment.volume) is unmounted from \(folder), and stays attached: \(error.message)"
                        + (error.reason == .busy ? "; then run: sluice detach \(attachment.volume)" : ""))
            }
        }
    }
}
