import Core

/// Requests of any length at any place, and what each must find: a verified load's share of a volume, as a value without
/// I/O.
///
/// The share is looked at in units, as small as the volume allows. No two requests that are under way overlap, so that what
/// each unit holds is known at any time: the generation of its last write. Lengths are spread evenly over the powers of
/// two, and are whole units: with the headers between them they end at every place of a TLS record.
struct MixedPlan {
    /// A request to make.
    struct Step: Equatable {
        /// The first unit, and how many.
        var units: Range<Int>
        var isWrite: Bool
    }

    /// Bytes of a unit.
    let unitBytes: Int
    /// The longest request, in units.
    let longest: Int
    private let readPercent: UInt64
    private var random: BenchPattern.Random
    /// What each unit holds: the generation of its last write; 0 before one, and after one that failed.
    private var generations: ContiguousArray<UInt32>
    private var isBusy: ContiguousArray<Bool>
    /// Counts writes, so that none stamps what another has stamped.
    private var generation: UInt32 = 0
    private var readBackCursor = 0

    /// - Parameters:
    ///   - units: at least one.
    ///   - longest: in units, at least one.
    init(units: Int, unitBytes: Int, longest: Int, readPercent: Int, seed: UInt64) {
        self.unitBytes = unitBytes
        self.longest = min(longest, units)
        self.readPercent = UInt64(readPercent)
        random = BenchPattern.Random(seed)
        generations = ContiguousArray(repeating: 0, count: units)
        isBusy = ContiguousArray(repeating: false, count: units)
    }

    /// The next request; nil when those under way leave too little room, which the end of one changes. When none is under
    /// way there is always one.
    mutating func next() -> Step? {
        for attempt in 0..<MixedPlan.attempts {
            let count = attempt + 1 == MixedPlan.attempts ? 1 : length()
            let first = Int(random.next(below: UInt64(generations.count - count + 1)))
            let units = first..<first + count
            if isBusy[units].contains(true) { continue }
            let isWrite = random.next(below: 100) >= readPercent
            for unit in units { isBusy[unit] = true }
            return Step(units: units, isWrite: isWrite)
        }
        guard let free = isBusy.firstIndex(of: false) else { return nil }
        isBusy[free] = true
        return Step(units: free..<free + 1, isWrite: random.next(below: 100) >= readPercent)
    }

    private static let attempts = 8

    private mutating func length() -> Int {
        let powers = UInt64(Int.bitWidth - longest.leadingZeroBitCount)
        let most = min(1 << Int(random.next(below: powers)), longest)
        // Between half of it and it, so that powers of two are no more usual than others.
        let least = most / 2 + 1
        return least + Int(random.next(below: UInt64(most - least + 1)))
    }

    /// The generation that a write stamps.
    mutating func beginWrite() -> UInt32 {
        generation += 1
        return generation
    }

    /// What a unit must hold; 0 where that is not known.
    func generation(of unit: Int) -> UInt32 { generations[unit] }

    /// The request ended; `generation` is what a write has stamped. After one that failed nobody knows what is there.
    mutating func ended(_ step: Step, generation: UInt32, succeeded: Bool) {
        for unit in step.units {
            isBusy[unit] = false
            if step.isWrite { generations[unit] = succeeded ? generation : 0 }
        }
    }

    /// A piece could not be read now: it comes again.
    mutating func readAgain(_ step: Step) { readBackCursor = step.units.lowerBound }

    /// The next piece of what was written, from the first unit on; nil at the end. When nothing else is under way.
    mutating func nextToReadBack() -> Step? {
        while readBackCursor < generations.count, generations[readBackCursor] == 0 { readBackCursor += 1 }
        guard readBackCursor < generations.count else { return nil }
        let first = readBackCursor
        while readBackCursor < generations.count, readBackCursor - first < longest,
            generations[readBackCursor] != 0
        {
            isBusy[readBackCursor] = true
            readBackCursor += 1
        }
        return Step(units: first..<readBackCursor, isWrite: false)
    }
}
