import Core
import DriverKit
import Reactor

/// The pieces of an arena that a reactor's ring knows.
///
/// A piece is pinned as a whole when direct I/O has moved as many bytes as it has: what the kernel did for
/// these requests one by one costs about as much (0.5 ms for 2 MiB), and what is used less is not worth it.
/// So a load pins few MiB of an arena, and nothing waits for that after a recovery.
struct FixedArena {
    private struct Piece {
        var buffer: FixedBuffer?
        /// What direct I/O moved before the piece was pinned.
        var movedBytes: UInt64 = 0
    }

    private let arena: Arena
    private let reactor: Reactor
    private var pieces: [Piece]
    /// The kernel allows no more: nobody asks it again at every request.
    private var isRefused = false

    init(_ arena: Arena, reactor: Reactor) {
        self.arena = arena
        self.reactor = reactor
        let count = (arena.bytes + Limits.filePinnedPieceBytes - 1) / Limits.filePinnedPieceBytes
        pieces = [Piece](repeating: Piece(), count: count)
    }

    /// What the ring knows the bytes of a direct request by; nil where it does not.
    @inline(__always)
    mutating func buffer(offset: UInt64, length: UInt64) -> FixedBuffer? {
        let index = Int(offset) / Limits.filePinnedPieceBytes
        // The arena's allocator aligns buffers to their size, but nothing else promises that.
        guard Int(offset + length - 1) / Limits.filePinnedPieceBytes == index else { return nil }
        if let buffer = pieces[index].buffer { return buffer }
        return isRefused ? nil : moved(length, index)
    }

    @inline(never)
    private mutating func moved(_ length: UInt64, _ index: Int) -> FixedBuffer? {
        let start = index * Limits.filePinnedPieceBytes
        let count = min(Limits.filePinnedPieceBytes, arena.bytes - start)
        pieces[index].movedBytes += length
        if pieces[index].movedBytes <= UInt64(count) { return nil }
        let memory = unsafe UnsafeMutableRawBufferPointer(start: arena.base + start, count: count)
        let buffer = unsafe reactor.fix(memory)
        pieces[index].buffer = buffer
        isRefused = buffer == nil
        return buffer
    }

    /// Lets the pages go. No operation is under way.
    mutating func removeAll() {
        for index in pieces.indices {
            if let buffer = pieces[index].buffer { reactor.unfix(buffer) }
            pieces[index] = Piece()
        }
    }
}
