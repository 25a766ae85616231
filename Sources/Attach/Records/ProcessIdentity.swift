import CFUSE
import Core
import Glibc

/// A process, told apart from a later one with the same number by when it started.
public struct ProcessIdentity: Sendable, Hashable, Codable {
    /// The process id.
    public var pid: Int32
    /// Clock ticks from the machine's start to the process's, from /proc/PID/stat; with the boot's id unique.
    public var startTicks: UInt64
    /// The boot that it belongs to, from /proc/sys/kernel/random/boot_id.
    public var boot: String

    /// The process of that number; nil when there is none.
    public init?(pid: Int32) {
        guard let ticks = Self.startTicks(pid: pid) else { return nil }
        self.pid = pid
        startTicks = ticks
        boot = Self.currentBoot
    }

    /// This process.
    public static var current: ProcessIdentity? { ProcessIdentity(pid: getpid()) }

    /// Whether the process still runs. One that has ended and was not waited for does not.
    public var isAlive: Bool { boot == Self.currentBoot && Self.startTicks(pid: pid) == startTicks }

    /// Whether it was stopped, by SIGSTOP or a debugger, and does nothing until it is continued.
    var isStopped: Bool {
        guard isAlive, let stat = TextFile.read("/proc/\(pid)/stat"), let end = stat.lastIndex(of: ")") else {
            return false
        }
        return ["T", "t"].contains(stat[stat.index(after: end)...].split(separator: " ").first ?? "")
    }

    /// What /proc/PID/status says under a name such as `VmRSS`, in bytes; nil when the process is gone.
    func memory(_ name: String) -> UInt64? {
        guard isAlive, let text = TextFile.read("/proc/\(pid)/status"),
            let line = text.split(separator: "\n").first(where: { $0.hasPrefix(name + ":") })
        else { return nil }
        return UInt64(line.filter(\.isNumber)).map { $0 << 10 }
    }

    /// This run of the machine.
    static var currentBoot: String {
        TextFile.read("/proc/sys/kernel/random/boot_id")?.split(separator: "\n").first.map(String.init) ?? ""
    }

    private static func startTicks(pid: Int32) -> UInt64? {
        TextFile.read("/proc/\(pid)/stat").flatMap(startTicks(stat:))
    }

    /// Field 22 of /proc/PID/stat; nil for a zombie. The name in field 2 may hold anything, so count from its
    /// end.
    static func startTicks(stat: String) -> UInt64? {
        guard let end = stat.lastIndex(of: ")") else { return nil }
        let fields = stat[stat.index(after: end)...].split(separator: " ")
        guard fields.count > 19, fields[0] != "Z", fields[0] != "X" else { return nil }
        return UInt64(fields[19])
    }

    /// Sends a signal; false when the process is gone.
    public func signal(_ number: Int32) -> Bool {
        let descriptor = sluice_attach_pidfd_open(pid)
        guard descriptor >= 0 else { return false }
        defer { close(descriptor) }
        // The descriptor now means one process for good: is it this one?
        guard isAlive else { return false }
        return sluice_attach_pidfd_signal(descriptor, number) == 0
    }

    /// Waits for the process's end; false when it still runs after the time.
    public func waitUntilEnded(milliseconds: Int32) -> Bool {
        let descriptor = sluice_attach_pidfd_open(pid)
        guard descriptor >= 0 else { return true }
        defer { close(descriptor) }
        guard isAlive else { return true }
        var entry = pollfd(fd: descriptor, events: Int16(POLLIN), revents: 0)
        while true {
            let result = unsafe poll(&entry, 1, milliseconds)
            if result < 0, errno == EINTR { continue }
            return result > 0
        }
    }
}
