import Core
import Testing

@testable import Logs

@Suite struct LogBudgetsTests {
    private let second: UInt64 = 1_000_000_000

    @Test func aFloodBecomesACountThatTheNextLineSays() {
        var budgets = LogBudgets()
        let flood = LogBudgets.Source(name: "Router.swift-80")
        let taken = (0..<1000).filter { _ in budgets.take(flood, now: 0) != nil }
        #expect(taken.count == Limits.logBurstLines)
        #expect(budgets.take(flood, now: second) == UInt64(1000 - Limits.logBurstLines))
        #expect(budgets.take(flood, now: second) == 0)
        #expect(budgets.leftOut == 0)
    }

    @Test func aFloodTakesNothingFromOthers() {
        var budgets = LogBudgets()
        for _ in 0..<100_000 { _ = budgets.take(.init(name: "node:bad"), now: 0) }
        #expect(budgets.take(.init(name: "node:good"), now: 0) == 0)
        for _ in 0..<2000 {
            #expect(budgets.take(.init(name: "admin:admin", isTrusted: true), now: 0) == 0)
        }
    }

    @Test func whatWasLeftOutIsSaidOnceThoughNothingMoreComes() {
        var budgets = LogBudgets()
        for _ in 0..<300 { _ = budgets.take(.init(name: "a"), now: 0) }
        for _ in 0..<200 { _ = budgets.take(.init(name: "b"), now: 0) }
        let summary = budgets.takeSummary()
        #expect(summary.map(\.source.name) == ["a", "b"] && summary.map(\.count) == [200, 100])
        #expect(budgets.takeSummary().isEmpty)
    }

    @Test func sourcesAreBoundedAndThoseBeyondShareABudget() {
        var budgets = LogBudgets()
        var written = 0
        for number in 0..<10 * Limits.logSourcesMax {
            if budgets.take(.init(name: "\(number)"), now: 0) != nil { written += 1 }
        }
        #expect(written <= Limits.logSourcesMax + Limits.logBurstLines)
        let summary = budgets.takeSummary()
        #expect(summary.map(\.source) == [.others])
        #expect(budgets.take(.init(name: "new"), now: 60 * second) == 0, "those that grew back make room")
    }
}
