import CSandbox
import Core
import Glibc
import Reactor
import Synchronization

/// What a pool's hosts gave into the server's keeping. Any thread.
final class StoredDescriptors: Sendable {
    final class Entry: Sendable {
        let descriptor: FileDescriptor
        /// The most memory that it can hold.
        let memoryBytes: UInt64

        init(_ descriptor: consuming FileDescriptor, memoryBytes: UInt64) {
            self.descriptor = descriptor
            self.memoryBytes = memoryBytes
        }
    }

    private let entries = Mutex<[String: Entry]>([:])

    /// What a pool's hosts may have kept.
    struct Allowance {
        /// Descriptors.
        var count = Limits.storedDescriptorsFree
        /// Bytes of memory, all together: what the volumes explain that the hosts were asked for.
        var memoryBytes: UInt64 = 0
    }

    /// Keeps a descriptor under a name; false when it is of a kind that no driver needs kept, or when there
    /// would be more than the allowance.
    func keep(_ descriptor: consuming FileDescriptor, as name: String, allowance: Allowance) -> Bool {
        guard let memory = StoredDescriptors.memoryBytes(descriptor.raw) else { return false }
        let entry = Entry(descriptor, memoryBytes: memory)
        return entries.withLock { entries in
            guard entries[name] != nil || entries.count < min(allowance.count, Limits.storedDescriptorsMax)
            else { return false }
            if memory > 0 {
                let sum = entries.reduce(memory) { sum, kept in
                    kept.key == name ? sum : sum.addingSaturated(kept.value.memoryBytes)
                }
                if sum > allowance.memoryBytes { return false }
            }
            entries[name] = entry
            return true
        }
    }

    /// How much memory a descriptor can hold: 0 for files, folders (for their locks) and block devices; nil for what is
    /// not kept. Sockets and pipes would keep others open, such as the host's own lifeline, and memory whose size is
    /// not sealed could grow afterwards.
    private static func memoryBytes(_ descriptor: Int32) -> UInt64? {
        var status = stat()
        guard unsafe fstat(descriptor, &status) == 0,
            [S_IFREG, S_IFDIR, S_IFBLK].contains(status.st_mode & S_IFMT)
        else { return nil }
        guard status.st_mode & S_IFMT == S_IFREG else { return 0 }
        let seals = fcntl(descriptor, Int32(SLUICE_GET_SEALS))
        // Only memory can be sealed at all; a file of a tmpfs cannot, and has a name that somebody sees.
        if seals < 0 || status.st_nlink > 0 { return 0 }
        let fixed = Int32(SLUICE_SEAL_GROW)
        return seals & fixed == fixed ? UInt64(clamping: status.st_size) : nil
    }

    func forget(_ name: String) {
        _ = entries.withLock { $0.removeValue(forKey: name) }
    }

    /// Closes all of them: their pool has ended, and nobody else is to find its device in use.
    func forgetAll() { entries.withLock { $0.removeAll() } }

    /// All of them, by name.
    var all: [(name: String, entry: Entry)] {
        entries.withLock { entries in entries.sorted { $0.key < $1.key }.map { ($0.key, $0.value) } }
    }

    /// The witnesses of open volumes, by index: descriptions of their files that nobody syncs.
    var witnesses: [(volume: UInt32, entry: Entry)] {
        all.compactMap { name, entry in
            guard name.hasPrefix("witness/"), let volume = UInt32(name.dropFirst("witness/".count)) else {
                return nil
            }
            return (volume, entry)
        }
    }
}
