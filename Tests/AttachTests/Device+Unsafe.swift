import Glibc

@testable import Attach

/// Direct reads and writes of a device or file, past the page cache.
enum Device {
    static func read(_ path: String, count: Int, at offset: UInt64) throws -> [UInt8] {
        let descriptor = try open(path, O_RDONLY)
        defer { close(descriptor) }
        let memory = UnsafeMutableRawPointer.allocate(byteCount: count, alignment: 4096)
        defer { unsafe memory.deallocate() }
        guard unsafe pread(descriptor, memory, count, off_t(offset)) == count else {
            throw AttachError.system(errno, "read of \(path)")
        }
        return unsafe Array(UnsafeRawBufferPointer(start: memory, count: count))
    }

    static func write(_ path: String, _ bytes: [UInt8], at offset: UInt64) throws {
        let descriptor = try open(path, O_RDWR)
        defer { close(descriptor) }
        let memory = UnsafeMutableRawPointer.allocate(byteCount: bytes.count, alignment: 4096)
        defer { unsafe memory.deallocate() }
        unsafe memory.copyMemory(from: bytes, byteCount: bytes.count)
        guard unsafe pwrite(descriptor, memory, bytes.count, off_t(offset)) == bytes.count else {
            throw AttachError.system(errno, "write of \(path)")
        }
    }

    static func sync(_ path: String) throws {
        let descriptor = try open(path, O_RDWR)
        defer { close(descriptor) }
        guard fsync(descriptor) == 0 else { throw AttachError.system(errno, "fsync of \(path)") }
    }

    static func size(_ path: String) throws -> UInt64 {
        let descriptor = try open(path, O_RDONLY)
        defer { close(descriptor) }
        return UInt64(lseek(descriptor, 0, SEEK_END))
    }

    private static func open(_ path: String, _ flags: Int32) throws -> Int32 {
        // O_DIRECT, which Swift's Glibc does not have.
        let descriptor = unsafe Glibc.open(path, flags | 0o40000 | O_CLOEXEC)
        guard descriptor >= 0 else { throw AttachError.system(errno, "open of \(path)") }
        return descriptor
    }
}
