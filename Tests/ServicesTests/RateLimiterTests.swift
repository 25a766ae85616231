import Core
import Testing

@testable import Services

@Suite struct RateLimiterTests {
    private static let second: UInt64 = 1_000_000_000

    @Test func overTimeTheRateIsKept() {
        let bucket = TokenBucket(unitsPerSecond: 1000, now: 5 * Self.second)
        var now = 5 * Self.second
        var passed = 0
        while now < 15 * Self.second {
            let wait = bucket.wait(now: now)
            if wait > 0 {
                now += wait
            } else {
                bucket.take(1, now: now)
                passed += 1
            }
        }
        // Ten seconds' worth, and at most one burst more.
        #expect((10_000...10_101).contains(passed))
    }

    @Test func aPauseEarnsNoMoreThanOneBurst() {
        let bucket = TokenBucket(unitsPerSecond: 100, burst: Self.second / 10, now: 0)
        let later = 1000 * Self.second
        var passed = 0
        while bucket.wait(now: later) == 0 {
            bucket.take(1, now: later)
            passed += 1
        }
        #expect(passed == 11)
    }

    @Test func aLargeCostIsPaidAfterwards() {
        let bucket = TokenBucket(unitsPerSecond: 1 << 20, burst: 0, now: Self.second)
        #expect(bucket.wait(now: Self.second) == 0)
        bucket.take(1 << 20, now: Self.second)
        #expect(bucket.wait(now: Self.second) == Self.second)
        #expect(bucket.wait(now: 2 * Self.second) == 0)
    }

    @Test func extremeRatesAndTimesDoNotOverflow() {
        let slow = TokenBucket(unitsPerSecond: 0, now: 0)
        slow.take(.max, now: 0)
        #expect(slow.wait(now: 0) > 0)
        let fast = TokenBucket(unitsPerSecond: .max, now: .max)
        fast.take(1 << 20, now: .max)
        #expect(fast.wait(now: .max) == 0)
    }

    @Test func theStricterCeilingDecides() {
        let both = RateBudget(RateLimits(iops: 1000, bytesPerSecond: 4096), now: Self.second)
        both.take(count: 4096, now: Self.second)
        #expect(both.wait(now: Self.second) >= Self.second - Limits.rateBurstNanoseconds)
        let operations = RateBudget(RateLimits(iops: 1), now: Self.second)
        operations.take(count: 0, now: Self.second)
        #expect(operations.wait(now: Self.second) > 0)
        let none = RateBudget(.none, now: Self.second)
        none.take(count: .max, now: Self.second)
        #expect(none.wait(now: Self.second) == 0)
    }

    @Test func theBurstIsWhatWasSaid() {
        for (milliseconds, most) in [(UInt64(0), 1), (500, 51), (2000, 201)] {
            let limits = RateLimits(iops: 100, burstMilliseconds: milliseconds)
            let budget = RateBudget(limits, now: 10 * Self.second)
            var passed = 0
            while budget.wait(now: 10 * Self.second) == 0 {
                budget.take(count: 0, now: 10 * Self.second)
                passed += 1
            }
            #expect(passed == most)
        }
    }

    @Test func threadsShareABudgetAndWhatTheyTakeTooEarlyIsPaid() async {
        let budget = RateBudget(RateLimits(iops: 1000, burstMilliseconds: 0), now: Self.second)
        await withTaskGroup { group in
            for _ in 0..<4 {
                group.addTask { for _ in 0..<2500 { budget.take(count: 0, now: Self.second) } }
            }
        }
        #expect(budget.wait(now: Self.second) == 10 * Self.second)
    }

    @Test func newCeilingsForgetDebtsAndGiveNothingTwice() {
        let now = 100 * Self.second
        let slow = RateBudget(RateLimits(iops: 1), now: now)
        for _ in 0..<50 { slow.take(count: 0, now: now) }
        #expect(slow.wait(now: now) > 40 * Self.second)
        let fast = RateBudget(RateLimits(iops: 1000), replacing: slow, now: now)
        #expect(fast.wait(now: now) == 0)
        var passed = 0
        while fast.wait(now: now) == 0 {
            fast.take(count: 0, now: now)
            passed += 1
        }
        #expect(passed == 1, "the burst was used up before")
        let bytes = RateBudget(RateLimits(bytesPerSecond: 1000), replacing: fast, now: now)
        #expect(bytes.wait(now: now) == 0, "a ceiling that is new is full")
    }

    @Test func openingAgainEarnsNothing() {
        var budgets = RateBudgets()
        let subject = RateSubject.resource(Identifier.zero)
        let limits = RateLimits(iops: 10)
        var passed = 0
        for _ in 0..<100 {
            let budget = budgets.acquire(subject, limits, now: Self.second)
            while budget.wait(now: Self.second) == 0 {
                budget.take(count: 0, now: Self.second)
                passed += 1
            }
            budgets.release(subject, now: Self.second)
        }
        #expect(passed == 2)
        // When it is full, it is forgotten.
        _ = budgets.acquire(subject, limits, now: 9 * Self.second)
        budgets.release(subject, now: 9 * Self.second)
        #expect(budgets.count == 0)
    }

    @Test func whatIsRememberedIsBounded() {
        var budgets = RateBudgets()
        for number in 0..<100_000 {
            let scope = RateScope(block: [], limits: IOLimits(iops: 1000))
            let id = Identifier(high: 0, low: UInt64(number))
            let now = UInt64(number) * 1_000_000 + Self.second
            let budget = budgets.acquire(.capability(id, scope), RateLimits(iops: 1000), now: now)
            for _ in 0..<200 { budget.take(count: 0, now: now) }
            budgets.release(.capability(id, scope), now: now)
        }
        #expect(budgets.count < 1000)
    }
}
