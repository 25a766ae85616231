/// The content of verified blocks: every word follows from the seed, the place and the generation of the
/// write.
///
/// Words are 8 bytes in the machine's order: 0 a mark made of the seed, 1 the offset in the volume, 2 the
/// generation, then numbers of splitmix64 that start from all three.
struct BenchPattern {
    /// Numbers that look random: splitmix64 (public domain).
    struct Random {
        private var state: UInt64

        init(_ seed: UInt64) {
            state = seed
        }

        mutating func next() -> UInt64 {
            state &+= 0x9e37_79b9_7f4a_7c15
            var mixed = state
            mixed = (mixed ^ (mixed >> 30)) &* 0xbf58_476d_1ce4_e5b9
            mixed = (mixed ^ (mixed >> 27)) &* 0x94d0_49bb_1331_11eb
            return mixed ^ (mixed >> 31)
        }

        /// A number below `bound`, which is above 0.
        mutating func next(below bound: UInt64) -> UInt64 {
            next().multipliedFullWidth(by: bound).high
        }
    }

    /// Decides the content, with place and generation.
    let seed: UInt64

    private var mark: UInt64 { seed ^ 0x736c_7569_6365_2101 }

    /// Fills a block; its size is a multiple of 8 and at least 24 bytes.
    func fill(_ block: UnsafeMutableRawBufferPointer, offset: UInt64, generation: UInt64) {
        let words = unsafe block.bindMemory(to: UInt64.self)
        unsafe words[0] = mark
        unsafe words[1] = offset
        unsafe words[2] = generation
        var random = content(offset, generation)
        for index in 3..<words.count { unsafe words[index] = random.next() }
    }

    /// What is wrong with a block, in words; nil when it is right.
    ///
    /// - Parameter generation: the one that it must have; nil for whichever it says.
    func mismatch(_ block: UnsafeMutableRawBufferPointer, offset: UInt64, generation: UInt64?) -> String? {
        let words = unsafe block.bindMemory(to: UInt64.self)
        guard unsafe words[0] == mark else { return "the block at \(offset) holds no stamp of this seed" }
        guard unsafe words[1] == offset else {
            return unsafe "the block at \(offset) holds the one of \(words[1])"
        }
        if let generation {
            guard unsafe words[2] == generation else {
                return unsafe "the block at \(offset) holds write \(words[2]) and not \(generation)"
            }
        }
        var random = unsafe content(offset, words[2])
        for index in 3..<words.count {
            guard unsafe words[index] == random.next() else {
                return "the block at \(offset) is wrong from its byte \(index * 8) on"
            }
        }
        return nil
    }

    private func content(_ offset: UInt64, _ generation: UInt64) -> Random {
        var first = Random(seed ^ offset &* 0x9e37_79b9_7f4a_7c15)
        return Random(first.next() ^ generation)
    }
}
