import Core
import DriverKit
import Glibc
import Synchronization

/// How much of a memory pool is taken; shared by all its volumes and reactors.
final class MemoryBudget: Sendable {
    let chunksMax: Int
    private let taken = Atomic<Int>(0)

    init(bytes: UInt64) {
        chunksMax = Int(min(bytes, UInt64(Int64.max)) / UInt64(Limits.memoryChunkBytes))
    }

    var chunksTaken: Int { taken.load(ordering: .relaxed) }

    func take() -> Bool {
        if taken.add(1, ordering: .relaxed).newValue <= chunksMax { return true }
        giveBack(1)
        return false
    }

    func giveBack(_ chunks: Int) { taken.subtract(chunks, ordering: .relaxed) }
}

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

    private static let busy = UInt32.max

    init(bytes: Int, budget: MemoryBudget) throws(DriverError) {
        let chunks = (bytes + Limits.memoryChunkBytes - 1) / Limits.memoryChunkBytes
        self.bytes = chunks * Limits.memoryChunkBytes
        self.budget = budget
        wordBytes = (chunks * MemoryLayout<Atomic<UInt32>>.stride + 4095) & ~4095
        unsafe base = try unsafe MemorySegment.map(self.bytes)
        do throws(DriverError) {
            unsafe words = try unsafe MemorySegment.map(wordBytes).bindMemory(
                to: Atomic<UInt32>.self, capacity: chunks)
        } catch {
            unsafe munmap(base, self.bytes)
            throw error
        }
    }

    deinit {
        var present = 0
        for chunk in 0..<(bytes / Limits.memoryChunkBytes)
        where unsafe words[chunk].load(ordering: .relaxed) != 0 { present += 1 }
        budget.giveBack(present)
        unsafe munmap(words, wordBytes)
        unsafe munmap(base, bytes)
    }

    private static func map(_ bytes: Int) throws(DriverError) -> UnsafeMutableRawPointer {
        let flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE
        guard let memory = unsafe mmap(nil, bytes, PROT_READ | PROT_WRITE, flags, -1, 0),
            unsafe memory != MAP_FAILED
        else {
            throw DriverError(.noSpace, "no address space for a memory volume of \(bytes) bytes")
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
        unsafe madvise(base + chunk * Limits.memoryChunkBytes, Limits.memoryChunkBytes, MADV_DONTNEED)
        unsafe words[chunk].store(0, ordering: .releasing)
        budget.giveBack(1)
        return true
    }
}

/// A volume as it is at one size; growing makes a new one that shares the old segments.
final class MemoryVolume: Sendable {
    let size: UInt64
    let segments: [MemorySegment]

    init(size: UInt64, segments: [MemorySegment]) {
        self.size = size
        self.segments = segments
    }

    static func make(size: UInt64, budget: MemoryBudget) throws(DriverError) -> MemoryVolume {
        MemoryVolume(size: size, segments: [try MemorySegment(bytes: Int(size), budget: budget)])
    }

    /// The same volume with more room.
    func grown(to larger: UInt64, budget: MemoryBudget) throws(DriverError) -> MemoryVolume {
        let have = segments.reduce(UInt64(0)) { $0 + UInt64($1.bytes) }
        if larger <= have { return MemoryVolume(size: larger, segments: segments) }
        let more = try MemorySegment(bytes: Int(larger - have), budget: budget)
        return MemoryVolume(size: larger, segments: segments + [more])
    }

    var geometry: VolumeGeometry {
        VolumeGeometry(size: size, blockSize: 512, maximumTransfer: Limits.driverTransferBytesMax)
    }

    /// Calls the body for each piece of a range that lies within one chunk: segment, chunk, offset in the
    /// segment, length, and how much of the range came before. Stops when the body answers anything but `ok`.
    @inline(__always)
    private func forEachPiece(
        _ offset: UInt64, _ length: UInt64,
        _ body: (_ segment: MemorySegment, _ chunk: Int, _ at: Int, _ count: Int, _ before: Int) -> Status
    ) -> Status {
        var start = Int(offset)
        var before = 0
        let total = Int(length)
        for segment in segments {
            if start >= segment.bytes {
                start -= segment.bytes
                continue
            }
            while before < total && start < segment.bytes {
                let chunk = start / Limits.memoryChunkBytes
                let count = min(total - before, (chunk + 1) * Limits.memoryChunkBytes - start)
                let status = body(segment, chunk, start, count, before)
                if status != .ok { return status }
                start += count
                before += count
            }
            if before == total { return .ok }
            start = 0
        }
        return .outOfRange
    }

    /// Performs a request that was checked against the geometry. `buffer` is the request's place in the
    /// arena.
    @inline(__always)
    func perform(_ opcode: DriverOpcode, _ request: DriverRequest, buffer: UnsafeMutableRawPointer) -> Status
    {
        switch opcode {
        case .read:
            return forEachPiece(request.offset, request.length) { segment, chunk, at, count, before in
                if segment.isPresent(chunk) {
                    unsafe memcpy(buffer + before, segment.base + at, count)
                } else {
                    unsafe memset(buffer + before, 0, count)
                }
                return .ok
            }
        case .write:
            return forEachPiece(request.offset, request.length) { segment, chunk, at, count, before in
                guard segment.beginWrite(chunk) else { return .noSpace }
                unsafe memcpy(segment.base + at, buffer + before, count)
                segment.endWrite(chunk)
                return .ok
            }
        case .writeZeroes: return zero(request, keepSpace: request.flags.contains(.noUnmap))
        case .discard: return zero(request, keepSpace: false)
        case .flush: return .ok
        }
    }

    private func zero(_ request: DriverRequest, keepSpace: Bool) -> Status {
        forEachPiece(request.offset, request.length) { segment, chunk, at, count, _ in
            if !keepSpace {
                if !segment.isPresent(chunk) { return .ok }
                if count == Limits.memoryChunkBytes && segment.giveBack(chunk) { return .ok }
            }
            guard segment.beginWrite(chunk) else { return .noSpace }
            unsafe MemoryVolume.clear(segment.base + at, count)
            segment.endWrite(chunk)
            return .ok
        }
    }

    /// Zeroes bytes, whole pages by giving them back to the system.
    private static func clear(_ start: UnsafeMutableRawPointer, _ count: Int) {
        let page = 4096
        let first = (UInt(bitPattern: start) + UInt(page - 1)) & ~UInt(page - 1)
        let head = min(count, Int(first - UInt(bitPattern: start)))
        let middle = (count - head) / page * page
        unsafe memset(start, 0, head)
        if middle > 0 { unsafe madvise(start + head, middle, MADV_DONTNEED) }
        unsafe memset(start + head + middle, 0, count - head - middle)
    }
}
