import Core

/// How many lines each source may still write: a flood from one place of the program, or by one caller, becomes a count.
///
/// A value without a clock.
struct LogBudgets {
    /// Who caused lines, as far as budgets go.
    struct Source: Hashable, Sendable {
        /// A place in the program, or a caller.
        var name: String
        /// Authenticated as an administrator: its deeds are left out only where they come by the thousand.
        var isTrusted = false

        /// All that came when too many were told apart.
        static let others = Source(name: "others")
    }

    private struct Budget {
        var lines: Double
        /// Monotonic nanoseconds.
        var at: UInt64
        var leftOut: UInt64 = 0
    }

    private var budgets: [Source: Budget] = [:]
    /// Lines that were left out since the last summary.
    private(set) var leftOut: UInt64 = 0

    /// Takes a line of a source's budget; nil when it has none left, else how many of its lines were left out before
    /// this one and are to be said with it.
    mutating func take(_ source: Source, now: UInt64) -> UInt64? {
        var source = source
        if budgets[source] == nil, budgets.count >= Limits.logSourcesMax {
            forgetFull(now: now)
            if budgets.count >= Limits.logSourcesMax { source = .others }
        }
        var budget = budgets[source] ?? Budget(lines: burst(of: source), at: now)
        grow(&budget, source, now: now)
        defer { budgets[source] = budget }
        guard budget.lines >= 1 else {
            budget.leftOut += 1
            leftOut += 1
            return nil
        }
        budget.lines -= 1
        let before = budget.leftOut
        leftOut -= before
        budget.leftOut = 0
        return before
    }

    /// What was left out and not said yet, the most first; each is said once.
    mutating func takeSummary() -> [(source: Source, count: UInt64)] {
        guard leftOut > 0 else { return [] }
        leftOut = 0
        var found: [(source: Source, count: UInt64)] = []
        for (source, budget) in budgets where budget.leftOut > 0 {
            found.append((source, budget.leftOut))
            budgets[source]?.leftOut = 0
        }
        found.sort { ($0.count, $1.source.name) > ($1.count, $0.source.name) }
        guard found.count > Limits.logSummaryLinesMax else { return found }
        let rest = found[(Limits.logSummaryLinesMax - 1)...].reduce(0) { $0 + $1.count }
        return found.prefix(Limits.logSummaryLinesMax - 1) + [(.others, rest)]
    }

    /// Budgets that have grown back say nothing that a new one would not.
    private mutating func forgetFull(now: UInt64) {
        budgets = budgets.filter { source, budget in
            var budget = budget
            grow(&budget, source, now: now)
            return budget.leftOut > 0 || budget.lines < burst(of: source)
        }
    }

    private func burst(of source: Source) -> Double {
        Double(source.isTrusted ? Limits.logTrustedBurstLines : Limits.logBurstLines)
    }

    private func grow(_ budget: inout Budget, _ source: Source, now: UInt64) {
        guard now > budget.at else { return }
        let rate = Double(source.isTrusted ? Limits.logTrustedLinesPerSecond : Limits.logLinesPerSecond)
        budget.lines = min(burst(of: source), budget.lines + rate * Double(now - budget.at) / 1e9)
        budget.at = now
    }
}
