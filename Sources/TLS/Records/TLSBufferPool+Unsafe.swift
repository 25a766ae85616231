/// Recycles the memory of outgoing ciphertext. One pool per thread, shared by its connections, makes
/// sending free of allocations, and lets idle connections hold no buffer at all.
///
/// Confined to one thread.
@safe
public final class TLSBufferPool {
    /// The smallest buffer, 4 KiB; each class above it is twice as large.
    static let smallestBytes = 4096
    private static let classCount = 11

    private let retainedBytesMax: Int
    private var retainedBytes = 0
    private var free: [[UnsafeMutableRawPointer]]

    /// Makes a pool that keeps at most `retainedBytesMax` bytes of unused memory; what exceeds it is freed.
    public init(retainedBytesMax: Int = 8 << 20) {
        self.retainedBytesMax = retainedBytesMax
        unsafe free = Array(repeating: [], count: Self.classCount)
    }

    deinit {
        unsafe free.joined().forEach { unsafe $0.deallocate() }
    }

    /// Memory of at least `count` bytes; its size is returned too.
    func take(_ count: Int) -> UnsafeMutableRawBufferPointer {
        let index = Self.classIndex(count)
        let size = Self.smallestBytes << index
        guard index < Self.classCount, let base = unsafe free[index].popLast() else {
            return .allocate(byteCount: size, alignment: 16)
        }
        retainedBytes -= size
        return unsafe UnsafeMutableRawBufferPointer(start: base, count: size)
    }

    /// Takes back memory that `take` gave, on this thread or another pool's.
    func give(_ buffer: UnsafeMutableRawBufferPointer) {
        guard let base = buffer.baseAddress else { return }
        let index = Self.classIndex(buffer.count)
        guard index < Self.classCount, retainedBytes + buffer.count <= retainedBytesMax else {
            unsafe base.deallocate()
            return
        }
        retainedBytes += buffer.count
        unsafe free[index].append(base)
    }

    /// The class of the smallest buffer that holds `count` bytes.
    private static func classIndex(_ count: Int) -> Int {
        let units = (max(count, 1) - 1) / smallestBytes
        return units == 0 ? 0 : Int.bitWidth - units.leadingZeroBitCount
    }
}

/// Ciphertext that was taken out of a connection to be sent, with the memory that it lies in.
///
/// The memory stays where it is until the buffer is given back or dropped, so a send in flight may use it.
@safe
public struct OutputBuffer: ~Copyable {
    private let memory: UnsafeMutableRawBufferPointer
    private var start: Int
    private let end: Int

    init(memory: UnsafeMutableRawBufferPointer, start: Int, end: Int) {
        unsafe self.memory = unsafe memory
        self.start = start
        self.end = end
    }

    deinit {
        unsafe memory.deallocate()
    }

    /// The bytes that are still to be sent. Valid as long as this buffer lives.
    public var bytes: UnsafeRawBufferPointer {
        unsafe UnsafeRawBufferPointer(rebasing: memory[start..<end])
    }

    /// How many bytes are still to be sent.
    public var count: Int { end - start }

    /// Notes that the first `count` of `bytes` have been sent.
    public mutating func consume(_ count: Int) {
        precondition(count >= 0 && count <= end - start, "more consumed than was pending")
        start += count
    }

    /// Hands the memory over to the pool.
    consuming func release(to pool: TLSBufferPool) {
        unsafe pool.give(memory)
        discard self
    }
}
