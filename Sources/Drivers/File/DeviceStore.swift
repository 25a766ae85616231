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
    /// The device a second time, which is never synced. It is opened at the start, for the same reason as the folder.
    private let unsynced: FileDescriptor
    private let blockSize: UInt32

    private static let record = "device-volume"
    private static let device = "device"

    init(
        folder: PoolFolder, path: String, direct: Bool, erase: Bool, store: any DescriptorStore
    ) throws(StatusError) {
        self.folder = folder
        self.path = path
        wantsDirect = direct
        mayErase = erase
        descriptor = try DeviceStore.device(
            try store.descriptor(DeviceStore.device), path,
            O_RDWR | O_EXCL | (direct ? BlockDevices.openDirect : 0))
        guard BlockDevices.isBlockDevice(fd: descriptor.raw) else {
            throw StatusError(.badRequest, "the setting path names \(path), which is not a block device")
        }
        if !PoolFolder.lock(descriptor.raw) {
            throw StatusError(.busy, "another program uses \(path); stop it first")
        }
        do throws(ReactorError) {
            blockSize = max(512, try BlockDevices.logicalBlockSize(fd: descriptor.raw))
        } catch { throw StatusError(.ioError, "\(path): \(error)") }
        unsynced = try DeviceStore.openDevice(path, O_RDONLY)
        try store.keep(descriptor, as: DeviceStore.device)
        _ = try deviceSize()
    }

    let notes: [String] = []

    /// Whether the open file is the device that the path names now.
    private static func isOpen(_ descriptor: borrowing FileDescriptor, _ path: String) -> Bool {
        var ours = stat()
        var named = stat()
        return unsafe fstat(descriptor.raw, &ours) == 0 && stat(path, &named) == 0
            && ours.st_rdev == named.st_rdev
    }

    /// The open device. O_EXCL gives it to one open file: the pool's next process takes that file over. One without
    /// a disk behind it is opened anew, since the path may name the disk's successor.
    private static func device(
        _ kept: consuming FileDescriptor?, _ path: String, _ flags: Int32
    ) throws(StatusError) -> FileDescriptor {
        guard let kept, isOpen(kept, path) else { return try openDevice(path, flags) }
        if hasBytes(kept) { return kept }
        do throws(StatusError) { return try openDevice(path, flags) } catch { return kept }
    }

    private static func hasBytes(_ descriptor: borrowing FileDescriptor) -> Bool {
        do throws(ReactorError) { return try BlockDevices.size(fd: descriptor.raw) > 0 } catch {
            return false
        }
    }

    private static func openDevice(_ path: String, _ flags: Int32) throws(StatusError) -> FileDescriptor {
        var fd = unsafe Glibc.open(path, O_CLOEXEC | flags)
        // The process that had the device last may be gone while the kernel still has its open file.
        for _ in 0..<Limits.poolLockAttemptsMax where fd < 0 && errno == EBUSY {
            _ = poll(nil, 0, Limits.poolLockAttemptMilliseconds)
            fd = unsafe Glibc.open(path, O_CLOEXEC | flags)
        }
        if fd < 0 {
            if errno == EBUSY {
                throw StatusError(.busy, "\(path) is in use, perhaps mounted; unmount it first")
            }
            throw PoolFolder.failure(path, errno)
        }
        return FileDescriptor(owning: fd)
    }

    private func deviceSize() throws(StatusError) -> UInt64 {
        let size: UInt64
        do throws(ReactorError) { size = try BlockDevices.size(fd: descriptor.raw) } catch {
            throw StatusError(.ioError, "\(path): \(error)")
        }
        if size == 0 {
            throw StatusError(
                .driverFailed,
                "\(path) has no bytes: its disk is gone, or the device is bound to none; bring it back, then restart"
                    + " the pool")
        }
        return size
    }

    /// The volume that the device holds.
    private struct Held {
        var id: Identifier
        var size: UInt64
        /// Up to where the device was zeroed for it, in bytes: less than the size while it is being made.
        var zeroed: UInt64
    }

    private func read() throws(StatusError) -> Held? {
        guard let words = try folder.words(DeviceStore.record) else { return nil }
        guard (2...3).contains(words.count), let id = Identifier(hex: words[0]), let size = UInt64(words[1]),
            // Earlier versions zeroed the whole device at once.
            let zeroed = words.count == 3 ? UInt64(words[2]) : UInt64.max
        else {
            throw StatusError(.ioError, "the file \(DeviceStore.record) in \(folder.path) is damaged")
        }
        return Held(id: id, size: size, zeroed: zeroed)
    }

    private func write(_ held: Held) throws(StatusError) {
        try folder.write([held.id.hex, "\(held.size)", "\(held.zeroed)"], to: DeviceStore.record)
    }

    func create(_ id: Identifier, size: UInt64) throws(StatusError) {
        if let held = try read() {
            if held.id == id && held.size == size { return }
            throw StatusError(
                .notSupported,
                "\(path) holds a volume already, and a block device holds one. For several, make a file system on it"
                    + " and give a folder of that as path, or give each a device")
        }
        let room = try deviceSize()
        if size > room { throw tooSmall(room, for: size) }
        if !mayErase, try !isBlank(room) {
            throw StatusError(
                .alreadyExists,
                "\(path) holds data; wipe it (wipefs, blkdiscard) or set erase=true in the pool's settings")
        }
        try write(Held(id: id, size: size, zeroed: 0))
    }

    private func tooSmall(_ room: UInt64, for size: UInt64) -> StatusError {
        StatusError(
            .noSpace,
            "\(path) has \(ByteCount(room)), and the volume would have \(ByteCount(size)): take \(room) bytes or less, or"
                + " another pool")
    }

    /// Whether the device reads as zeroes where it is looked at: all of its first and last MiB, where file systems,
    /// partition tables and RAIDs have their marks, and places in between.
    private func isBlank(_ room: UInt64) throws(StatusError) -> Bool {
        let end = room / 4096 * 4096
        let edge = min(end, 1 << 20)
        if try !isBlank(at: 0, Int(edge)) { return false }
        if try !isBlank(at: end - edge, Int(edge)) { return false }
        for place in 1...Limits.blankPlaces {
            let at = end / (Limits.blankPlaces + 1) / 4096 * 4096 * place
            if try !isBlank(at: at, Int(min(UInt64(Limits.blankPlaceBytes), end - at))) { return false }
        }
        return true
    }

    private func isBlank(at offset: UInt64, _ count: Int) throws(StatusError) -> Bool {
        if count == 0 { return true }
        let memory = UnsafeMutableRawBufferPointer.allocate(byteCount: count, alignment: 4096)
        defer { unsafe memory.deallocate() }
        let found = unsafe pread(descriptor.raw, memory.baseAddress, count, off_t(offset))
        if found < 0 { throw PoolFolder.failure(path, errno) }
        guard found == count else { throw StatusError(.ioError, "\(path) cannot be read at \(offset)") }
        return unsafe memory.allSatisfy { $0 == 0 }
    }

    func prepare(_ id: Identifier, to size: UInt64) throws(StatusError) -> UInt64 {
        var held = try held(id)
        guard held.zeroed < size else { return 0 }
        let room = try deviceSize()
        if size > room { throw tooSmall(room, for: size) }
        let end = SystemClock.monotonic() + Limits.deviceZeroNanoseconds
        repeat {
            let count = min(Limits.deviceZeroPieceBytes, size - held.zeroed)
            do throws(ReactorError) {
                try BlockDevices.zeroOut(fd: descriptor.raw, offset: held.zeroed, length: count)
            } catch { throw StatusError(.ioError, "\(path): \(error)") }
            held.zeroed += count
        } while held.zeroed < size && SystemClock.monotonic() < end
        // Zeroes that a power failure takes back must not count.
        if fsync(descriptor.raw) != 0 { throw PoolFolder.failure(path, errno) }
        try write(held)
        return size - held.zeroed
    }

    func resize(_ id: Identifier, to size: UInt64) throws(StatusError) {
        var held = try held(id)
        if size < held.size {
            throw StatusError(.notSupported, "a volume cannot shrink: it has \(held.size) bytes")
        }
        let room = try deviceSize()
        if size > room { throw tooSmall(room, for: size) }
        while try prepare(id, to: size) > 0 {}
        held = try self.held(id)
        held.size = size
        try write(held)
    }

    func delete(_ id: Identifier) throws(StatusError) {
        guard let held = try read(), held.id == id else { return }
        try folder.remove(DeviceStore.record)
        try folder.sync()
    }

    func volumes() throws(StatusError) -> [Identifier: UInt64] {
        guard let held = try read() else { return [:] }
        return [held.id: held.size]
    }

    func capacity() throws(StatusError) -> PoolCapacity {
        let total = try deviceSize()
        let used = min(total, try read()?.size ?? 0)
        return PoolCapacity(total: total, used: used, free: total - used)
    }

    func usage() throws(StatusError) -> [Identifier: UInt64] { try volumes() }

    /// The volume has its device for itself.
    func freeBytes() -> UInt64? { nil }

    func open(_ id: Identifier) throws(StatusError) -> OpenVolume {
        let held = try held(id)
        _ = try deviceSize()
        guard held.zeroed >= held.size else {
            throw StatusError(
                .busy, "the volume is being made: \(held.zeroed) of \(held.size) bytes of \(path) are zeroed")
        }
        let own = try DeviceStore.duplicate(descriptor)
        return OpenVolume(
            id: id, descriptor: own, size: held.size, blockSize: blockSize, isDirect: wantsDirect)
    }

    func witness(_ id: Identifier) throws(StatusError) -> FileDescriptor {
        try DeviceStore.duplicate(unsynced)
    }

    private static func duplicate(
        _ descriptor: borrowing FileDescriptor
    ) throws(StatusError) -> FileDescriptor {
        do throws(ReactorError) { return try descriptor.duplicate() } catch {
            throw StatusError(.busy, "\(error)")
        }
    }

    private func held(_ id: Identifier) throws(StatusError) -> Held {
        guard let held = try read(), held.id == id else {
            throw StatusError(.notFound, "there is no volume \(id) on \(path)")
        }
        return held
    }
}
