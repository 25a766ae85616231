import Core
import Testing

@testable import Services

@Suite struct RateLimiterTests {
    private static let second: UInt64 = 1_000_000_000

    @Test func overTimeTheRateIsKept() {
        var bucket = TokenBucket(unitsPerSecond: 1000, now: 5 * Self.second)
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
        var bucket = TokenBucket(unitsPerSecond: 100, burst: Self.second / 10, now: 0)
        let later = 1000 * Self.second
        var passed = 0
        while bucket.wait(now: later) == 0 {
            bucket.take(1, now: later)
            passed += 1
        }
        #expect(passed == 11)
    }

    @Test func aLargeCostIsPaidAfterwards() {
        var bucket = TokenBucket(unitsPerSecond: 1 << 20, burst: 0, now: Self.second)
        #expect(bucket.wait(now: Self.second) == 0)
        bucket.take(1 << 20, now: Self.second)
        #expect(bucket.wait(now: Self.second) == Self.second)
        #expect(bucket.wait(now: 2 * Self.second) == 0)
    }

    @Test func extremeRatesAndTimesDoNotOverflow() {
        var slow = TokenBucket(unitsPerSecond: 0, now: 0)
        slow.take(.max, now: 0)
        #expect(slow.wait(now: 0) > 0)
        var fast = TokenBucket(unitsPerSecond: .max, now: .max)
        fast.take(1 << 20, now: .max)
        #expect(fast.wait(now: .max) == 0)
    }

    @Test func theStricterCeilingDecides() {
        #expect(RateLimiter(.none, now: 0) == nil)
        var limiter = RateLimiter(IOLimits(iops: 1000, bytesPerSecond: 4096), now: Self.second)
        limiter?.take(count: 4096, now: Self.second)
        #expect((limiter?.wait(now: Self.second) ?? 0) >= Self.second - Limits.rateBurstNanoseconds)
        var operations = RateLimiter(IOLimits(iops: 1), now: Self.second)
        operations?.take(count: 0, now: Self.second)
        #expect((operations?.wait(now: Self.second) ?? 0) > 0)
    }
}
