import Core
import DriverHost
import DriverKit
import Glibc
import Reactor
import Testing

@testable import Drivers

/// A way to run a driver; all must behave alike.
struct DriverConfiguration: Sendable, CustomTestStringConvertible {
    /// Where a pool's folder is, and with it the data of a file driver.
    enum Place: Sendable {
        case disk
        case memory
        /// A loop device that holds one volume.
        case device
        /// One with sectors of 4096 bytes.
        case largeSectors
        /// One over a file without holes: it has neither discard nor write-zeroes.
        case bareDevice
        /// A file system without holes and fallocate(2).
        case ramfs
        /// Nowhere: the driver's own memory, all of a volume at once.
        case process

        var isDevice: Bool { self == .device || self == .largeSectors || self == .bareDevice }
    }

    var name: String
    var place = Place.disk
    var settings: [String: String] = [:]
    /// What a small pool has for settings, where its folder does not limit it.
    var smallSettings: [String: String] = [:]
    /// How the settings name a block device.
    var devicePath = "path"
    var type: any InstalledVolumeDriver.Type
    /// Whether it runs in a driver host of its own.
    var isIsolated = false

    var testDescription: String { isIsolated ? name + ", isolated" : name }

    /// Whether volumes take only the space that they need, and a pool holds more than one.
    var isThin: Bool { place == .disk || place == .memory }

    /// Whether space can be given back; where it cannot, DISCARD must say so.
    var canDiscard: Bool { place != .bareDevice && place != .ramfs }

    /// Every way, in this process.
    static let inline: [DriverConfiguration] = {
        let file = FileDriver.self
        let memory = MemoryDriver.self
        let fault = FaultDriver.self
        var all = [
            DriverConfiguration(name: "file, direct", type: file),
            DriverConfiguration(name: "file, buffered", settings: ["direct": "false"], type: file),
            DriverConfiguration(name: "file on tmpfs", place: .memory, type: file),
            DriverConfiguration(
                name: "memory", settings: ["size": "256MiB"], smallSettings: ["size": "24MiB"], type: memory),
            DriverConfiguration(name: "fault over file", settings: ["driver": "file"], type: fault),
            DriverConfiguration(
                name: "fault over memory", settings: ["driver": "memory", "inner.size": "256MiB"],
                smallSettings: ["inner.size": "24MiB"], type: fault),
            DriverConfiguration(
                name: "fault over memory, ready for a power cut",
                settings: [
                    "driver": "memory", "inner.size": "256MiB", "rules": "powercut nth=1000000000",
                ],
                smallSettings: ["inner.size": "24MiB"], type: fault),
            DriverConfiguration(name: "smallest", place: .process, type: SmallestDriver.self),
        ]
        if TestFileSystem.isAllowed {
            all += [
                DriverConfiguration(name: "file on a block device", place: .device, type: file),
                DriverConfiguration(
                    name: "fault over file on a block device", place: .device, settings: ["driver": "file"],
                    devicePath: "inner.path", type: fault),
                DriverConfiguration(name: "file on large sectors", place: .largeSectors, type: file),
                DriverConfiguration(name: "file on a bare device", place: .bareDevice, type: file),
                DriverConfiguration(
                    name: "file on ramfs", place: .ramfs, settings: ["direct": "false"], type: file),
            ]
        }
        return all
    }()

    /// Every way of the drivers that `sluice-driver` has, each in a driver host of its own.
    static let isolated = inline.filter { $0.place != .process }.map { configuration in
        var isolated = configuration
        isolated.isIsolated = true
        return isolated
    }

    /// Every way.
    static let all = inline + isolated
    /// Those whose volumes are thin.
    static let thin = all.filter(\.isThin)

    /// Runs the body with a fresh pool.
    func withRig(_ body: (DriverRig) throws -> Void) throws {
        let folder = try TestFolder(under: place == .memory ? "/dev/shm" : "/tmp")
        let bare = place == .ramfs || place == .bareDevice ? try TestFileSystem.ramfs() : nil
        let device =
            place.isDevice
            ? try TestFileSystem.loop(
                bytes: 32 << 20, in: bare?.path ?? "/tmp",
                sectorBytes: place == .largeSectors ? 4096 : 512) : nil
        var settings = settings
        if let device { settings[devicePath] = device.path }
        try run(settings, place == .ramfs ? (bare?.path ?? "") + "/pool" : folder.path, body)
        _ = device?.path
        _ = bare?.path
    }

    /// Runs the body with a fresh pool that holds about 16 MiB.
    func withSmallPool(_ body: (DriverRig) throws -> Void) throws {
        if !smallSettings.isEmpty {
            let folder = try TestFolder()
            return try run(settings.merging(smallSettings) { $1 }, folder.path, body)
        }
        if place == .memory {
            let mounted = try TestFileSystem.tmpfs(bytes: 24 << 20)
            try run(settings, mounted.path + "/pool", body)
            _ = mounted.path
        } else {
            let device = try TestFileSystem.loop(bytes: 24 << 20, in: "/tmp")
            let mounted = try TestFileSystem.ext4(on: device)
            try run(settings, mounted.path + "/pool", body)
            _ = mounted.path + device.path
        }
    }

    private func run(
        _ settings: [String: String], _ folder: String, _ body: (DriverRig) throws -> Void
    ) throws {
        let rig = try DriverRig(try open(settings, folder))
        defer {
            do { try rig.stop() } catch { Issue.record(error) }
        }
        try body(rig)
    }

    private func open(_ settings: [String: String], _ folder: String) throws -> any VolumeDriver {
        if !isIsolated { return try type.init(DriverEnvironment(settings: settings, folder: folder)) }
        var options = IsolatedDriver.Options(
            executable: Self.hostProgram, driver: type.name, settings: settings, folder: folder,
            wallClock: SystemWallClock())
        options.queues = 2
        return try IsolatedDriver(options)
    }

    /// `sluice-driver`, which is built beside the tests.
    private static let hostProgram: String = {
        var bytes = [CChar](repeating: 0, count: 4096)
        let count = unsafe readlink("/proc/self/exe", &bytes, bytes.count)
        let path = String(decoding: bytes.prefix(max(0, count)).map { UInt8(bitPattern: $0) }, as: UTF8.self)
        return path.prefix(through: path.lastIndex(of: "/") ?? path.startIndex) + "sluice-driver"
    }()
}
