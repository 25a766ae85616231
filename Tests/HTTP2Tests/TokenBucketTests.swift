import Testing

@testable import HTTP2

@Suite struct TokenBucketTests {
    private static let second: UInt64 = 1_000_000_000

    @Test func aFullBucketGivesItsCapacityAndThenNothing() {
        var bucket = TokenBucket(capacity: 3, tokensPerSecond: 10, now: 5)
        func take(now: UInt64) -> Bool { bucket.take(now: now) }
        for _ in 0..<3 { #expect(take(now: 5)) }
        #expect(!take(now: 5))
    }

    @Test func tokensComeBackWithTimeAndNeverBeyondTheCapacity() {
        var bucket = TokenBucket(capacity: 2, tokensPerSecond: 10, now: 0)
        func take(now: UInt64) -> Bool { bucket.take(now: now) }
        #expect(take(now: 0))
        #expect(take(now: 0))
        #expect(!take(now: Self.second / 10 - 1))
        #expect(take(now: Self.second / 10))
        #expect(!take(now: Self.second / 10))
        #expect(take(now: 100 * Self.second))
        #expect(take(now: 100 * Self.second))
        #expect(!take(now: 100 * Self.second))
    }

    @Test func slowCallsDoNotLoseFractions() {
        var bucket = TokenBucket(capacity: 1, tokensPerSecond: 1, now: 0)
        func take(now: UInt64) -> Bool { bucket.take(now: now) }
        #expect(take(now: 0))
        #expect(!take(now: Self.second * 9 / 10))
        #expect(take(now: Self.second))
    }

    @Test func aClockThatStandsStillOrGoesBackGivesNothing() {
        var bucket = TokenBucket(capacity: 1, tokensPerSecond: 1000, now: 10 * Self.second)
        func take(now: UInt64) -> Bool { bucket.take(now: now) }
        #expect(take(now: 10 * Self.second))
        #expect(!take(now: 0))
        #expect(!take(now: 10 * Self.second))
    }

    @Test func creditIsCappedAndExtremeTimesAreHarmless() {
        var bucket = TokenBucket(capacity: 2, tokensPerSecond: .max, now: 0)
        func take(now: UInt64) -> Bool { bucket.take(now: now) }
        bucket.credit(.max)
        bucket.credit(-5)
        #expect(take(now: .max))
        #expect(take(now: .max))
        var none = TokenBucket(capacity: 0, tokensPerSecond: 0, now: 0)
        func takeNone(now: UInt64) -> Bool { none.take(now: now) }
        #expect(!takeNone(now: .max))
    }
}
