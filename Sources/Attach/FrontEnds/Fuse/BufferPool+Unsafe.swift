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
    private var regions: [UnsafeMutableRawPointer] = unsafe []
    private var isFull = false

    /// One large buffer, which must hold a whole message of the kernel: enough where requests come through a ring.
    init(largeBytes: Int) {
        let page = Int(getpagesize())
        self.largeBytes = (largeBytes + page - 1) / page * page
        sizes = [AttachLimits.smallBufferBytes, AttachLimits.mediumBufferBytes, self.largeBytes]
        unsafe free = unsafe Array(repeating: [], count: sizes.count)
        add(kind: 2, count: 1)
    }

    /// Makes the buffers that requests through /dev/fuse need, once.
    func fill() {
        guard !isFull else { return }
        isFull = true
        let counts = [
            AttachLimits.smallBufferCount, AttachLimits.mediumBufferCount, AttachLimits.largeBufferCount - 1,
        ]
        for (kind, count) in counts.enumerated() { add(kind: kind, count: count) }
    }

    private func add(kind: Int, count: Int) {
        let bytes = sizes[kind]
        let region = UnsafeMutableRawPointer.allocate(byteCount: bytes * count, alignment: Int(getpagesize()))
        // Touched now: later a page fault could wait for the very write-back that this memory serves.
        unsafe memset(region, 0, bytes * count)
        unsafe regions.append(region)
        unsafe free[kind].append(contentsOf: (0..<count).reversed().map { unsafe region + $0 * bytes })
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
