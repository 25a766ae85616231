import Core
import DriverKit
import Glibc
import Reactor
import Synchronization

/// A block device that holds one volume; whose it is, and how long, is a small file in the pool's folder.
final class DeviceStore: FileStore {
    private let folder: PoolFolder
    private let path: String
    private let wantsDirect: Bool
    private let mayErase: Bool
    private let descriptor: FileDescriptor
    /// Opened at the start, for the same reason as the folder.
    private let unsynced: FileDescriptor
    private let blockSize: UInt32

    private static let record = "device-volume"
    private static let device = "device"

    init(
        folder: PoolFolder, path: String, direct: Bool, erase: Bool, store: any DescriptorStore
    ) throws(DriverError) {
        self.folder = folder
        self.path = path
        wantsDirect = direct
        mayErase = erase
        // O_EXCL gives the device to one open file: the pool's next process takes that file over.
        if let kept = try store.descriptor(DeviceStore.device), DeviceStore.isOpen(kept, path) {
            descriptor = kept
        } else {
            descriptor = try DeviceStore.openDevice(
                path, O_RDWR | O_EXCL | (direct ? BlockDevices.openDirect : 0))
        }
        guard BlockDevices.isBlockDevice(fd: descriptor.raw) else {
            throw DriverError(.badRequest, "the setting path names \(path), which is not a block device")
        }
        if !PoolFolder.lock(descriptor.raw) {
            throw DriverError(.busy, "another program uses \(path); stop it first")
        }
        do throws(ReactorError) {
            blockSize = max(512, try BlockDevices.logicalBlockSize(fd: descriptor.raw))
        } catch { throw DriverError(.ioError, "\(path): \(error)") }
        unsynced = try DeviceStore.openDevice(path, O_RDONLY)
        try store.keep(descriptor, as: DeviceStore.device)
    }

    let notes: [String] = []

    /// Whether the open file is the device that the path names now.
    private static func isOpen(_ descriptor: borrowing FileDescriptor, _ path: String) -> Bool {
        var ours = stat()
        var named = stat()
        return unsafe fstat(descriptor.raw, &ours) == 0 && stat(path, &named) == 0
            && ours.st_rdev == named.st_rdev
    }

    private static func openDevice(_ path: String, _ flags: Int32) throws(DriverError) -> FileDescriptor {
        var fd = unsafe Glibc.open(path, O_CLOEXEC | flags)
        // The last process to have it may be gone, and its file not yet.
        for _ in 0..<Limits.poolLockAttemptsMax where fd < 0 && errno == EBUSY {
            _ = poll(nil, 0, Limits.poolLockAttemptMilliseconds)
            fd = unsafe Glibc.open(path, O_CLOEXEC | flags)
        }
        if fd < 0 {
            if errno == EBUSY {
                throw DriverError(.busy, "\(path) is in use, perhaps mounted; unmount it first")
            }
            throw PoolFolder.failure(path, errno)
        }
        return FileDescriptor(owning: fd)
    }

    private func deviceSize() throws(DriverError) -> UInt64 {
        do throws(ReactorError) { return try BlockDevices.size(fd: descriptor.raw) } catch {
            throw DriverError(.ioError, "\(path): \(error)")
        }
    }

    /// The volume that the device holds.
    private func read() throws(DriverError) -> (id: Identifier, size: UInt64)? {
        guard folder.status(DeviceStore.record) != nil else { return nil }
        let file = try folder.open(DeviceStore.record, O_RDONLY)
        var bytes = [UInt8](repeating: 0, count: 128)
        let count = unsafe bytes.withUnsafeMutableBytes {
            unsafe Glibc.read(file.raw, $0.baseAddress, $0.count)
        }
        let words = String(decoding: bytes.prefix(max(0, count)), as: UTF8.self).split(
            whereSeparator: \.isWhitespace)
        guard words.count == 2, let id = Identifier(hex: String(words[0])), let size = UInt64(words[1]) else {
            throw DriverError(.ioError, "the file \(DeviceStore.record) in \(folder.path) is damaged")
        }
        return (id, size)
    }

