import Core
import DriverKit

/// A reactor's view of one open volume.
struct FileVolume {
    let volume: OpenVolume
    let fd: Int32
    let isDirect: Bool
    var geometry: VolumeGeometry
    var inFlight = 0
    /// No index names it any more; it goes when its last operation has ended.
    var isRetired = false

    init(_ volume: OpenVolume) {
        self.volume = volume
        fd = volume.descriptor.raw
        isDirect = volume.isDirect
        geometry = volume.geometry
    }
}

/// A reactor's open volumes by index. A volume that is closed or opened anew keeps its file open for what is
/// running.
struct FileVolumeTable {
    private var slots: [FileVolume?] = []
    private var free: [Int] = []
    /// Slot by volume index, -1 for none.
    private var byIndex: [Int32] = []

    @inline(__always)
    func slot(_ index: UInt32) -> Int? {
        guard Int(index) < byIndex.count else { return nil }
        let slot = byIndex[Int(index)]
        return slot >= 0 ? Int(slot) : nil
    }

    @inline(__always)
    subscript(_ slot: Int) -> FileVolume {
        guard let volume = slots[slot] else {
            preconditionFailure("a volume was let go with operations running")
        }
        return volume
    }

    /// The slot of the volume that the index names, and its geometry; nil where none is open.
    @inline(__always)
    func open(_ index: UInt32) -> (Int, VolumeGeometry)? {
        slot(index).map { ($0, self[$0].geometry) }
    }

    mutating func begin(_ slot: Int) { slots[slot]?.inFlight += 1 }

    mutating func end(_ slot: Int) {
        slots[slot]?.inFlight -= 1
        releaseIfDone(slot)
    }

    /// Makes the index name this volume, or none.
    mutating func set(_ index: UInt32, _ volume: OpenVolume?) {
        guard index < Limits.openVolumesPerPoolMax else { return }
        if let slot = slot(index) {
            if let volume, slots[slot]?.volume === volume {
                slots[slot]?.geometry = volume.geometry
                return
            }
            slots[slot]?.isRetired = true
            byIndex[Int(index)] = -1
            releaseIfDone(slot)
        }
        guard let volume else { return }
        if Int(index) >= byIndex.count {
            byIndex.append(contentsOf: repeatElement(-1, count: Int(index) + 1 - byIndex.count))
        }
        let slot: Int
        if let reused = free.popLast() {
            slot = reused
            slots[slot] = FileVolume(volume)
        } else {
            slot = slots.count
            slots.append(FileVolume(volume))
        }
        byIndex[Int(index)] = Int32(slot)
    }

    /// Lets go of every volume that is not in use by an operation.
    mutating func removeAll() {
        for index in byIndex.indices { set(UInt32(index), nil) }
    }

    private mutating func releaseIfDone(_ slot: Int) {
        guard let volume = slots[slot], volume.isRetired, volume.inFlight == 0 else { return }
        slots[slot] = nil
        free.append(slot)
    }
}
