import CFUSE
import Core
import Glibc

/// A disk and its partitions, by their numbers.
struct DiskNumbers {
    /// The path in /dev of each, by major and minor number, `7:3`.
    var devices: [String: String]
    /// The disk's own.
    var disk: String
    /// The partitions' paths in /dev, in order.
    var partitions: [String]

    /// Looks in /sys for the disk of that number, which is the device at `path`.
    init(_ number: String, path: String) {
        disk = number
        devices = [number: path]
        partitions = []
        let folder = "/sys/dev/block/\(number)"
        for name in TextFile.names(in: folder) where TextFile.read("\(folder)/\(name)/partition") != nil {
            guard let own = TextFile.read("\(folder)/\(name)/dev")?.split(separator: "\n").first else {
                continue
            }
            devices[String(own)] = "/dev/\(name)"
            partitions.append("/dev/\(name)")
        }
        partitions.sort { ($0.utf8.count, $0) < ($1.utf8.count, $1) }
    }

    /// The disk that a path leads to; nil when it is no block device.
    init?(path: String) {
        guard let number = Self.number(path) else { return nil }
        self.init(number, path: path)
    }

    /// The same for what others name: nothing but /dev is looked at, since the way to a file may lead through a file
    /// system whose server does not answer, this very process among them.
    static func number(inDev path: String) -> String? { path.hasPrefix("/dev/") ? number(path) : nil }

    /// Major and minor number of the block device that a path leads to, which must not be in a file system that somebody
    /// serves, unless the path is one of /proc. The device itself is not asked.
    static func number(_ path: String) -> String? {
        var (major, minor): (UInt32, UInt32) = (0, 0)
        guard unsafe sluice_attach_block_number(path, &major, &minor) == 1 else { return nil }
        return "\(major):\(minor)"
    }
}

/// What uses a block device of this machine, or one of its partitions.
public struct DeviceUse: Sendable, Hashable {
    /// The folders that it is mounted on.
    public var mounts: [String] = []
    /// Where it is mounted in other mount namespaces.
    public var mountsElsewhere: [MountElsewhere] = []
    /// Devices on top of it (device mapper, RAID, loop devices).
    public var holders: [String] = []
    /// It is swap space.
    public var isSwap = false
    /// Processes that have it open, by whatever name, as `name (pid 12)`.
    public var openers: [String] = []

    /// Nothing uses it.
    public var isNone: Bool { mayPass && openers.isEmpty }

    /// Whether it may end by itself in a moment.
    var mayPass: Bool { mounts.isEmpty && mountsElsewhere.isEmpty && holders.isEmpty && !isSwap }

    /// Looks at the mount tables, /sys, the swap table and the open files of every process but this one.
    public static func of(_ device: String) -> DeviceUse {
        guard let numbers = DiskNumbers(path: device) else { return DeviceUse() }
        let processes = Self.processes
        let mounts = MountTable.read().filter { numbers.contains($0) }.map(\.folder)
        return DeviceUse(
            mounts: mounts,
            mountsElsewhere: mounts.isEmpty ? mountsElsewhere(numbers, processes: processes) : [],
            holders: holders(numbers),
            isSwap: isSwap(numbers), openers: openers(numbers, processes: processes))
    }

    /// The numbers of all processes.
    static var processes: [String] {
        TextFile.names(in: "/proc").filter { $0.utf8.allSatisfy { (48...57).contains($0) } }
    }

    /// Where it is mounted, and what lies on top of it: what can be told quickly.
    static func quick(_ device: String) -> DeviceUse {
        guard let numbers = DiskNumbers(path: device) else { return DeviceUse() }
        return DeviceUse(
            mounts: MountTable.read().filter { numbers.contains($0) }.map(\.folder),
            holders: holders(numbers),
            isSwap: isSwap(numbers))
    }

    private static func mountsElsewhere(_ numbers: DiskNumbers, processes: [String]) -> [MountElsewhere] {
        MountElsewhere.tables(processes: processes).flatMap { $0.places(of: numbers) }
    }

