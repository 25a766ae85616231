import Core
import DriverKit
import Synchronization

/// What a power cut may still take away: for each write since the last flush, what was there before.
///
/// At a cut the generator says which writes are lost, and the driver puts back what these replaced. That is right
/// only while writes to the same blocks follow one another; where they overlap in time, or where there is no
/// room to keep what was there, the writes concerned count as kept, as a device may always do. Any thread.
@safe
final class UnflushedWrites: @unchecked Sendable {
    // SAFETY: `state` is reached under the lock only; a buffer's bytes belong to the queue that reads into it
    // or, at a cut, writes from it.

    /// A write that has begun.
    struct Ticket {
        let id: UInt64
        /// Where to read what the write will replace, before it begins; nil: it cannot be taken away.
        let image: ArenaBuffer?
    }

    /// A range to be put back, and where its bytes are in the arena.
    struct Restore: Equatable {
        var volume: Identifier
        var index: UInt32
        var offset: UInt64
        var length: UInt64
        var buffer: UInt64
    }

    /// What a power cut takes away.
    struct Cut {
        var restores: [Restore]
        /// To be given back when all is restored.
        var buffers: [ArenaBuffer]
    }

    private struct Entry {
        let id: UInt64
        let volume: Identifier
        let index: UInt32
        let offset: UInt64
        let length: UInt64
        var image: ArenaBuffer?
        var hasImage = false
        /// It cannot be taken away any more, whatever its image says.
        var isKept = false
        /// Its place in the order in which writes ended.
        var endedAt: UInt64 = 0

        func overlaps(_ other: Entry) -> Bool {
            volume == other.volume && offset < other.offset + other.length
                && other.offset < offset + length
        }
    }

    private final class State {
        var isArmed = false
        var running: [Entry] = []
        var ended: [Entry] = []
        var nextID: UInt64 = 1
        var endCount: UInt64 = 0
        var cutsUnderWay = 0
        let allocator: ArenaAllocator

        init(arena: Arena) { allocator = ArenaAllocator(arena: arena) }
    }

    /// Where what was there before is kept.
    let arena: Arena
    private let lock = Mutex(())
    private let state: State

    init() throws(StatusError) {
        arena = try Arena(bytes: Limits.faultUnflushedBytesMax)
        state = State(arena: arena)
    }

    /// Begins or ends keeping what writes replace. What is unflushed at the end counts as kept.
    func arm(_ isArmed: Bool) {
        lock.withLock { _ in
            state.isArmed = isArmed
            if !isArmed {
                forget { _ in true }
                for index in state.running.indices { state.running[index].isKept = true }
            }
        }
    }

    /// Whether what a power cut lost is still being put back.
    var isCutUnderWay: Bool { lock.withLock { _ in state.cutsUnderWay > 0 } }

    /// A change of a range begins.
    func begin(volume: Identifier, index: UInt32, offset: UInt64, length: UInt64) -> Ticket {
        lock.withLock { _ in
            var entry = Entry(id: state.nextID, volume: volume, index: index, offset: offset, length: length)
            state.nextID += 1
            if state.isArmed {
                if length <= UInt64(Limits.driverTransferBytesMax),
                    !state.running.contains(where: { $0.overlaps(entry) })
                {
                    entry.image = room(Int(length))
                }
                if entry.image == nil { keepOlder(than: entry) }
            }
            entry.isKept = entry.image == nil
            state.running.append(entry)
            return Ticket(id: entry.id, image: entry.image)
        }
    }

    /// What the change will replace was read, or could not be.
    func imageRead(_ id: UInt64, succeeded: Bool) {
        lock.withLock { _ in
            guard let position = state.running.firstIndex(where: { $0.id == id }) else { return }
            state.running[position].hasImage = succeeded
            if !succeeded {
                state.running[position].isKept = true
                keepOlder(than: state.running[position])
            }
        }
    }

    /// The change ended; `isDurable` when it needs no flush.
    func end(_ id: UInt64, isDurable: Bool) {
        lock.withLock { _ in
            guard let position = state.running.firstIndex(where: { $0.id == id }) else { return }
            var entry = state.running.remove(at: position)
            if isDurable { keepOlder(than: entry) }
            if isDurable || entry.isKept || !entry.hasImage || !state.isArmed {
                if let image = entry.image { state.allocator.free(image) }
                return
            }
            state.endCount += 1
            entry.endedAt = state.endCount
            state.ended.append(entry)
        }
    }

