import Testing

@testable import Core

/// What is forgotten by a clock that somebody may set.
@Suite struct CautiousClockTests {
    private static let start: UInt64 = 1_800_000_000
    private var clock = CautiousClock()

    private mutating func look(_ seconds: UInt64, ahead: Int64 = 0) -> Int64 {
        let wall = UInt64(Int64(Self.start + seconds) + ahead)
        return Int64(clock.now(wall: wall, monotonic: seconds * 1_000_000_000)) - Int64(Self.start + seconds)
    }

    @Test("a step forward is believed when it has lasted for an hour, one backward at once")
    mutating func steps() {
        #expect(look(0) == 0)
        #expect(look(10, ahead: 86_400) == 0)
        #expect(look(3600, ahead: 86_400) == 0)
        #expect(look(3611, ahead: 86_400) == 86_400)
        #expect(look(3620, ahead: 0) == 0)
        #expect(look(3630, ahead: -500) == -500)
    }

    @Test("one that is taken back was never believed")
    mutating func takenBack() {
        #expect(look(0) == 0)
        for second in stride(from: UInt64(10), to: 20_000, by: 1800) {
            #expect(look(second, ahead: 86_400) == 0)
            #expect(look(second + 900) == 0)
        }
    }

    @Test("of two steps each has to last")
    mutating func twice() {
        #expect(look(0) == 0)
        #expect(look(10, ahead: 100) == 0)
        #expect(look(3000, ahead: 5000) == 0)
        #expect(look(3700, ahead: 5000) == 100)
        #expect(look(7400, ahead: 5000) == 5000)
    }

    @Test("drift is no step, and impossible times do no harm")
    mutating func limits() {
        #expect(look(0) == 0)
        #expect(look(300, ahead: 2) == 2)
        #expect(look(600, ahead: 4) == 4)
        var other = CautiousClock()
        #expect(other.now(wall: 0, monotonic: .max) == 0)
        #expect(other.now(wall: .max, monotonic: .max) < .max)
        #expect(other.now(wall: 5, monotonic: 0) <= 5)
    }

    @Test("a life is measured by what is left of it, whatever it says")
    func deadlines() {
        #expect(Lifetime.deadline(expiry: 110, wall: 100, monotonic: 7) == 10_000_000_007)
        #expect(Lifetime.deadline(expiry: 100, wall: 100, monotonic: 7) == 7)
        #expect(Lifetime.deadline(expiry: 0, wall: .max, monotonic: 7) == 7)
        #expect(Lifetime.deadline(expiry: .max, wall: 0, monotonic: 7) == .max)
        #expect(Lifetime.deadline(expiry: 1 << 34, wall: 0, monotonic: 1 << 63) == .max)
    }
}
