/// The disk below the driver: what reads see, and what is there after a loss of power.
struct SimulatedDisk {
    static let blocks = 6
    static let blockBytes = 64

    /// A block's value, and its place in the order of all writes to the disk.
    struct Block {
        var name: UInt64 = 0
        var version: UInt64 = 0
    }

    /// What reads see.
    private(set) var cache = [Block](repeating: Block(), count: blocks)
    /// What a flush has made durable.
    private(set) var medium = [Block](repeating: Block(), count: blocks)
    private var version: UInt64 = 0

    mutating func write(_ block: Int, _ name: UInt64) -> UInt64 {
        version += 1
        cache[block] = Block(name: name, version: version)
        return version
    }

    mutating func sync(_ range: Range<Int>) {
        for block in range { medium[block] = cache[block] }
    }

    mutating func losePower() { cache = medium }
}
