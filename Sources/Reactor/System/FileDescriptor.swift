import CURing
import Glibc

/// An open file description of its own, closed when it goes out of scope.
public struct FileDescriptor: ~Copyable, Sendable {
    /// The number; valid as long as this value.
    public let raw: Int32

    /// Takes over an open descriptor.
    public init(owning raw: Int32) {
        self.raw = raw
    }

    deinit {
        _ = Glibc.close(raw)
    }

    /// Closes it and says when the kernel had an error to report, as `close(2)` may for files on a network.
    public consuming func close() throws(ReactorError) {
        let raw = take()
        if Glibc.close(raw) != 0 { throw .system(call: "close", errno: errno) }
    }

    /// Hands the descriptor over to the caller.
    public consuming func take() -> Int32 {
        let raw = raw
        discard self
        return raw
    }

    /// A second descriptor of the same open file.
    public borrowing func duplicate() throws(ReactorError) -> FileDescriptor {
        FileDescriptor(owning: try checked("dup", fcntl(raw, F_DUPFD_CLOEXEC, 0)))
    }
}

// SAFETY: the address and size never change; who may touch the bytes when is the protocol of its users.
/// Memory that can be mapped into another process: a memfd of fixed size and its mapping here.
@safe public struct SharedMemory: ~Copyable, @unchecked Sendable {
    /// Where it is mapped; page aligned.
    public let base: UnsafeMutableRawPointer
    /// Its size in bytes, a multiple of the page size.
    public let bytes: Int
    /// The memfd; its size is sealed.
    public let descriptor: FileDescriptor

    /// Makes zeroed memory, rounded up to whole pages. Pages take space when first touched.
    public init(name: String, bytes: Int) throws(ReactorError) {
        let rounded = (bytes + 4095) & ~4095
        let descriptor = unsafe FileDescriptor(owning: try checked("memfd_create", sluice_memfd_create(name)))
        _ = try checked("ftruncate", ftruncate(descriptor.raw, off_t(rounded)))
        _ = try checked("fcntl(F_ADD_SEALS)", sluice_memfd_seal_size(descriptor.raw))
        try self.init(mapping: descriptor, bytes: rounded)
    }

    /// Maps memory that another process made; `bytes` must not be more than its size.
    public init(mapping descriptor: consuming FileDescriptor, bytes: Int) throws(ReactorError) {
        var status = stat()
        _ = try unsafe checked("fstat", fstat(descriptor.raw, &status))
        if bytes <= 0 || off_t(bytes) > status.st_size { throw .system(call: "mmap", errno: EINVAL) }
        guard let memory = unsafe mmap(nil, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, descriptor.raw, 0),
            unsafe memory != MAP_FAILED
        else { throw .system(call: "mmap", errno: errno) }
        unsafe base = unsafe memory
        self.bytes = bytes
        self.descriptor = descriptor
    }

    deinit {
        unsafe munmap(base, bytes)
    }
}
