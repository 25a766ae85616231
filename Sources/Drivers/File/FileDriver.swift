import Core
import DriverKit
import Reactor
import Synchronization

/// Volumes in files or on a block device, by io_uring.
///
/// Settings: `direct` (true by default: past the page cache), `path` (a block device that holds one volume, or a
/// folder in which the pool makes one of its own; without it, each volume is a sparse file in the pool's folder),
/// `erase` (true: a volume may be made on a device that holds data).
public final class FileDriver: InstalledVolumeDriver {
    /// `file`.
    public static let name = "file"

    private let store: any FileStore
    private let kept: any DescriptorStore
    private let open = Mutex<[UInt32: OpenVolume]>([:])

    /// Opens the pool and locks its folder against other servers.
    public init(_ environment: DriverEnvironment) throws(StatusError) {
        let settings = try FileDriver.parse(environment.settings)
        let direct = try settings.flag("direct", default: true)
        let erase = try settings.flag("erase", default: false)
        kept = environment.store
        var folder = try PoolFolder(environment.folder, store: kept)
        if let path = settings.text("path") {
            guard path.hasPrefix("/") else {
                throw StatusError(.badRequest, "the setting path is \"\(path)\"; write an absolute path")
            }
            guard ChosenFolder.isFolder(path) else {
                store = try DeviceStore(folder: folder, path: path, direct: direct, erase: erase, store: kept)
                return
            }
            folder = try ChosenFolder.open(in: path, pool: folder, store: kept)
        }
        store = try FolderStore(
            folder: folder, direct: direct, locksVolumes: environment.isolation == .inline)
    }

    private static func parse(_ settings: [String: String]) throws(StatusError) -> DriverSettings {
        try DriverSettings(settings, driver: FileDriver.name, known: ["direct", "erase", "path"])
    }

    /// The block device or the folder, if there is one.
    public static func needs(settings: [String: String]) throws(StatusError) -> DriverNeeds {
        var needs = DriverNeeds()
        guard let path = try parse(settings).text("path") else { return needs }
        if ChosenFolder.isFolder(path) {
            needs.folder = ChosenFolder.path(in: path)
        } else {
            needs.paths = [path]
        }
        return needs
    }

    /// Refuses every change while it runs; a setting that does not exist is named.
    public func configure(settings: [String: String]) throws(StatusError) {
        _ = try FileDriver.parse(settings)
        throw StatusError(
            .notSupported,
            "direct, erase and path cannot be changed while the pool runs: make another pool")
    }

    /// Whether volumes run otherwise than the settings say.
    public var notes: [String] { store.notes }

    /// Makes a thin volume; durable.
    public func createVolume(_ id: Identifier, size: UInt64) throws(StatusError) {
        try check(size)
        try store.create(id, size: size)
    }

    /// Grows a volume; durable.
    public func resizeVolume(_ id: Identifier, to size: UInt64) throws(StatusError) {
        try check(size)
        try store.resize(id, to: size)
        open.withLock { volumes in
            for volume in volumes.values where volume.id == id { volume.resized(to: size) }
        }
    }

    /// Deletes a volume; durable. Its space is free when no reactor has it open.
    public func deleteVolume(_ id: Identifier) throws(StatusError) {
        try store.delete(id)
    }

    /// The volumes and their sizes.
    public func volumes() throws(StatusError) -> [Identifier: UInt64] { try store.volumes() }

    /// How full the file system or device is.
    public func capacity() throws(StatusError) -> PoolCapacity { try store.capacity() }

    /// Zeroes a part of a device that a volume was made on.
    public func prepareVolume(_ id: Identifier, to size: UInt64) throws(StatusError) -> UInt64 {
        try store.prepare(id, to: size)
    }

    /// The blocks that the volumes' files have.
    public func usage() throws(StatusError) -> [Identifier: UInt64] { try store.usage() }

    /// Opens a volume under an index, anew if it was open: a failed flush is forgotten.
    ///
    /// Linux reports a write-back that failed to files that were open then. So the server keeps a second open
    /// file, which nobody syncs, as `witness/INDEX` for as long as the volume is open: whoever looks at it after
    /// this process has ended (`BlockDevices.takeWriteBackError(fd:)`) hears of every failure since.
    public func openVolume(_ id: Identifier, index: UInt32) throws(StatusError) -> VolumeGeometry {
        guard index < Limits.openVolumesPerPoolMax else {
            throw StatusError(.busy, "too many open volumes in the pool")
        }
        let volume = try store.open(id)
        if !(kept is NoDescriptorStore) {
            try kept.keep(store.witness(id), as: FileDriver.witness(index))
        }
        open.withLock { $0[index] = volume }
        return volume.geometry
    }

    /// Ends the use of an index.
    public func closeVolume(_ index: UInt32) {
        _ = open.withLock { $0.removeValue(forKey: index) }
        kept.forget(FileDriver.witness(index))
    }

    private static func witness(_ index: UInt32) -> String { "witness/\(index)" }

    /// The request side for one reactor.
    public func makeQueue(
        reactor: Reactor, arena: Arena, submissions: SubmissionRing, completions: CompletionRing,
        onCompletions: @escaping () -> Void
    ) throws(StatusError) -> any DriverQueue {
        let queue = FileQueue(
            driver: self, reactor: reactor, arena: arena, submissions: submissions, completions: completions,
            onCompletions: onCompletions)
        queue.start()
        return queue
    }

    /// The volume that is open under an index.
    func openVolume(_ index: UInt32) -> OpenVolume? { open.withLock { $0[index] } }

    /// What writes may still take, in bytes; nil where that does not matter.
    func freeBytes() -> UInt64? { store.freeBytes() }

    private func check(_ size: UInt64) throws(StatusError) {
        if size == 0 || size % Limits.volumeSizeGranule != 0 {
            throw StatusError(
                .badRequest, "a volume's size is a multiple of \(Limits.volumeSizeGranule) bytes")
        }
        if size > Limits.volumeBytesMax {
            throw StatusError(.tooLarge, "a volume has at most \(Limits.volumeBytesMax) bytes")
        }
    }
}