    private func write(_ id: Identifier, _ size: UInt64) throws(DriverError) {
        let name = DeviceStore.record + ".new"
        let file = try folder.open(name, O_RDWR | O_CREAT | O_TRUNC)
        let text = [UInt8]("\(id.hex) \(size)\n".utf8)
        let written = unsafe text.withUnsafeBytes { unsafe Glibc.write(file.raw, $0.baseAddress, $0.count) }
        if written != text.count || fsync(file.raw) != 0 {
            throw PoolFolder.failure("the file \(name) in \(folder.path)", written < 0 ? errno : ENOSPC)
        }
        try folder.rename(name, to: DeviceStore.record)
        try folder.sync()
    }

    func create(_ id: Identifier, size: UInt64) throws(DriverError) {
        if let held = try read() {
            if held.id == id && held.size == size { return }
            throw DriverError(.noSpace, "\(path) holds the volume \(held.id); a device holds one volume")
        }
        let room = try deviceSize()
        if size > room { throw DriverError(.noSpace, "\(path) has \(room) bytes") }
        if !mayErase, try !isBlank() {
            throw DriverError(
                .alreadyExists,
                "\(path) holds data; wipe it (wipefs, blkdiscard) or set erase=true in the pool's settings")
        }
        do throws(ReactorError) {
            try BlockDevices.zeroOut(fd: descriptor.raw, offset: 0, length: room / 4096 * 4096)
        } catch { throw DriverError(.ioError, "\(path): \(error)") }
        try write(id, size)
    }

    /// Whether the first MiB, where file systems and partition tables are, reads as zeroes.
    private func isBlank() throws(DriverError) -> Bool {
        let memory = UnsafeMutableRawBufferPointer.allocate(byteCount: 1 << 20, alignment: 4096)
        defer { unsafe memory.deallocate() }
        let count = unsafe pread(descriptor.raw, memory.baseAddress, memory.count, 0)
        if count < 0 { throw PoolFolder.failure(path, errno) }
        return unsafe memory.prefix(count).allSatisfy { $0 == 0 }
    }

    func resize(_ id: Identifier, to size: UInt64) throws(DriverError) {
        let held = try held(id)
        if size < held { throw DriverError(.notSupported, "a volume cannot shrink: it has \(held) bytes") }
        let room = try deviceSize()
        if size > room { throw DriverError(.noSpace, "\(path) has \(room) bytes") }
        try write(id, size)
    }

    func delete(_ id: Identifier) throws(DriverError) {
        guard let held = try read(), held.id == id else { return }
        try folder.remove(DeviceStore.record)
        try folder.sync()
    }

    func volumes() throws(DriverError) -> [Identifier: UInt64] {
        guard let held = try read() else { return [:] }
        return [held.id: held.size]
    }

    func capacity() throws(DriverError) -> PoolCapacity {
        let total = try deviceSize()
        let used = min(total, try read()?.size ?? 0)
        return PoolCapacity(total: total, used: used, free: total - used)
    }

    func open(_ id: Identifier) throws(DriverError) -> OpenVolume {
        let size = try held(id)
        let own = try DeviceStore.duplicate(descriptor)
        return OpenVolume(id: id, descriptor: own, size: size, blockSize: blockSize, isDirect: wantsDirect)
    }

    func witness(_ id: Identifier) throws(DriverError) -> FileDescriptor {
        try DeviceStore.duplicate(unsynced)
    }

    private static func duplicate(
        _ descriptor: borrowing FileDescriptor
    ) throws(DriverError) -> FileDescriptor {
        do throws(ReactorError) { return try descriptor.duplicate() } catch {
            throw DriverError(.busy, "\(error)")
        }
    }

    private func held(_ id: Identifier) throws(DriverError) -> UInt64 {
        guard let held = try read(), held.id == id else {
            throw DriverError(.notFound, "there is no volume \(id) on \(path)")
        }
        return held.size
    }
}
