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
    /// Whether only what was changed counts as changed, and what shares a unit with that.
    public let isComplete: Bool

    init(_ marker: Marker, size: UInt64) {
        id = marker.id
        isComplete = marker.bitmap != nil
        if let bitmap = marker.bitmap {
            granularity = 1 << UInt64(bitmap.bits.shift)
            changedBytes = bitmap.changedBytes(size: size)
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
    /// `Limits.markersPerVolumeMax` places for each volume index up to the highest that ever had a marker, filled from
    /// the first on; empty while there is none at all.
    private var bits: [MarkerBits?] = []
    /// Keeps the bits' memory.
    private var markers: [UInt32: [Marker]] = [:]

    /// Notes what a request is about to change.
    @inline(__always)
    func mark(_ request: DriverRequest) {
        guard !bits.isEmpty else { return }
        switch request.opcode {
        case .write, .writeZeroes, .discard: mark(request.index, request.offset, request.length)
        case .read, .flush, .blockStatus, nil: return
        }
    }

    private func mark(_ volume: UInt32, _ offset: UInt64, _ length: UInt64) {
        var at = Int(volume) * Limits.markersPerVolumeMax
        let end = at + Limits.markersPerVolumeMax
        guard end <= bits.count else { return }
        while at < end, let bits = bits[at] {
            bits.mark(offset, length)
            at += 1
        }
    }

    /// Sets the markers of a volume; returns those that it did not have.
    mutating func set(_ list: [Marker], volume: UInt32) -> [Marker] {
        let known = (markers[volume] ?? []).map(\.id)
        if list.map(\.id) == known { return [] }
        markers[volume] = list.isEmpty ? nil : list
        if markers.isEmpty {
            bits = []
        } else {
            fill(volume, list.compactMap { $0.bitmap?.bits })
        }
        return list.filter { !known.contains($0.id) }
    }

    private mutating func fill(_ volume: UInt32, _ list: [MarkerBits]) {
        precondition(list.count <= Limits.markersPerVolumeMax, "a volume has more markers than it may")
        let start = Int(volume) * Limits.markersPerVolumeMax
        while bits.count < start + Limits.markersPerVolumeMax { bits.append(nil) }
        for index in 0..<Limits.markersPerVolumeMax {
            bits[start + index] = index < list.count ? list[index] : nil
        }
    }

    /// A marker of a volume; nil when there is none with this id.
    func find(_ id: Identifier, volume: UInt32) -> Marker? {
        markers[volume]?.first { $0.id == id }
    }
}
