import Core

/// Who may exclude others from which bytes: one at a time where ranges overlap, in the order in which they asked,
/// and of each volume only a few at once, as every request is held against all who have their turn.
///
/// A value without I/O; `IOServices` keeps one under a lock for all reactors.
struct RangeReservations<Owner: Sendable>: Sendable {
    private struct Entry: Sendable {
        let id: UInt64
        let owner: Owner
        let start: UInt64
        let end: UInt64
        var hasTurn = false

        func overlaps(_ other: Entry) -> Bool { start < other.end && other.start < end }
    }

    private struct Queue: Sendable {
        var entries: [Entry] = []
        /// How many of them have their turn.
        var turns = 0
    }

    private var volumes: [Identifier: Queue] = [:]
    private var lastID: UInt64 = 0

    /// How many ask or have their turn.
    var count: Int { volumes.values.reduce(0) { $0 + $1.entries.count } }

    /// Asks for `count` bytes, at least one; true when it is their turn at once. Otherwise `release` returns the
    /// owner later.
    mutating func request(
        _ volume: Identifier, offset: UInt64, count: UInt32, owner: Owner
    ) -> (id: UInt64, hasTurn: Bool) {
        lastID += 1
        var queue = volumes[volume] ?? Queue()
        var entry = Entry(id: lastID, owner: owner, start: offset, end: offset &+ UInt64(count))
        entry.hasTurn =
            queue.turns < Limits.comparesAtOnceMax && !queue.entries.contains { $0.overlaps(entry) }
        queue.turns += entry.hasTurn ? 1 : 0
        queue.entries.append(entry)
        volumes[volume] = queue
        return (entry.id, entry.hasTurn)
    }

    /// Gives a range back, or stops waiting for it; returns those whose turn has come by that.
    mutating func release(_ id: UInt64, _ volume: Identifier) -> [(id: UInt64, owner: Owner)] {
        guard var queue = volumes[volume], let position = queue.entries.firstIndex(where: { $0.id == id })
        else { return [] }
        if queue.entries.remove(at: position).hasTurn { queue.turns -= 1 }
        var next: [(id: UInt64, owner: Owner)] = []
        // Only so many are looked at: if none of these can begin, one that can end is before them.
        for index in queue.entries.indices.prefix(Limits.comparesLookedAtMax) {
            guard queue.turns < Limits.comparesAtOnceMax else { break }
            let entry = queue.entries[index]
            guard !entry.hasTurn, !queue.entries[..<index].contains(where: { $0.overlaps(entry) }) else {
                continue
            }
            queue.entries[index].hasTurn = true
            queue.turns += 1
            next.append((entry.id, entry.owner))
        }
        volumes[volume] = queue.entries.isEmpty ? nil : queue
        return next
    }
}
