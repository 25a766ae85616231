import Core
import DriverKit
import Glibc
import Synchronization

// SAFETY: the mappings live as long as this object. Words are atomic. A chunk's bytes are given back only by
// who changed its word from 1 to `busy`, so that no writer is in it; readers of a chunk that goes see old
// bytes or zeroes.
/// A stretch of address space whose chunks take memory when first written.
///
/// One word a chunk: 0 absent (reads as zeroes), 1 present, 1 + n present with n writers at work, `busy`
/// while it is taken or given back.
@safe
final class MemorySegment: @unchecked Sendable {
    // SAFETY: the pointers never change, and a chunk's bytes are touched under its atomic word only.
    let base: UnsafeMutableRawPointer
    let bytes: Int
    let words: UnsafeMutablePointer<Atomic<UInt32>>
    private let budget: MemoryBudget
    private let wordBytes: Int
    /// What the mappings are of; nil for private memory.
    let shared: KeptSegment?
    /// How `madvise(2)` gives memory back, of the process or of the file that is mapped.
    private let release: Int32
    /// The chunks that were present when the segment was mapped; negative since `recover()`.
    private let found: Atomic<Int>

    private static let busy = UInt32.max

    /// Bytes as a segment has them, whole chunks, and those of their words, whole pages.
    static func layout(_ bytes: Int) -> (bytes: Int, wordBytes: Int) {
        let chunks = (bytes + Limits.memoryChunkBytes - 1) / Limits.memoryChunkBytes
        return (
            chunks * Limits.memoryChunkBytes, (chunks * MemoryLayout<Atomic<UInt32>>.stride + 4095) & ~4095
        )
    }

    /// Private memory, all absent.
    init(bytes: Int, budget: MemoryBudget) throws(StatusError) {
        (self.bytes, wordBytes) = MemorySegment.layout(bytes)
        self.budget = budget
        shared = nil
        release = MADV_DONTNEED
        found = Atomic(-1)
        let chunks = self.bytes / Limits.memoryChunkBytes
        unsafe base = try unsafe MemorySegment.map(self.bytes)
        do throws(StatusError) {
            unsafe words = try unsafe MemorySegment.map(wordBytes).bindMemory(
                to: Atomic<UInt32>.self, capacity: chunks)
        } catch {
            unsafe munmap(base, self.bytes)
            throw error
        }
    }

    /// Shared memory with what is in it. Chunks are as its last process left them until `recover()`.
    init(_ shared: KeptSegment, budget: MemoryBudget) {
        (bytes, wordBytes) = MemorySegment.layout(shared.bytes)
        self.budget = budget
        self.shared = shared
        release = MADV_REMOVE
        found = Atomic(0)
        unsafe base = unsafe shared.base
        unsafe words = unsafe shared.words.bindMemory(
            to: Atomic<UInt32>.self, capacity: shared.bytes / Limits.memoryChunkBytes)
        found.store(present, ordering: .relaxed)
        budget.takeFound(found.load(ordering: .relaxed))
    }

    deinit {
        let counted = found.load(ordering: .relaxed)
        budget.giveBack(counted < 0 ? present : counted)
        if shared == nil {
            unsafe munmap(words, wordBytes)
            unsafe munmap(base, bytes)
        }
    }

    /// How many chunks have bytes of their own.
    var chunksPresent: Int { present }

    private var present: Int {
        var present = 0
        for chunk in 0..<(bytes / Limits.memoryChunkBytes)
        where unsafe words[chunk].load(ordering: .relaxed) != 0 { present += 1 }
        return present
    }

    /// Finishes what the memory's last process was at: nobody writes any more, and what was being given back
    /// is. Does something once; nobody else may use the segment then.
    func recover() {
        let counted = found.exchange(-1, ordering: .relaxed)
        if counted < 0 { return }
        for chunk in 0..<(bytes / Limits.memoryChunkBytes) {
            let word = unsafe words[chunk].load(ordering: .relaxed)
            if word == MemorySegment.busy {
                unsafe madvise(base + chunk * Limits.memoryChunkBytes, Limits.memoryChunkBytes, release)
                unsafe words[chunk].store(0, ordering: .releasing)
            } else if word > 1 {
                unsafe words[chunk].store(1, ordering: .releasing)
            }
        }
        // The last process may have gone on since the segment was mapped here.
        budget.giveBack(counted)
        budget.takeFound(present)
    }

    private static func map(_ bytes: Int) throws(StatusError) -> UnsafeMutableRawPointer {
        let flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE
        guard let memory = unsafe mmap(nil, bytes, PROT_READ | PROT_WRITE, flags, -1, 0),
            unsafe memory != MAP_FAILED
        else {
            throw StatusError(.noSpace, "no address space for a memory volume of \(bytes) bytes")
        }
        return unsafe memory
    }

    /// Whether the chunk has bytes of its own.
    @inline(__always)
    func isPresent(_ chunk: Int) -> Bool {
        let word = unsafe words[chunk].load(ordering: .acquiring)
        return word != 0 && word != MemorySegment.busy
    }

    /// Enters a chunk as a writer, taking memory for it where it has none; false: the pool is full.
    @inline(__always)
    func beginWrite(_ chunk: Int) -> Bool {
        while true {
            let word = unsafe words[chunk].load(ordering: .acquiring)
            if word != 0 && word != MemorySegment.busy {
                let (done, _) = unsafe words[chunk].compareExchange(
                    expected: word, desired: word + 1, ordering: .acquiringAndReleasing)
                if done { return true }
            } else if word == 0 {
                guard let taken = takeChunk(chunk) else { continue }
                return taken
            }
        }
    }

    @inline(never)
    private func takeChunk(_ chunk: Int) -> Bool? {
        guard budget.take() else { return unsafe words[chunk].load(ordering: .acquiring) == 0 ? false : nil }
        let (done, _) = unsafe words[chunk].compareExchange(
            expected: 0, desired: 2, ordering: .acquiringAndReleasing)
        if done { return true }
        budget.giveBack(1)
        return nil
    }

    @inline(__always)
    func endWrite(_ chunk: Int) {
        unsafe words[chunk].subtract(1, ordering: .releasing)
    }

    /// Gives a whole chunk back; false when writers are in it.
    func giveBack(_ chunk: Int) -> Bool {
        while true {
            let (done, word) = unsafe words[chunk].compareExchange(
                expected: 1, desired: MemorySegment.busy, ordering: .acquiringAndReleasing)
            if done { break }
            if word == 0 { return true }
            if word != MemorySegment.busy { return false }
        }
        unsafe madvise(base + chunk * Limits.memoryChunkBytes, Limits.memoryChunkBytes, release)
        unsafe words[chunk].store(0, ordering: .releasing)
        budget.giveBack(1)
        return true
    }

    /// Zeroes bytes of a chunk that the caller has entered as a writer, whole pages by giving them back.
    func clear(at offset: Int, count: Int) {
        let start = unsafe base + offset
        let page = 4096
        let first = (UInt(bitPattern: start) + UInt(page - 1)) & ~UInt(page - 1)
        let head = min(count, Int(first - UInt(bitPattern: start)))
        let middle = (count - head) / page * page
        unsafe memset(start, 0, head)
        if middle > 0 { unsafe madvise(start + head, middle, release) }
        unsafe memset(start + head + middle, 0, count - head - middle)
    }
}
