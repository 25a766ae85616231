import Core

/// How much one reactor writes before it looks again at the space that the pool has left: a part of that, so that many
/// reactors and pools together stop before the margin is used up, and a file system with much room is asked seldom.
struct SpaceAllowance {
    private var left: UInt64 = 0
    /// Nothing was left at the last look.
    private(set) var isFull = false

    /// Takes what a request writes; true when it is time to look.
    @inline(__always)
    mutating func isSpent(_ bytes: UInt64) -> Bool {
        if bytes <= left {
            left -= bytes
            return false
        }
        return true
    }

    /// Takes what there is; nil when that does not matter.
    mutating func look(free: UInt64?) {
        guard let free else {
            left = .max
            isFull = false
            return
        }
        isFull = free == 0
        let range = Limits.spaceLookBytes
        left = isFull ? 0 : min(max(free / Limits.spaceLookShare, range.lowerBound), range.upperBound)
    }
}
