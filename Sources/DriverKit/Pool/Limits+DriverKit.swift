import Core

extension Limits {
    /// The alignment of every arena buffer and the smallest one, in bytes.
    public static let arenaGranule = 4096
    /// The largest arena, in bytes.
    public static let arenaBytesMax = 1 << 40
    /// The most entries of a driver ring.
    public static let driverRingEntriesMax = 1 << 16
    /// The most volumes that one pool may have open; indices of open volumes are below it.
    public static let openVolumesPerPoolMax = 1 << 16
    /// How many free buffers of one size the allocator keeps at hand before it merges them with their
    /// neighbours.
    static let arenaCachePerClass = 64
}
