import CURing
import Core
import Glibc

// SAFETY: the mappings live as long as the reactor, and every buffer number is checked before it becomes an
// address.
/// The buffers that multishot receives fill: one region, lent to the kernel through a provided-buffer ring. Before each lies
/// room that the kernel never fills: whoever has kept the beginning of something puts it there, so that it is in one piece
/// with what has arrived.
@safe struct ReceiveBuffers {
    static let group: UInt16 = 1

    private let ring: UnsafeMutableRawPointer
    private let ringBytes: Int
    private let base: UnsafeMutableRawPointer
    let bufferBytes: Int
    /// From one buffer to the next.
    private let stride: Int
    let bufferCount: Int
    /// Buffers that the kernel may take now.
    private(set) var available: Int

    init(ring io: UnsafeMutablePointer<io_uring>, bytes: Int, count: Int) throws(ReactorError) {
        bufferBytes = bytes
        stride = Limits.receiveHeadroomBytes + bytes
        bufferCount = count
        ringBytes = (count * MemoryLayout<io_uring_buf>.stride + 4095) & ~4095
        unsafe ring = try unsafe ReceiveBuffers.map(ringBytes)
        do {
            unsafe base = try unsafe ReceiveBuffers.map(stride * count)
        } catch {
            unsafe munmap(ring, ringBytes)
            throw error
        }
        available = 0
        let result = unsafe sluice_register_receive_ring(io, ring, UInt32(count), ReceiveBuffers.group)
        if result < 0 {
            unmap()
            switch -result {
            case EINVAL: throw .kernelTooOld(missing: "provided-buffer rings")
            case ENOMEM: throw .lockedMemory
            default: throw .system(call: "io_uring_register(PBUF_RING)", errno: -result)
            }
        }
        for index in 0..<count { give(UInt16(index)) }
    }

    private static func map(_ bytes: Int) throws(ReactorError) -> UnsafeMutableRawPointer {
        let flags = MAP_PRIVATE | MAP_ANONYMOUS
        guard let memory = unsafe mmap(nil, bytes, PROT_READ | PROT_WRITE, flags, -1, 0),
            unsafe memory != MAP_FAILED
        else {
            throw .system(call: "mmap", errno: errno)
        }
        return unsafe memory
    }

    /// Gives the memory back to the system; only when the kernel's ring is gone.
    func unmap() {
        unsafe munmap(base, stride * bufferCount)
        unsafe munmap(ring, ringBytes)
    }

    /// The kernel took one.
    @inline(__always)
    mutating func taken() { available &-= 1 }

    /// Lends a buffer to the kernel.
    @inline(__always)
    mutating func give(_ id: UInt16) {
        unsafe sluice_receive_ring_add(ring, address(id), UInt32(bufferBytes), id, Int32(bufferCount - 1))
        available &+= 1
    }

    @inline(__always)
    func address(_ id: UInt16) -> UnsafeMutableRawPointer {
        precondition(Int(id) < bufferCount, "not a receive buffer of this reactor")
        return unsafe base + Int(id) * stride + Limits.receiveHeadroomBytes
    }
}
