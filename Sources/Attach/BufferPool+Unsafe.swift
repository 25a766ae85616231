import Glibc

/// Page-aligned memory for requests, in three sizes, all of it there from the start.
///
/// One thread. `take` never allocates, so a device that is asked to write memory back never waits for memory.
@safe final class BufferPool {
    /// A buffer on loan; it goes back with `give`.
    @unsafe struct Lease {
        let bytes: UnsafeMutableRawPointer
        fileprivate let kind: Int
    }

    /// Bytes of a large buffer: a whole message of the kernel fits.
    let largeBytes: Int
    private let sizes: [Int]
    private var free: [[UnsafeMutableRawPointer]]
    private let regions: [UnsafeMutableRawPointer]

    /// Pools of the three sizes; `largeBytes` must hold a whole message of the kernel.
    init(largeBytes: Int, counts: (small: Int, medium: Int, large: Int)) {
        let page = Int(getpagesize())
        self.largeBytes = (largeBytes + page - 1) / page * page
        sizes = [AttachLimits.smallBufferBytes, AttachLimits.mediumBufferBytes, self.largeBytes]
        var regions: [UnsafeMutableRawPointer] = unsafe []
        var free: [[UnsafeMutableRawPointer]] = unsafe []
        for (bytes, count) in zip(sizes, [counts.small, counts.medium, counts.large]) {
            let region = UnsafeMutableRawPointer.allocate(byteCount: bytes * count, alignment: page)
            // Touched now: later a page fault could wait for the very write-back that this memory serves.
            unsafe memset(region, 0, bytes * count)
            unsafe regions.append(region)
            unsafe free.append((0..<count).reversed().map { unsafe region + $0 * bytes })
        }
        unsafe self.regions = unsafe regions
        unsafe self.free = unsafe free
    }

    deinit { unsafe regions.forEach { unsafe $0.deallocate() } }

    /// The smallest free buffer of at least `bytes`; nil when there is none now.
    func take(bytes: Int) -> Lease? {
        for kind in 0..<sizes.count where sizes[kind] >= bytes {
            if let buffer = unsafe free[kind].popLast() { return unsafe Lease(bytes: buffer, kind: kind) }
        }
        return nil
    }

    /// A large buffer; nil when there is none now.
    func takeLarge() -> Lease? { unsafe take(bytes: largeBytes) }

    /// Takes a buffer back.
    func give(_ lease: Lease) {
        unsafe free[lease.kind].append(lease.bytes)
    }
}
