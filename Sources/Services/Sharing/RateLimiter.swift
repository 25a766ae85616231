import Core
import Synchronization

/// Spaces out units so that their rate stays below a ceiling (the generic cell rate algorithm).
///
/// It keeps one number: when the next unit would be due at the allowed rate. A unit is let through while that moment is
/// not in the future; its cost then moves the moment forward. A pause earns at most `burst`. Several threads may use it,
/// without a lock: what each lets through in the same moment the next ones pay for.
struct TokenBucket: ~Copyable {
    /// Nanoseconds that one unit takes at the allowed rate.
    private let nanosecondsPerUnit: Double
    /// How much idle time is credited, in nanoseconds.
    private let burst: UInt64
    private let due: Atomic<UInt64>

    /// A bucket for `unitsPerSecond` (0 counts as 1), full at `now`, or in debt until `due`.
    init(unitsPerSecond: UInt64, burst: UInt64 = Limits.rateBurstNanoseconds, now: UInt64, due: UInt64? = nil)
    {
        nanosecondsPerUnit = 1e9 / Double(max(unitsPerSecond, 1))
        self.burst = burst
        self.due = Atomic(due ?? (now > burst ? now - burst : 0))
    }

    /// When the next unit may pass.
    var nextDue: UInt64 { due.load(ordering: .relaxed) }

    /// Nanoseconds until a unit may pass; 0 for at once.
    func wait(now: UInt64) -> UInt64 {
        let due = nextDue
        return due > now ? due - now : 0
    }

    /// Takes `units`; allowed when `wait` is 0. A large cost is paid afterwards, by those that follow.
    func take(_ units: UInt64, now: UInt64) {
        let earliest = now > burst ? now - burst : 0
        // A frame's cost is bounded and the slowest rate is one a second, so this fits 64 bits by far.
        let cost = UInt64(min(Double(units) * nanosecondsPerUnit, 9e18))
        var before = nextDue
        while true {
            let (exchanged, present) = due.weakCompareExchange(
                expected: before, desired: max(before, earliest) &+ cost, ordering: .relaxed)
            if exchanged { return }
            before = present
        }
    }

    /// Whether forgetting it gives nothing away: one that is new would let no more through.
    func isFull(now: UInt64) -> Bool { nextDue &+ burst <= now }
}

/// What all users of one capability, or of one resource, may use together, on whatever reactor: operations and payload
/// bytes a second.
///
/// Any thread may use it. Only requests that have a limit touch it.
final class RateBudget: Sendable {
    /// The ceilings.
    let limits: RateLimits
    private let operations: TokenBucket
    private let bytes: TokenBucket
    private let limitsOperations: Bool
    private let limitsBytes: Bool

    /// A budget that is full, or goes on where another ended.
    init(_ limits: RateLimits, now: UInt64, after previous: RateBudget? = nil) {
        self.limits = limits
        limitsOperations = limits.iops != nil
        limitsBytes = limits.bytesPerSecond != nil
        let burst = limits.burstMilliseconds.map { $0 * 1_000_000 } ?? Limits.rateBurstNanoseconds
        operations = TokenBucket(
            unitsPerSecond: limits.iops ?? 1, burst: burst, now: now,
            due: previous.flatMap { $0.limitsOperations ? $0.operations.nextDue : nil })
        bytes = TokenBucket(
            unitsPerSecond: limits.bytesPerSecond ?? 1, burst: burst, now: now,
            due: previous.flatMap { $0.limitsBytes ? $0.bytes.nextDue : nil })
    }

    /// A budget of other ceilings from now on: what the earlier one let through too early is forgotten, and what it had
    /// saved up is not given twice.
    convenience init(_ limits: RateLimits, replacing previous: RateBudget, now: UInt64) {
        self.init(limits, now: now, after: RateBudget(settled: previous, now: now))
    }

