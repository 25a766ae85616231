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

    /// Counts chunks that are there already, whether or not the pool has room for them.
    func takeFound(_ chunks: Int) { taken.add(chunks, ordering: .relaxed) }

    func giveBack(_ chunks: Int) { taken.subtract(chunks, ordering: .relaxed) }
}

/// A volume as it is at one size; growing makes a new one that shares the old segments.
final class MemoryVolume: Sendable {
    let size: UInt64
    let segments: [MemorySegment]

    init(size: UInt64, segments: [MemorySegment]) {
        self.size = size
        self.segments = segments
    }

    static func make(size: UInt64, budget: MemoryBudget) throws(StatusError) -> MemoryVolume {
        MemoryVolume(size: size, segments: [try MemorySegment(bytes: Int(size), budget: budget)])
    }

    /// The same volume with more room, in private memory.
    func grown(to larger: UInt64, budget: MemoryBudget) throws(StatusError) -> MemoryVolume {
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
        case .blockStatus: preconditionFailure("a block status has a way of its own")
        }
    }

    /// Writes which chunks of a range have bytes of their own.
    func map(_ request: DriverRequest, _ map: inout BlockMapWriter) {
        _ = forEachPiece(request.offset, request.length) { segment, chunk, _, count, _ in
            unsafe map.append(UInt64(count), segment.isPresent(chunk) ? .allocated : .zero)
            return unsafe map.goesOn ? .ok : .tooLarge
        }
    }

    private func zero(_ request: DriverRequest, keepSpace: Bool) -> Status {
        forEachPiece(request.offset, request.length) { segment, chunk, at, count, _ in
            if !keepSpace {
                if !segment.isPresent(chunk) { return .ok }
                if count == Limits.memoryChunkBytes && segment.giveBack(chunk) { return .ok }
            }
            guard segment.beginWrite(chunk) else { return .noSpace }
            segment.clear(at: at, count: count)
            segment.endWrite(chunk)
            return .ok
        }
    }
}
