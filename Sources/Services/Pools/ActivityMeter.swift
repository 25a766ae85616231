import Core

/// Counts who wanted something lately, by small numbers: in this period or the one before; and who of them is gentle,
/// which is to never have more than a few requests under way. No clock.
struct ActivityMeter {
    /// The period in which each was seen last; periods are counted from 1.
    private var seen: [UInt64] = []
    /// The period in which each last had more under way than a gentle one has.
    private var busy: [UInt64] = []
    private var period: UInt64 = 1
    private var periodEnd: UInt64 = 0
    private var countNow = 0
    private var countBefore = 0
    private var gentleNow = 0
    private var gentleBefore = 0

    /// How many there are.
    @inline(__always)
    var active: Int { max(countNow, countBefore) }

    /// Whether there are gentle ones beside others.
    @inline(__always)
    var isMixed: Bool {
        let gentle = max(gentleNow, gentleBefore)
        return gentle > 0 && gentle < active
    }

    /// Makes room for a number.
    mutating func prepare(_ number: UInt32) {
        while seen.count <= Int(number) {
            seen.append(0)
            busy.append(0)
        }
    }

    /// Notes that `number`, which has `underWay` requests under way, wants something now, in nanoseconds.
    @inline(__always)
    mutating func touch(_ number: UInt32, underWay: Int = 0, now: UInt64) {
        if now >= periodEnd { beginPeriod(now) }
        if seen[Int(number)] != period { count(Int(number)) }
        if underWay > Limits.gentleRequestsMax, busy[Int(number)] != period { countBusy(Int(number)) }
    }

    private mutating func beginPeriod(_ now: UInt64) {
        // After a silence of more than a period nobody was there in the one before.
        let isNext = now < periodEnd &+ Limits.fairPeriodNanoseconds
        countBefore = isNext ? countNow : 0
        gentleBefore = isNext ? gentleNow : 0
        countNow = 0
        gentleNow = 0
        period &+= 1
        periodEnd = now &+ Limits.fairPeriodNanoseconds
    }

    private mutating func count(_ index: Int) {
        seen[index] = period
        countNow += 1
        gentleNow += 1
    }

    private mutating func countBusy(_ index: Int) {
        busy[index] = period
        gentleNow -= 1
    }
}