    private init(settled other: RateBudget, now: UInt64) {
        limits = other.limits
        limitsOperations = other.limitsOperations
        limitsBytes = other.limitsBytes
        operations = TokenBucket(unitsPerSecond: 1, now: now, due: min(other.operations.nextDue, now))
        bytes = TokenBucket(unitsPerSecond: 1, now: now, due: min(other.bytes.nextDue, now))
    }

    /// Nanoseconds until the next request may run; 0 for at once.
    func wait(now: UInt64) -> UInt64 {
        max(limitsOperations ? operations.wait(now: now) : 0, limitsBytes ? bytes.wait(now: now) : 0)
    }

    /// Takes one operation of `count` payload bytes.
    func take(count: UInt32, now: UInt64) {
        if limitsOperations { operations.take(1, now: now) }
        if limitsBytes { bytes.take(UInt64(count), now: now) }
    }

    /// When its debt is paid.
    var debtEnds: UInt64 { max(limitsOperations ? operations.nextDue : 0, limitsBytes ? bytes.nextDue : 0) }

    /// Whether forgetting it gives nothing away.
    func isFull(now: UInt64) -> Bool {
        (!limitsOperations || operations.isFull(now: now)) && (!limitsBytes || bytes.isFull(now: now))
    }
}

/// Whose use a budget bounds.
enum RateSubject: Hashable, Sendable {
    /// Every handle of a capability, or of what was attenuated from one of its blocks.
    case capability(Identifier, RateScope)
    /// Every handle of every capability that was issued from a grant.
    case grant(Identifier)
    /// Every handle on a resource.
    case resource(Identifier)
}

/// The budgets of all that have a limit and are in use, or were a moment ago.
struct RateBudgets {
    private struct Entry {
        var budget: RateBudget
        var users: Int
    }

    private var entries: [RateSubject: Entry] = [:]
    private var sweepAt = 64

    /// How many are remembered.
    var count: Int { entries.count }

    /// The budget of a subject for one more reactor. A new one is full, unless it goes on `after` another.
    mutating func acquire(
        _ subject: RateSubject, _ limits: RateLimits, now: UInt64, after: RateBudget? = nil
    ) -> RateBudget {
        if let known = entries[subject] {
            entries[subject]?.users += 1
            return known.budget
        }
        if entries.count >= sweepAt { sweep(now: now) }
        let budget = RateBudget(limits, now: now, after: after)
        entries[subject] = Entry(budget: budget, users: 1)
        return budget
    }

    /// Gives a budget back. It is remembered until it is full, so that opening again earns nothing.
    mutating func release(_ subject: RateSubject, now: UInt64) {
        guard let users = entries[subject]?.users else { return }
        entries[subject]?.users = users - 1
        if users == 1, entries[subject]?.budget.isFull(now: now) == true { entries[subject] = nil }
    }

    /// Gives a subject other ceilings; the users ask for the new budget.
    mutating func replace(_ subject: RateSubject, _ limits: RateLimits, now: UInt64) {
        guard let known = entries[subject] else { return }
        entries[subject]?.budget = RateBudget(limits, replacing: known.budget, now: now)
    }

    /// The budget of a subject that is in use.
    func budget(of subject: RateSubject) -> RateBudget? { entries[subject]?.budget }

    private mutating func sweep(now: UInt64) {
        entries = entries.filter { $0.value.users > 0 || !$0.value.budget.isFull(now: now) }
        // Whoever narrows its own capability can make as many as it likes: those that owe least are forgotten.
        let unused = entries.filter { $0.value.users == 0 }
        if unused.count > Limits.rateBudgetsUnusedMax {
            let least = unused.sorted { $0.value.budget.debtEnds < $1.value.budget.debtEnds }
            for (subject, _) in least.prefix(unused.count - Limits.rateBudgetsUnusedMax / 2) {
                entries[subject] = nil
            }
        }
        sweepAt = max(64, 2 * entries.count)
    }
}
