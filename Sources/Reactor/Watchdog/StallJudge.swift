/// Decides whether one reactor stands, from looks at it. A value without clock or thread.
///
/// What counts is time that the reactor could have used: the processor time that its thread took in the same turn, and
/// the time in which the thread waited in the kernel. A machine that is busy gives the thread no processor, and a process
/// that was stopped, or a machine that was suspended, stops the looks as well: a look never counts for more than
/// twice the time between two.
struct StallJudge {
    /// What is seen of a reactor in one moment.
    struct Look {
        /// The number of its turn.
        var turn: UInt64
        /// It waits for something to do, and nothing has come that it would have to be awake for.
        var isResting: Bool
        /// Processor time of its thread so far, in nanoseconds.
        var processorNanoseconds: UInt64
        /// Its thread waits in the kernel.
        var isBlocked: Bool
    }

    enum Verdict: Equatable {
        /// It turns, or has nothing to do.
        case turns
        /// It has not turned for a moment; nothing to say yet, or said already.
        case lingers
        /// It stands: said once.
        case stands
        /// It has stood for too long: said at every look from then on.
        case isLost
        /// It turns again, after so many nanoseconds that were said to be too many.
        case goesOn(after: UInt64)
    }

    private let interval: UInt64
    private let notice: UInt64
    private let end: UInt64?
    private var turn: UInt64?
    private var processor: UInt64 = 0
    private var lookedAt: UInt64 = 0
    private var isNoticed = false
    /// For how long it has stood, as far as that counts, in nanoseconds.
    private(set) var standing: UInt64 = 0
    /// How much of that its thread waited in the kernel, in nanoseconds.
    private(set) var blocked: UInt64 = 0

    /// - Parameters:
    ///   - interval: between two looks.
    ///   - notice: from here on it stands.
    ///   - end: from here on it is lost; nil for never.
    init(intervalNanoseconds interval: UInt64, noticeNanoseconds notice: UInt64, endNanoseconds end: UInt64?)
    {
        self.interval = interval
        self.notice = notice
        self.end = end
    }

    /// Takes a look in, at a monotonic time in nanoseconds.
    mutating func take(_ look: Look, now: UInt64) -> Verdict {
        let elapsed = min(now &- lookedAt, 2 * interval)
        let used = look.processorNanoseconds &- processor
        let isFirst = turn == nil
        let hasTurned = turn != look.turn
        lookedAt = now
        turn = look.turn
        processor = look.processorNanoseconds
        guard !hasTurned, !isFirst, !look.isResting else {
            let stood = standing
            let wasNoticed = isNoticed
            (standing, blocked, isNoticed) = (0, 0, false)
            return wasNoticed ? .goesOn(after: stood) : .turns
        }
        standing &+= look.isBlocked ? elapsed : min(used, elapsed)
        if look.isBlocked { blocked &+= elapsed }
        if let end, standing >= end { return .isLost }
        guard standing >= notice, !isNoticed else { return .lingers }
        isNoticed = true
        return .stands
    }
}
