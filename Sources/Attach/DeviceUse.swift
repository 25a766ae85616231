import CFUSE
import Core
import Glibc

/// What uses a block device of this machine.
public struct DeviceUse: Sendable, Hashable {
    /// The folders that it is mounted on; in another mount namespace with the process that shows it.
    public var mounts: [String]
    /// Devices on top of it (device mapper, RAID).
    public var holders: [String]
    /// It is swap space.
    public var isSwap: Bool
    /// Processes that have it open, as `name (pid 12)`.
    public var openers: [String]

    /// Nothing uses it.
    public var isNone: Bool { mounts.isEmpty && holders.isEmpty && !isSwap && openers.isEmpty }

    /// Whether it may end by itself in a moment.
    var mayPass: Bool { mounts.isEmpty && holders.isEmpty && !isSwap }

    /// Looks at the mount tables, /sys, the swap table and the open files of every process but this one.
    public static func of(_ device: String) -> DeviceUse {
        var status = stat()
        guard unsafe stat(device, &status) == 0 else {
            return DeviceUse(mounts: [], holders: [], isSwap: false, openers: [])
        }
        let number = "\(gnu_dev_major(status.st_rdev)):\(gnu_dev_minor(status.st_rdev))"
        let processes = TextFile.names(in: "/proc").filter { $0.utf8.allSatisfy { (48...57).contains($0) } }
        return DeviceUse(
            mounts: mounts(number, processes: processes),
            holders: TextFile.names(in: "/sys/dev/block/\(number)/holders").sorted(),
            isSwap: (TextFile.read("/proc/swaps") ?? "").split(separator: "\n").contains {
                $0.hasPrefix(device + " ") || $0.hasPrefix(device + "\t")
            },
            openers: openers(device, processes: processes))
    }

    private static func mounts(_ number: String, processes: [String]) -> [String] {
        let own = MountTable.read().filter { $0.deviceNumber == number }.map(\.folder)
        guard own.isEmpty else { return own }
        var seen: Set<String> = [TextFile.link("/proc/self/ns/mnt") ?? ""]
        var result: [String] = []
        for process in processes {
            guard let namespace = TextFile.link("/proc/\(process)/ns/mnt"), seen.insert(namespace).inserted
            else {
                continue
            }
            for mount in MountTable.read(process: process) where mount.deviceNumber == number {
                result.append("\(mount.folder) (in the mount namespace of pid \(process))")
            }
        }
        return result
    }

    private static func openers(_ device: String, processes: [String]) -> [String] {
        let own = "\(getpid())"
        return processes.filter { process in
            process != own
                && TextFile.names(in: "/proc/\(process)/fd").contains {
                    TextFile.link("/proc/\(process)/fd/\($0)") == device
                }
        }.map { process in
            let name = TextFile.read("/proc/\(process)/comm")?.split(separator: "\n").first.map(String.init)
            return "\(name ?? "process") (pid \(process))"
        }
    }

    /// The refusal to take the device away, which says how to make it possible.
    func refusal(of device: String) -> AttachError {
        var reasons: [String] = []
        for mount in mounts { reasons.append("mounted on \(mount); first run: sluice umount \(mount)") }
        if !holders.isEmpty { reasons.append("in use by the device \(holders.joined(separator: ", "))") }
        if isSwap { reasons.append("used as swap; first run: swapoff \(device)") }
        if !openers.isEmpty { reasons.append("open in \(openers.joined(separator: ", "))") }
        if reasons.isEmpty { reasons.append("in use; 'fuser -vm \(device)' may say by what") }
        return AttachError(.busy, "\(device) is still \(reasons.joined(separator: "; and "))")
    }
}
