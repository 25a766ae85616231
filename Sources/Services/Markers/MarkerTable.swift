import Core
import DriverKit

/// A marker of a volume, as the data path knows it.
struct Marker: Sendable {
    let id: Identifier
    /// What was changed since it was set; nil when that is not known, and all counts as changed.
    let bitmap: MarkerBitmap?
}

/// What is known of a marker.
public struct MarkerInfo: Sendable, Hashable {
    /// The marker's id.
    public let id: Identifier
    /// In bytes: what is changed counts in units of this.
    public let granularity: UInt64
    /// How many bytes of the volume count as changed.
    public let changedBytes: UInt64
    /// Whether nothing counts as changed but what was, and what shares a unit with that.
    public let isComplete: Bool

    init(_ marker: Marker, size: UInt64) {
        id = marker.id
        isComplete = marker.bitmap != nil
        if let bits = marker.bitmap?.bits {
            granularity = 1 << UInt64(bits.shift)
            changedBytes = bits.changedBytes + (size > bits.size ? size - bits.size : 0)
        } else {
            granularity = 1 << UInt64(MarkerBits.shift(for: max(size, 1)))
            changedBytes = size
        }
    }
}

/// The markers of the volumes of one pool, on one reactor.
///
/// A request that changes something costs one comparison while no volume of the pool has a marker.
struct MarkerTable {
    private struct Entry {
        let bits: MarkerBits
        let next: Int32
    }

    /// By volume index: the first of `entries`, or -1. Empty when there are none at all.
    private var heads: [Int32] = []
    private var entries: [Entry] = []
    /// Keeps the bits' memory.
    private var markers: [UInt32: [Marker]] = [:]

    /// Notes what a request is about to change.
    @inline(__always)
    func mark(_ request: DriverRequest) {
        guard !heads.isEmpty else { return }
        switch request.opcode {
        case .write, .writeZeroes, .discard: mark(request.volume, request.offset, request.length)
        case .read, .flush, .blockStatus, nil: return
        }
    }

    /// Notes that bytes of a volume are about to be changed.
    func mark(_ volume: UInt32, _ offset: UInt64, _ length: UInt64) {
        guard Int(volume) < heads.count else { return }
        var at = heads[Int(volume)]
        while at >= 0 {
            let entry = entries[Int(at)]
            entry.bits.mark(offset, length)
            at = entry.next
        }
    }

    /// Sets the markers of a volume; returns those that it did not have.
    mutating func set(_ list: [Marker], volume: UInt32) -> [Marker] {
        let known = Set((markers[volume] ?? []).map(\.id))
        if list.isEmpty, known.isEmpty { return [] }
        markers[volume] = list.isEmpty ? nil : list
        rebuild()
        return list.filter { !known.contains($0.id) }
    }

    /// A marker of a volume; nil when there is none with this id.
    func find(_ id: Identifier, volume: UInt32) -> Marker? {
        markers[volume]?.first { $0.id == id }
    }

    private mutating func rebuild() {
        entries = []
        heads = markers.keys.max().map { Array(repeating: -1, count: Int($0) + 1) } ?? []
        for (volume, list) in markers {
            for marker in list {
                guard let bits = marker.bitmap?.bits else { continue }
                entries.append(Entry(bits: bits, next: heads[Int(volume)]))
                heads[Int(volume)] = Int32(entries.count - 1)
            }
        }
    }
}
