import CURing
import Core
import Glibc

/// Names memory that a reactor's ring knows, from `fix(_:)` to `unfix(_:)`.
@frozen
public struct FixedBuffer: Sendable, Hashable {
    /// Its place in the ring's table.
    let index: UInt16
}

/// Memory that the ring knows (`io_uring_register_buffers(3)`): I/O past the page cache neither looks up nor
/// pins its pages each time.
extension Reactor {
    /// Makes the ring know memory. Its pages are allocated and pinned, also for a while after the process has
    /// been killed; that takes 1 to 2.5 us a page.
    ///
    /// The memory must stay mapped until `unfix(_:)`; at most `Limits.fixedBufferBytesMax` bytes. On the
    /// reactor's thread, or before it runs on the one that made it.
    ///
    /// - Returns: nil where the kernel does not allow it: use the memory without. Rings that were made with
    /// CAP_IPC_LOCK have no limit, others that of RLIMIT_MEMLOCK.
    public func fix(_ memory: UnsafeMutableRawBufferPointer) -> FixedBuffer? {
        precondition(
            memory.count > 0 && memory.count <= Limits.fixedBufferBytesMax, "not the size of a fixed buffer")
        if unsafe !state.pointee.fixedPlaces.hasTable {
            let made = unsafe sluice_ring_make_buffer_table(ring, UInt32(Limits.fixedBuffersMax))
            if made < 0 { return nil }
            unsafe state.pointee.fixedPlaces.hasTable = true
        }
        guard let index = unsafe state.pointee.fixedPlaces.take() else { return nil }
        let result = unsafe sluice_ring_set_buffer(ring, UInt32(index), memory.baseAddress, memory.count)
        if result == 1 { return FixedBuffer(index: index) }
        unsafe state.pointee.fixedPlaces.give(index)
        return nil
    }

    /// Ends what `fix(_:)` began. Operations that use the buffer and were submitted complete as if it were
    /// there; those that were prepared in this turn may fail with -EFAULT.
    public func unfix(_ buffer: FixedBuffer) {
        let result = unsafe sluice_ring_set_buffer(ring, UInt32(buffer.index), nil, 0)
        precondition(result == 1, "a buffer was not fixed, or on another thread")
        unsafe state.pointee.fixedPlaces.give(buffer.index)
    }
}

/// Places of a ring's table of buffers.
struct FixedPlaces {
    var hasTable = false
    private var used: UInt16 = 0
    private var free: [UInt16] = []

    mutating func take() -> UInt16? {
        if let index = free.popLast() { return index }
        guard Int(used) < Limits.fixedBuffersMax else { return nil }
        used += 1
        return used - 1
    }

    mutating func give(_ index: UInt16) { free.append(index) }
}
