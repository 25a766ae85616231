import CURing
import Glibc

/// This process's memory, which holds keys.
public enum ProcessMemory {
    /// Has no core file made of it, and no other process of its user read it or trace it (`prctl(2)`, PR_SET_DUMPABLE;
    /// `core(5)`). Only root can then. The first thing in `main`; programs that are started later are not concerned, but
    /// for their limit of core files.
    ///
    /// /proc/self belongs to root from then on: what an ordinary user's process writes there comes before.
    public static func keepPrivate() { sluice_keep_memory_private() }

    /// Has what is large go back to the system when it is freed. Before other threads begin.
    public static func returnLargePieces() { sluice_return_large_memory() }

    /// Gives back what is free in pieces that are not large; whether there was any. Whoever allocates meanwhile waits for
    /// milliseconds.
    @discardableResult
    public static func returnFree() -> Bool { sluice_return_memory() != 0 }

    /// How many bytes this process has in memory for itself alone (`proc_pid_statm(5)`); nil where that is not known.
    public static var ownBytes: UInt64? {
        let descriptor = unsafe open("/proc/self/statm", O_RDONLY | O_CLOEXEC)
        guard descriptor >= 0 else { return nil }
        let file = FileDescriptor(owning: descriptor)
        var bytes = [UInt8](repeating: 0, count: 128)
        let count = unsafe read(file.raw, &bytes, bytes.count)
        guard count > 0 else { return nil }
        let numbers = bytes[..<count].split(separator: UInt8(ascii: " ")).prefix(3)
            .compactMap { UInt64(String(decoding: $0, as: UTF8.self)) }
        guard numbers.count == 3, numbers[1] >= numbers[2] else { return nil }
        return (numbers[1] - numbers[2]) * UInt64(sysconf(Int32(_SC_PAGESIZE)))
    }
}

/// When a process that was flooded gives back the memory that it has freed: glibc keeps what lies between pieces that are in
/// use. A value without I/O.
public struct MemoryReturn: Sendable {
    /// The least that it had, since it began, in bytes.
    private var least = UInt64.max
    /// What was left when it was given back last, in bytes.
    private var left: UInt64 = 0
    /// How many looks are left out.
    private var pause = 0
    private var pauseNext = 0

    /// What it may have above the least, in bytes.
    public static let toleratedBytes: UInt64 = 16 << 20
    /// The most looks that are left out, where what it has above the least is in use. It may be free at any time after.
    public static let pausesMax = 30

    /// Nothing is known yet.
    public init() {}

    /// Whether it is time to give back, with so many bytes in memory.
    public mutating func isDue(_ own: UInt64) -> Bool {
        least = min(least, own)
        let isPausing = pause > 0
        if isPausing { pause -= 1 }
        guard own - least > Self.toleratedBytes else { return false }
        // Another flood does not wait.
        return !isPausing || own > left + left / 4 + Self.toleratedBytes
    }

    /// Notes what is left in memory after it was given back.
    public mutating func returned(from before: UInt64, to now: UInt64) {
        // What is in use is looked at less and less often.
        let isWorthIt = before > now + max(Self.toleratedBytes / 4, before / 16)
        pauseNext = isWorthIt ? 0 : min(max(1, 2 * pauseNext), Self.pausesMax)
        pause = pauseNext
        left = now
        least = min(least, now)
    }
}
