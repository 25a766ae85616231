import Core

/// Which block is next, and what must be in it: a worker's share of the volume as a value without I/O.
struct BenchPlan {
    /// The most blocks of one worker that a verified run remembers.
    static let verifiedBlocksMax = 16 << 20

    /// One request to make.
    struct Step: Equatable {
        var block: Int
        var isWrite: Bool
        /// What a write stamps, or what a read must find; 0 where it is not known.
        var generation: UInt32
    }

    private enum Phase {
        case load
        case readBack
    }

    /// The blocks of the share.
    let blocks: Int
    private let workload: BenchWorkload
    private let readPercent: UInt64
    private var random: BenchPattern.Random
    private var cursor = 0
    private var phase = Phase.load
    /// What each block holds: the generation of its last write, 0 before one; only in a verified run.
    private var generations: ContiguousArray<UInt32> = []
    /// Blocks that a request is in flight for; only in a verified run.
    private var isBusy: ContiguousArray<Bool> = []

    /// - Parameter blocks: at least 1, and in a verified run at least one more than requests are in flight.
    init(blocks: Int, workload: BenchWorkload, readPercent: Int, verify: Bool, seed: UInt64) {
        self.blocks = verify ? min(blocks, BenchPlan.verifiedBlocksMax) : blocks
        self.workload = workload
        self.readPercent = UInt64(readPercent)
        random = BenchPattern.Random(seed)
        if verify, workload.writes {
            generations = ContiguousArray(repeating: 0, count: self.blocks)
            isBusy = ContiguousArray(repeating: false, count: self.blocks)
        }
    }

    /// Whether contents are remembered.
    var isTracking: Bool { !generations.isEmpty }

    /// From now on `next` reads every block once that was written.
    mutating func beginReadBack() {
        phase = .readBack
        cursor = 0
    }

    /// The next request; nil when reading back has come to its end.
    mutating func next() -> Step? {
        if phase == .readBack { return nextToReadBack() }
        var block: Int
        if workload.isRandom {
            block = Int(random.next(below: UInt64(blocks)))
        } else {
            block = cursor
            cursor = cursor + 1 == blocks ? 0 : cursor + 1
        }
        let isWrite =
            switch workload {
            case .read, .randread: false
            case .write, .randwrite: true
            case .randrw, .mixed: random.next(below: 100) >= readPercent
            }
        guard isTracking else { return Step(block: block, isWrite: isWrite, generation: 0) }
        while isBusy[block] { block = block + 1 == blocks ? 0 : block + 1 }
        isBusy[block] = true
        let held = generations[block]
        return Step(block: block, isWrite: isWrite, generation: isWrite ? held &+ 1 : held)
    }

    private mutating func nextToReadBack() -> Step? {
        while cursor < generations.count {
            defer { cursor += 1 }
            if generations[cursor] != 0 {
                return Step(block: cursor, isWrite: false, generation: generations[cursor])
            }
        }
        return nil
    }

    /// The request ended. After a write that failed, nothing is known of its block.
    mutating func ended(_ step: Step, succeeded: Bool) {
        guard isTracking else { return }
        isBusy[step.block] = false
        if step.isWrite { generations[step.block] = succeeded ? step.generation : 0 }
    }
}
