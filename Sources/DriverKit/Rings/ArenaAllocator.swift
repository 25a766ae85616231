import Core

/// A piece of an arena.
@frozen
public struct ArenaBuffer: Sendable, Hashable {
    /// Where it begins in the arena, in bytes; a multiple of `Limits.arenaGranule`.
    public var offset: UInt64
    /// How many bytes it has: what was asked for, rounded up to a power of two of granules.
    public var bytes: UInt32

    /// A piece of an arena.
    @inlinable
    public init(offset: UInt64, bytes: UInt32) {
        self.offset = offset
        self.bytes = bytes
    }
}

/// Gives out pieces of an arena; one thread. Never blocks and never grows: a full arena answers nil.
///
/// A binary buddy system, so that small buffers never fragment the room of large ones for good, with a short
/// list of ready buffers for each size on top, so that a steady load neither splits nor merges.
public final class ArenaAllocator {
    /// The largest buffer it can ever give, in bytes.
    public let largestBytes: Int
    private let blockCount: Int
    private let orders: Int
    /// For each granule: `free | order`, `used | order`, `cached | order` at the first granule of a block, 0
    /// elsewhere.
    private var states: [UInt8]
    private var next: [Int32]
    private var previous: [Int32]
    private var heads: [Int32]
    private var caches: [[Int32]]
    private var usedGranules = 0

    private static let free: UInt8 = 0x40
    private static let used: UInt8 = 0x80
    private static let cached: UInt8 = 0xC0
    private static let orderMask: UInt8 = 0x3F

    /// An allocator for a whole arena, all of it free.
    public init(arena: Arena) {
        blockCount = arena.bytes / Limits.arenaGranule
        precondition(blockCount > 0 && blockCount <= Int(Int32.max), "not an arena's size")
        orders = Int.bitWidth - blockCount.leadingZeroBitCount
        largestBytes = min(Limits.arenaGranule << (orders - 1), 1 << 31)
        states = [UInt8](repeating: 0, count: blockCount)
        next = [Int32](repeating: -1, count: blockCount)
        previous = [Int32](repeating: -1, count: blockCount)
        heads = [Int32](repeating: -1, count: orders)
        caches = [[Int32]](repeating: [], count: orders)
        for order in 0..<orders { caches[order].reserveCapacity(Limits.arenaCachePerClass) }
        var block = 0
        while block < blockCount {
            var order = block == 0 ? orders - 1 : min(orders - 1, block.trailingZeroBitCount)
            while block + (1 << order) > blockCount { order -= 1 }
            link(Int32(block), order)
            block += 1 << order
        }
    }

    /// How many bytes are given out.
    public var usedBytes: Int { usedGranules * Limits.arenaGranule }

    /// A buffer of at least this many bytes; nil when there is no room now, or never for more than
    /// `largestBytes`.
    public func allocate(_ bytes: Int) -> ArenaBuffer? {
        precondition(bytes > 0, "a buffer has at least one byte")
        guard bytes <= largestBytes else { return nil }
        let granules = (bytes + Limits.arenaGranule - 1) / Limits.arenaGranule
        let order = Int.bitWidth - (granules - 1).leadingZeroBitCount
        let block: Int32
        if let ready = caches[order].popLast() {
            block = ready
        } else if let split = take(order) {
            block = split
        } else {
            flushCaches()
            guard let merged = take(order) else { return nil }
            block = merged
        }
        states[Int(block)] = ArenaAllocator.used | UInt8(order)
        usedGranules += 1 << order
        return ArenaBuffer(
            offset: UInt64(block) * UInt64(Limits.arenaGranule), bytes: UInt32(Limits.arenaGranule << order))
    }

    /// Takes a buffer back. Giving back what was not given out stops the process: it is a defect.
    public func free(_ buffer: ArenaBuffer) {
        let block = Int(buffer.offset / UInt64(Limits.arenaGranule))
        precondition(
            block < blockCount && buffer.offset % UInt64(Limits.arenaGranule) == 0,
            "not a buffer of this arena")
        let state = states[block]
        precondition(state & ArenaAllocator.cached == ArenaAllocator.used, "the buffer is not given out")
        let order = Int(state & ArenaAllocator.orderMask)
        precondition(Int(buffer.bytes) == Limits.arenaGranule << order, "the buffer has another size")
        usedGranules -= 1 << order
        if caches[order].count < Limits.arenaCachePerClass {
            states[block] = ArenaAllocator.cached | UInt8(order)
            caches[order].append(Int32(block))
        } else {
            merge(block, order)
        }
    }

    /// Takes a block of this order from the free lists, splitting a larger one where needed.
    private func take(_ order: Int) -> Int32? {
        var have = order
        while have < orders && heads[have] < 0 { have += 1 }
        guard have < orders else { return nil }
        let block = heads[have]
        unlink(block, have)
        while have > order {
            have -= 1
            link(block + Int32(1 << have), have)
        }
        return block
    }

    private func flushCaches() {
        for order in 0..<orders {
            while let block = caches[order].popLast() { merge(Int(block), order) }
        }
    }

    /// Frees a block and joins it with its neighbour as long as that is free too.
    private func merge(_ start: Int, _ startOrder: Int) {
        var block = start
        var order = startOrder
        while order < orders - 1 {
            let buddy = block ^ (1 << order)
            guard buddy + (1 << order) <= blockCount, states[buddy] == ArenaAllocator.free | UInt8(order)
            else { break }
            unlink(Int32(buddy), order)
            states[block] = 0
            block = min(block, buddy)
            order += 1
        }
        link(Int32(block), order)
    }

    private func link(_ block: Int32, _ order: Int) {
        states[Int(block)] = ArenaAllocator.free | UInt8(order)
        let head = heads[order]
        next[Int(block)] = head
        previous[Int(block)] = -1
        if head >= 0 { previous[Int(head)] = block }
        heads[order] = block
    }

    private func unlink(_ block: Int32, _ order: Int) {
        let before = previous[Int(block)]
        let after = next[Int(block)]
        if before >= 0 { next[Int(before)] = after } else { heads[order] = after }
        if after >= 0 { previous[Int(after)] = before }
        states[Int(block)] = 0
    }
}