    /// A flush begins; its end is told with what this returns.
    func flushBegins() -> UInt64 { lock.withLock { _ in state.endCount } }

    /// A flush of the volume succeeded: what had ended before it began is safe.
    func flushed(volume: Identifier, mark: UInt64) {
        lock.withLock { _ in forget { $0.volume == volume && $0.endedAt <= mark } }
    }

    /// The index will name another volume, or none: what was written through it is kept.
    func settle(index: UInt32) {
        lock.withLock { _ in
            forget { $0.index == index }
            for position in state.running.indices where state.running[position].index == index {
                state.running[position].isKept = true
            }
        }
    }

    /// The power goes: decides what is lost. `cutEnded(_:)` must follow when that has been put back.
    func cut(draw: UInt64, blockSize: UInt64) -> Cut {
        lock.withLock { _ in
            var random = FaultRandom(seed: draw)
            var cut = Cut(restores: [], buffers: [])
            var settled: [Identifier: Set<UInt64>] = [:]
            var places: [Identifier: [UInt64: (index: UInt32, buffer: UInt64)]] = [:]
            // A write that is under way is left alone: nobody was told that it is done, so it may be there or not.
            for entry in state.ended.sorted(by: { $0.id > $1.id }) {
                guard let image = entry.image else { continue }
                let isLost = random.next() & 1 == 0
                for at in stride(from: 0, to: entry.length, by: Int(blockSize)) {
                    let block = entry.offset + at
                    if settled[entry.volume]?.contains(block) == true { continue }
                    if isLost {
                        places[entry.volume, default: [:]][block] = (entry.index, image.offset + at)
                    } else {
                        settled[entry.volume, default: []].insert(block)
                    }
                }
            }
            for (volume, blocks) in places {
                cut.restores += UnflushedWrites.runs(volume, blocks, blockSize)
            }
            cut.buffers = state.ended.compactMap(\.image)
            state.ended.removeAll()
            for position in state.running.indices { state.running[position].isKept = true }
            state.cutsUnderWay += 1
            return cut
        }
    }

    /// All that the cut took away has been put back.
    func cutEnded(_ cut: Cut) {
        lock.withLock { _ in
            for buffer in cut.buffers { state.allocator.free(buffer) }
            state.cutsUnderWay -= 1
        }
    }

    /// Joins neighbouring blocks whose bytes are neighbours too.
    private static func runs(
        _ volume: Identifier, _ blocks: [UInt64: (index: UInt32, buffer: UInt64)], _ blockSize: UInt64
    ) -> [Restore] {
        var runs: [Restore] = []
        for (block, place) in blocks.sorted(by: { $0.key < $1.key }) {
            if let last = runs.last, last.index == place.index, last.offset + last.length == block,
                last.buffer + last.length == place.buffer,
                last.length + blockSize <= UInt64(Limits.driverTransferBytesMax)
            {
                runs[runs.count - 1].length += blockSize
            } else {
                runs.append(
                    Restore(
                        volume: volume, index: place.index, offset: block, length: blockSize,
                        buffer: place.buffer))
            }
        }
        return runs
    }

    /// Room for what was there; the oldest write counts as kept where there is none.
    private func room(_ bytes: Int) -> ArenaBuffer? {
        while true {
            if let buffer = state.allocator.allocate(bytes) { return buffer }
            guard let oldest = state.ended.indices.min(by: { state.ended[$0].id < state.ended[$1].id })
            else { return nil }
            if let image = state.ended.remove(at: oldest).image { state.allocator.free(image) }
        }
    }

    /// Keeps older changes of the same blocks: to take them away would take the newer one away, too.
    private func keepOlder(than entry: Entry) {
        forget { $0.id < entry.id && $0.overlaps(entry) }
        for position in state.running.indices
        where state.running[position].id < entry.id && state.running[position].overlaps(entry) {
            state.running[position].isKept = true
        }
    }

    private func forget(_ isForgotten: (Entry) -> Bool) {
        for entry in state.ended where isForgotten(entry) {
            if let image = entry.image { state.allocator.free(image) }
        }
        state.ended.removeAll(where: isForgotten)
    }
}
