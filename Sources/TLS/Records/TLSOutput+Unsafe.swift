/// The ciphertext that a connection wants to have sent, in one growing region.
///
/// Confined to its connection's thread. When it is empty it holds no memory.
@safe
public final class TLSOutput {
    private let pool: TLSBufferPool
    private var memory = unsafe UnsafeMutableRawBufferPointer(start: nil, count: 0)
    private var start = 0
    private var end = 0

    init(pool: TLSBufferPool) {
        self.pool = pool
    }

    deinit {
        unsafe pool.give(memory)
    }

    /// How many bytes wait to be sent.
    public var pendingBytes: Int { end - start }

    /// Calls `body` with the bytes that wait; they must not be used after it returns.
    public func withPending<Result, Failure: Error>(
        _ body: (UnsafeRawBufferPointer) throws(Failure) -> Result
    ) throws(Failure) -> Result {
        try unsafe body(UnsafeRawBufferPointer(rebasing: memory[start..<end]))
    }

    /// Notes that the first `count` pending bytes have been sent.
    public func consumed(_ count: Int) {
        precondition(count >= 0 && count <= end - start, "more consumed than was pending")
        start += count
        if start == end { dropMemory() }
    }

    /// Takes all pending bytes with their memory, for a send that outlives this call; empty when none wait.
    /// What the connection writes next goes to other memory.
    public func take() -> OutputBuffer {
        let taken = unsafe OutputBuffer(memory: memory, start: start, end: end)
        unsafe memory = unsafe UnsafeMutableRawBufferPointer(start: nil, count: 0)
        start = 0
        end = 0
        return taken
    }

    /// Returns a buffer whose bytes have been sent, to be used again.
    public func giveBack(_ buffer: consuming OutputBuffer) {
        buffer.release(to: pool)
    }

    /// Has memory for `count` bytes, so that it need not be grown, and copied, as they come.
    func prepare(_ count: Int) { _ = unsafe reserve(count) }

    /// Gives back memory that holds nothing.
    func dropUnused() { if start == end { dropMemory() } }

    /// Where the next bytes may be written: at least `count` bytes long. `append` makes them pending.
    func reserve(_ count: Int) -> UnsafeMutableRawBufferPointer {
        if unsafe memory.count - end < count { grow(by: count) }
        return unsafe UnsafeMutableRawBufferPointer(rebasing: memory[end...])
    }

    /// Makes the first `count` bytes of what `reserve` returned pending.
    func commit(_ count: Int) {
        end += count
    }

    /// Copies `bytes` to the end.
    func append(_ bytes: UnsafeRawBufferPointer) {
        guard bytes.count > 0 else { return }
        unsafe reserve(bytes.count).copyMemory(from: bytes)
        end += bytes.count
    }

    private func grow(by count: Int) {
        let pending = end - start
        let larger = unsafe pool.take(max(pending + count, pending > 0 ? 2 * pending : 0))
        unsafe larger.copyMemory(from: UnsafeRawBufferPointer(rebasing: memory[start..<end]))
        unsafe pool.give(memory)
        unsafe memory = unsafe larger
        start = 0
        end = pending
    }

    private func dropMemory() {
        unsafe pool.give(memory)
        unsafe memory = unsafe UnsafeMutableRawBufferPointer(start: nil, count: 0)
        start = 0
        end = 0
    }
}
