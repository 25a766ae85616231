import Core

/// Who may exclude others from which bytes: one at a time where ranges overlap, in the order in which they asked.
///
/// A value without I/O; `IOServices` keeps one under a lock for all reactors.
struct RangeReservations<Owner: Sendable>: Sendable {
    private struct Entry: Sendable {
        let id: UInt64
        let owner: Owner
        let start: UInt64
        let end: UInt64
        var hasTurn = false
    }

    private var volumes: [Identifier: [Entry]] = [:]
    private var lastID: UInt64 = 0

    /// How many ask or have their turn.
    var count: Int { volumes.values.reduce(0) { $0 + $1.count } }

    /// Asks for `count` bytes, at least one; true when it is their turn at once. Otherwise `release` returns the
    /// owner later.
    mutating func request(
        _ volume: Identifier, offset: UInt64, count: UInt32, owner: Owner
    ) -> (id: UInt64, hasTurn: Bool) {
        lastID += 1
        var entry = Entry(id: lastID, owner: owner, start: offset, end: offset &+ UInt64(count))
        entry.hasTurn = !volumes[volume, default: []].contains {
            $0.start < entry.end && entry.start < $0.end
        }
        volumes[volume, default: []].append(entry)
        return (entry.id, entry.hasTurn)
    }

    /// Gives a range back, or stops waiting for it; returns those whose turn has come by that.
    mutating func release(_ id: UInt64, _ volume: Identifier) -> [(id: UInt64, owner: Owner)] {
        guard var entries = volumes[volume], let position = entries.firstIndex(where: { $0.id == id }) else {
            return []
        }
        let gone = entries.remove(at: position)
        var next: [(id: UInt64, owner: Owner)] = []
        for index in position..<entries.count
        where !entries[index].hasTurn && entries[index].start < gone.end && gone.start < entries[index].end {
            let entry = entries[index]
            let isFree = !entries[..<index].contains { $0.start < entry.end && entry.start < $0.end }
            if isFree {
                entries[index].hasTurn = true
                next.append((entry.id, entry.owner))
            }
        }
        volumes[volume] = entries.isEmpty ? nil : entries
        return next
    }
}