    private static func holders(_ numbers: DiskNumbers) -> [String] {
        let above = numbers.devices.keys.flatMap { TextFile.names(in: "/sys/dev/block/\($0)/holders") }
        let loops = TextFile.names(in: "/sys/block").filter { name in
            guard name.hasPrefix("loop"),
                let file = TextFile.read("/sys/block/\(name)/loop/backing_file")?.split(separator: "\n")
                    .first,
                let number = DiskNumbers.number(inDev: String(file))
            else { return false }
            return numbers.devices[number] != nil
        }
        return Set(above + loops).sorted()
    }

    private static func isSwap(_ numbers: DiskNumbers) -> Bool {
        (TextFile.read("/proc/swaps") ?? "").split(separator: "\n").dropFirst().contains { line in
            guard let path = line.split(whereSeparator: { $0 == " " || $0 == "\t" }).first else {
                return false
            }
            return DiskNumbers.number(inDev: MountTable.unescape(path)).map { numbers.devices[$0] != nil }
                ?? false
        }
    }

    /// By the number of what each descriptor is, since the same device may have any number of names.
    private static func openers(_ numbers: DiskNumbers, processes: [String]) -> [String] {
        let own = "\(getpid())"
        return processes.filter { process in
            process != own
                && TextFile.names(in: "/proc/\(process)/fd").contains {
                    DiskNumbers.number("/proc/\(process)/fd/\($0)").map { numbers.devices[$0] != nil }
                        ?? false
                }
        }.map { process in
            "\(name(of: process)) (pid \(process))"
        }
    }

    fileprivate static func name(of process: String) -> String {
        let name = TextFile.read("/proc/\(process)/comm")?.split(separator: "\n").first
        return name.map(String.init) ?? "process"
    }

    /// What uses it, and how to end that; nil when nothing is known to.
    func reasons(for device: String) -> String? {
        var reasons: [String] = []
        for mount in mounts { reasons.append("mounted on \(mount); first run: sluice umount \(mount)") }
        reasons += mountsElsewhere.map(\.reason)
        if !holders.isEmpty { reasons.append("in use by the device \(holders.joined(separator: ", "))") }
        if isSwap { reasons.append("used as swap; first run: swapoff \(device)") }
        if !openers.isEmpty { reasons.append("open in \(openers.joined(separator: ", "))") }
        return reasons.isEmpty ? nil : reasons.joined(separator: "; and ")
    }

    /// The refusal to take the device away, which says how to make it possible.
    func refusal(of device: String) -> AttachError {
        let reasons =
            reasons(for: device)
            ?? "in use by something that /proc does not show here, such as a process in another container"
        return AttachError(.busy, "\(device) is still \(reasons)")
    }
}

/// A place where a device is mounted that this process does not see: in another mount namespace.
public struct MountElsewhere: Sendable, Hashable, Codable {
    /// The folder, as that namespace shows it.
    public var folder: String
    /// A process of that namespace, and its name.
    public var process: String
    /// The process's name.
    public var name: String

    /// Where that is, in words.
    public var place: String { "mounted on \(folder) in the mount namespace of \(name) (pid \(process))" }

    /// Why the device is used, and how to end that from here.
    var reason: String {
        "\(place); end that process, or run: nsenter -t \(process) -m umount \(folder)"
    }

    /// What is mounted in another mount namespace, as a process of it sees it.
    struct Table {
        let process: String
        let mounts: [MountPoint]

        func places(of numbers: DiskNumbers) -> [MountElsewhere] {
            mounts.filter(numbers.contains).map {
                MountElsewhere(folder: $0.folder, process: process, name: DeviceUse.name(of: process))
            }
        }
    }

    /// The mount tables of all namespaces but this process's own, as far as it may look.
    static func tables(processes: [String] = DeviceUse.processes) -> [Table] {
        var seen: Set<String> = [TextFile.link("/proc/self/ns/mnt") ?? ""]
        return processes.compactMap { process in
            guard let namespace = TextFile.link("/proc/\(process)/ns/mnt"), seen.insert(namespace).inserted
            else { return nil }
            return Table(process: process, mounts: MountTable.read(process: process))
        }
    }
}

extension DiskNumbers {
    /// Whether that is mounted: by its number, or by its path where the file system has a number of its own.
    func contains(_ mount: MountPoint) -> Bool {
        devices[mount.deviceNumber] != nil || devices.values.contains(mount.source)
    }
}
