import Core
import DriverKit
import Glibc
import Reactor
import Synchronization

/// A sparse file for each volume; its name is the volume's id in hex.
final class FolderStore: FileStore {
    private let folder: PoolFolder
    private let wantsDirect: Bool
    private let locksVolumes: Bool
    /// Volumes that nothing of an earlier server touches any more.
    private let atRest = Mutex<Set<Identifier>>([])
    let notes: [String]

    /// - Parameter locksVolumes: whether each open volume is locked too: in the server itself, nothing else holds a
    ///   lock for as long as I/O goes on that a killed server has left in the kernel.
    init(folder: PoolFolder, direct: Bool, locksVolumes: Bool) throws(StatusError) {
        self.folder = folder
        self.locksVolumes = locksVolumes
        wantsDirect = direct
        let strange = try FolderStore.clean(folder)
        var notes: [String] = []
        if direct, !strange.contains(FolderStore.probe), try FolderStore.lacksDirect(folder) {
            notes.append(
                "The file system of \(folder.path) has no direct I/O: volumes go through the page cache."
                    + " Set direct=false to say that this is wanted.")
        }
        if !strange.isEmpty {
            let told = strange.prefix(Limits.strangeNamesTold).joined(separator: ", ")
            notes.append(
                "\(strange.count) names in \(folder.path) are no files of the pool and are left alone: \(told)."
                    + " Remove them.")
        }
        self.notes = notes
    }

    private static let probe = "probe" + unfinished

    /// Removes what a crash left; returns the names of what is where a file of the pool would be and is none.
    private static func clean(_ folder: PoolFolder) throws(StatusError) -> [String] {
        var strange: [String] = []
        for name in try folder.names() {
            let isUnfinished = name.hasSuffix(unfinished)
            guard isUnfinished || Identifier(hex: name)?.hex == name, let status = try folder.status(name)
            else { continue }
            if isUnfinished, status.st_mode & S_IFMT != S_IFDIR {
                try folder.remove(name)
            } else if !PoolFolder.isOwn(status) {
                strange.append(name)
            }
        }
        return strange.sorted()
    }

    /// Whether the file system has no direct I/O. One without room for a file cannot be asked, and must be started from
    /// all the same: it is the pool whose volumes have to be deleted.
    private static func lacksDirect(_ folder: PoolFolder) throws(StatusError) -> Bool {
        do throws(StatusError) {
            _ = try folder.open(probe, O_RDWR | O_CREAT | O_TRUNC)
        } catch {
            if error.status == .noSpace { return false }
            throw error
        }
        defer { try? folder.remove(probe) }
        return directBlockSize(try? folder.open(probe, O_RDWR | BlockDevices.openDirect)) == nil
    }

    /// Ends the names of files that are not volumes yet; what is left of them after a crash is removed.
    private static let unfinished = ".new"

    /// The block size of direct I/O on an open file; nil: it has none.
    private static func directBlockSize(_ file: consuming FileDescriptor?) -> UInt32? {
        guard let file else { return nil }
        return blockSize(file.raw)
    }

    private static func blockSize(_ fd: Int32) -> UInt32? {
        guard let alignment = BlockDevices.directAlignment(fd: fd) else { return 4096 }
        if alignment.offset == 0 { return nil }
        let size = max(512, alignment.offset, alignment.memory)
        return size.nonzeroBitCount == 1 && size <= 4096 ? size : nil
    }

    func create(_ id: Identifier, size: UInt64) throws(StatusError) {
        if let existing = try folder.status(id.hex) {
            guard PoolFolder.isOwn(existing) else {
                throw StatusError(.alreadyExists, "\(id) in \(folder.path) is no file of the pool")
            }
            if UInt64(existing.st_size) == size { return }
            throw StatusError(.alreadyExists, "the volume \(id) exists with \(existing.st_size) bytes")
        }
        let name = id.hex + FolderStore.unfinished
        do throws(StatusError) {
            let file = try folder.open(name, O_RDWR | O_CREAT | O_TRUNC)
            try setSize(file.raw, id, size)
            try folder.rename(name, to: id.hex)
            try folder.sync()
        } catch {
            try? folder.remove(name)
            throw error
        }
    }

