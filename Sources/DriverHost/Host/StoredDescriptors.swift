import Core
import Glibc
import Reactor
import Synchronization

/// What a pool's hosts gave into the server's keeping. Any thread.
final class StoredDescriptors: Sendable {
    final class Entry: Sendable {
        let descriptor: FileDescriptor
        init(_ descriptor: consuming FileDescriptor) { self.descriptor = descriptor }
    }

    private let entries = Mutex<[String: Entry]>([:])

    /// Keeps a descriptor under a name; false when it is of a kind that no driver needs kept, or when there
    /// would be more than `most`.
    func keep(_ descriptor: consuming FileDescriptor, as name: String, most: Int) -> Bool {
        guard StoredDescriptors.isAllowed(descriptor.raw) else { return false }
        let entry = Entry(descriptor)
        return entries.withLock { entries in
            guard entries[name] != nil || entries.count < min(most, Limits.storedDescriptorsMax)
            else { return false }
            entries[name] = entry
            return true
        }
    }

    /// Files, memory, folders (for their locks) and block devices. Sockets and pipes would keep others open,
    /// such as the host's own lifeline.
    private static func isAllowed(_ descriptor: Int32) -> Bool {
        var status = stat()
        guard unsafe fstat(descriptor, &status) == 0 else { return false }
        return [S_IFREG, S_IFDIR, S_IFBLK].contains(status.st_mode & S_IFMT)
    }

    func forget(_ name: String) {
        _ = entries.withLock { $0.removeValue(forKey: name) }
    }

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
