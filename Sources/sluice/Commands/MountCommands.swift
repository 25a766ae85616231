import ArgumentParser
import Attach
import Core

extension VolumeMount.FileSystem: ExpressibleByArgument {}

/// `sluice mount`
struct MountCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "mount",
        abstract: "Attach a volume and mount the file system on it.",
        discussion: """
            'sluice umount' detaches it again. A volume that is attached already is mounted as it is.

            EXAMPLES:
              sluice mount volume/data /mnt/data --mkfs ext4      (the first time)
              sluice mount volume/data /mnt/data
            """)

    @OptionGroup var global: GlobalOptions
    @Argument(help: ArgumentHelp("The volume: volume/NAME.", valueName: "volume/name")) var resource:
        ResourceReference
    @Argument(help: "The folder to mount it on.", completion: .directory) var folder: String
    @OptionGroup var device: DeviceOptions
    @Option(help: "Make this file system first: ext4 or xfs. Refused when the volume holds anything.")
    var mkfs: VolumeMount.FileSystem?

    func validate() throws {
        if device.readOnly, mkfs != nil { throw ValidationError("--mkfs and --read-only exclude each other") }
    }

    func run() throws {
        let options = try global.attachOptions(resource, device, detachesOnUnmount: true)
        let present = Attachments.list().first {
            $0.volume == resource.description && $0.server == options.server && $0.state != "stale"
        }
        let attachment = try present ?? AttachCommand.inBackground(options)
        do throws(AttachError) {
            try VolumeMount.mount(attachment, on: folder, format: mkfs, isReadOnly: device.readOnly)
        } catch {
            if present == nil { try? Attachments.detach(attachment) }
            throw Failure(error)
        }
        try global.output.show(
            MountedVolume(
                volume: attachment.volume, device: attachment.device, folder: folder, isMounted: true),
            sentence: "\(attachment.volume) (\(attachment.device)) mounted on \(folder)")
    }
}

/// `sluice umount`
struct UmountCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "umount",
        abstract: "Unmount a volume's file system, and detach the volume if 'sluice mount' attached it.",
        discussion: "EXAMPLE:\n  sluice umount /mnt/data")

    @OptionGroup var global: GlobalOptions
    @Argument(help: "The folder that it is mounted on.", completion: .directory) var folder: String

    func run() throws {
        let attachment: Attachment
        if let present = try? Attachments.find(folder), present.state == "reconnecting" {
            Terminal.note(
                "the server is away, \(present.message ?? ""); umount waits for it, to write data back")
        }
        do throws(AttachError) {
            attachment = try VolumeMount.unmount(folder)
            let isLast = attachment.mounts.count <= 1
            if attachment.detachesOnUnmount, isLast { try Attachments.detach(attachment) }
        } catch {
            throw Failure(error)
        }
        try global.output.show(
            MountedVolume(
                volume: attachment.volume, device: attachment.device, folder: folder, isMounted: false),
            sentence: "\(attachment.volume) unmounted from \(folder)")
    }
}