    func resize(_ id: Identifier, to size: UInt64) throws(StatusError) {
        let file = try existing(id, O_RDWR)
        let now = try sizeOf(file.raw, id)
        if size < now { throw StatusError(.notSupported, "a volume cannot shrink: it has \(now) bytes") }
        try setSize(file.raw, id, size)
    }

    func delete(_ id: Identifier) throws(StatusError) {
        try folder.remove(id.hex)
        try folder.sync()
    }

    func volumes() throws(StatusError) -> [Identifier: UInt64] {
        try files().mapValues { UInt64($0.st_size) }
    }

    /// The volumes' files.
    private func files() throws(StatusError) -> [Identifier: stat] {
        var found: [Identifier: stat] = [:]
        for name in try folder.names() {
            guard let id = Identifier(hex: name), id.hex == name, let status = try folder.status(name),
                PoolFolder.isOwn(status)
            else { continue }
            found[id] = status
        }
        return found
    }

    func capacity() throws(StatusError) -> PoolCapacity {
        let space = try folder.space()
        let used = try usage().values.reduce(0, +)
        return PoolCapacity(total: space.total, used: used, free: space.free)
    }

    func usage() throws(StatusError) -> [Identifier: UInt64] {
        try files().mapValues { UInt64($0.st_blocks) * 512 }
    }

    func prepare(_ id: Identifier, to size: UInt64) throws(StatusError) -> UInt64 { 0 }

    /// A file system that does not say how full it is says so when it is written to.
    func freeBytes() -> UInt64? {
        guard let space = try? folder.space(), space.total > 0 else { return nil }
        return space.free
    }

    func open(_ id: Identifier) throws(StatusError) -> OpenVolume {
        if wantsDirect {
            do throws(StatusError) {
                let file = try existing(id, O_RDWR | BlockDevices.openDirect)
                try lock(file.raw, id)
                if let block = FolderStore.blockSize(file.raw) {
                    let size = try sizeOf(file.raw, id)
                    return OpenVolume(id: id, descriptor: file, size: size, blockSize: block, isDirect: true)
                }
            } catch {
                // EINVAL is what a file system without direct I/O answers.
                if error.status != .badRequest { throw error }
            }
        }
        let file = try existing(id, O_RDWR)
        try lock(file.raw, id)
        let size = try sizeOf(file.raw, id)
        return OpenVolume(id: id, descriptor: file, size: size, blockSize: 512, isDirect: false)
    }

    /// Holds a lock for as long as the open file, or I/O on it, is there; the first time, once nobody else holds it. This
    /// process may have several open files of a volume.
    private func lock(_ fd: Int32, _ id: Identifier) throws(StatusError) {
        guard locksVolumes else { return }
        if !(atRest.withLock { $0.contains(id) }) {
            guard PoolFolder.lock(fd) else {
                throw StatusError(.busy, "I/O of the server before this one goes on in the volume; try again")
            }
            _ = atRest.withLock { $0.insert(id) }
        }
        if flock(fd, LOCK_SH) != 0 { throw PoolFolder.failure("the lock of volume \(id)", errno) }
    }

    func witness(_ id: Identifier) throws(StatusError) -> FileDescriptor { try existing(id, O_RDONLY) }

    private func existing(_ id: Identifier, _ flags: Int32) throws(StatusError) -> FileDescriptor {
        do throws(StatusError) { return try folder.open(id.hex, flags) } catch {
            if error.status == .notFound {
                throw StatusError(.notFound, "there is no volume \(id) in \(folder.path)")
            }
            throw error
        }
    }

    private func sizeOf(_ fd: Int32, _ id: Identifier) throws(StatusError) -> UInt64 {
        var status = stat()
        if unsafe fstat(fd, &status) != 0 { throw PoolFolder.failure("the volume \(id)", errno) }
        return UInt64(status.st_size)
    }

    private func setSize(_ fd: Int32, _ id: Identifier, _ size: UInt64) throws(StatusError) {
        if ftruncate(fd, off_t(size)) != 0 || fsync(fd) != 0 {
            if errno == EFBIG {
                throw StatusError(
                    .tooLarge,
                    "the file system of \(folder.path) takes no file of \(ByteCount(size)) (ext4: at most 16 TiB): take less, or"
                        + " a pool on a file system or device that has it")
            }
            throw PoolFolder.failure("the volume \(id)", errno)
        }
    }
}
