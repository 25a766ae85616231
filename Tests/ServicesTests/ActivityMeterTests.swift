import Core
import Testing

@testable import Services

@Suite struct ActivityMeterTests {
    private let period = Limits.fairPeriodNanoseconds
    private let many = Limits.gentleRequestsMax + 1

    private func meter(_ count: UInt32) -> ActivityMeter {
        var meter = ActivityMeter()
        meter.prepare(count - 1)
        return meter
    }

    @Test func whoWantsNothingForTwoPeriodsDoesNotCount() {
        var meter = meter(2)
        meter.touch(0, now: 0)
        meter.touch(1, now: 0)
        meter.touch(0, now: period)
        #expect(meter.active == 2)
        meter.touch(0, now: 2 * period)
        #expect(meter.active == 1)
    }

    @Test func aGentleOneBesideABusyOneIsNoticedAndForgotten() {
        var meter = meter(2)
        meter.touch(0, underWay: many, now: 0)
        #expect(!meter.isMixed)
        meter.touch(1, underWay: 1, now: 1)
        #expect(meter.isMixed)
        meter.touch(0, underWay: many, now: period)
        #expect(meter.isMixed)
        meter.touch(0, underWay: many, now: 2 * period)
        #expect(!meter.isMixed)
    }

    @Test func equalsAreNotMixed() {
        var gentle = meter(2)
        gentle.touch(0, underWay: 0, now: 0)
        gentle.touch(1, underWay: Limits.gentleRequestsMax, now: 0)
        #expect(!gentle.isMixed)
        var busy = meter(2)
        for now in [0, 1, period, period + 1] {
            busy.touch(0, underWay: many, now: now)
            busy.touch(1, underWay: many, now: now)
        }
        #expect(!busy.isMixed)
    }

    @Test func whoBecomesBusyIsNotGentleAnyMore() {
        var meter = meter(3)
        meter.touch(0, underWay: many, now: 0)
        meter.touch(1, underWay: 0, now: 0)
        #expect(meter.isMixed)
        meter.touch(1, underWay: many, now: 1)
        meter.touch(1, underWay: many, now: 2)
        #expect(!meter.isMixed)
    }
}
