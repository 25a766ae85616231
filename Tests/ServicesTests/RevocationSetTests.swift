import Core
import Testing

@testable import Services

@Suite struct RevocationSetTests {
    private func id(_ number: UInt64) -> Identifier { Identifier(high: 0, low: number) }

    @Test func anIdIsKeptUntilItsCapabilityHasExpired() {
        var set = RevocationSet()
        let outcome1 = set.insert(id(1), expiry: 1000, reason: "lost", now: 10)
        #expect(outcome1)
        #expect(set.reason(id(1)) == "lost")
        #expect(set.reason(id(2)) == nil)
        set.forgetExpired(now: 1000 + Limits.clockSkewSeconds)
        #expect(set.reason(id(1)) == "lost", "clocks may differ")
        set.forgetExpired(now: 1001 + 2 * Limits.clockSkewSeconds)
        #expect(set.count == 0)
    }

    @Test func whatNeverExpiresIsNeverForgotten() {
        var set = RevocationSet()
        let outcome2 = set.insert(id(1), expiry: .max, reason: "", now: 10)
        #expect(outcome2)
        set.forgetExpired(now: .max)
        #expect(set.count == 1)
    }

    @Test func aFullSetForgetsTheExpiredAndRefusesRatherThanForgetMore() {
        var set = RevocationSet(capacity: 2)
        let outcome3 = set.insert(id(1), expiry: 100, reason: "", now: 10)
        #expect(outcome3)
        let outcome4 = set.insert(id(2), expiry: 5000, reason: "", now: 10)
        #expect(outcome4)
        let outcome5 = set.insert(id(3), expiry: 5000, reason: "", now: 10)
        #expect(!outcome5)
        let outcome6 = set.insert(id(2), expiry: 5000, reason: "", now: 10)
        #expect(outcome6, "repeating is harmless")
        let outcome7 = set.insert(id(3), expiry: 5000, reason: "", now: 1000)
        #expect(outcome7)
        #expect(set.reason(id(1)) == nil)
        #expect(set.reason(id(2)) != nil)
    }
}
