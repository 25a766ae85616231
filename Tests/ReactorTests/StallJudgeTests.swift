import Testing

@testable import Reactor

/// What counts as standing, and what does not, look by look.
@Suite struct StallJudgeTests {
    private static let interval: UInt64 = 100_000_000
    private static let second: UInt64 = 1_000_000_000
    private var judge = StallJudge(
        intervalNanoseconds: interval, noticeNanoseconds: second / 2, endNanoseconds: 5 * second)
    private var now: UInt64 = 7 * second
    private var processor: UInt64 = 0

    private mutating func look(
        turn: UInt64, isResting: Bool = false, used: UInt64 = 0, isBlocked: Bool = false,
        after: UInt64 = interval
    ) -> StallJudge.Verdict {
        now += after
        processor += used
        return judge.take(
            StallJudge.Look(
                turn: turn, isResting: isResting, processorNanoseconds: processor, isBlocked: isBlocked),
            now: now)
    }

    @Test mutating func aReactorThatTurnsIsLeftAlone() {
        for turn in 0..<200 as Range<UInt64> {
            #expect(look(turn: turn, used: Self.interval) == .turns)
        }
    }

    @Test mutating func aReactorThatSleepsIsLeftAloneForEver() {
        for _ in 0..<1000 { #expect(look(turn: 3, isResting: true, isBlocked: true) == .turns) }
    }

    @Test(arguments: [true, false])
    mutating func oneThatRunsInACircleOrWaitsIsSaidOnceAndThenLost(_ isBlocked: Bool) {
        var verdicts: [StallJudge.Verdict] = [
            look(turn: 5, used: isBlocked ? 0 : Self.interval, isBlocked: isBlocked)
        ]
        for _ in 0..<60 {
            verdicts.append(look(turn: 5, used: isBlocked ? 0 : Self.interval, isBlocked: isBlocked))
        }
        #expect(verdicts.firstIndex(of: .stands) == 5)
        #expect(verdicts.count { $0 == .stands } == 1)
        #expect(verdicts.firstIndex(of: .isLost) == 50)
        #expect(verdicts[50...].allSatisfy { $0 == .isLost })
        #expect(judge.blocked == (isBlocked ? judge.standing : 0))
    }

    @Test mutating func oneThatGoesOnSaysForHowLongItStoodOnlyIfThatWasSaid() {
        _ = look(turn: 1)
        for _ in 0..<3 { #expect(look(turn: 1, used: Self.interval) == .lingers) }
        #expect(look(turn: 2, used: Self.interval) == .turns)
        for _ in 0..<4 { #expect(look(turn: 2, used: Self.interval) == .lingers) }
        #expect(look(turn: 2, used: Self.interval) == .stands)
        #expect(look(turn: 2, used: Self.interval) == .lingers)
        #expect(look(turn: 3, used: Self.interval) == .goesOn(after: 6 * Self.interval))
        #expect(look(turn: 3, isResting: true) == .turns)
    }

    @Test mutating func aMachineThatGivesTheThreadNoProcessorIsNotItsFault() {
        _ = look(turn: 1)
        // Runnable for ten minutes, and one millisecond of processor in each second.
        for _ in 0..<600 { #expect(look(turn: 1, used: 100_000, after: Self.interval) != .isLost) }
        #expect(judge.standing == 600 * 100_000)
    }

    @Test mutating func aProcessThatWasStoppedForADayHasStoodForMoments() {
        _ = look(turn: 1)
        #expect(look(turn: 1, isBlocked: true) == .lingers)
        #expect(look(turn: 1, isBlocked: true, after: 86_400 * Self.second) == .lingers)
        #expect(look(turn: 1, used: 86_400 * Self.second, after: 86_400 * Self.second) != .isLost)
        #expect(judge.standing <= 5 * Self.interval)
        #expect(look(turn: 2) != .isLost)
    }

    @Test mutating func withoutAnEndItIsNeverLost() {
        judge = StallJudge(
            intervalNanoseconds: Self.interval, noticeNanoseconds: Self.second / 2, endNanoseconds: nil)
        for _ in 0..<1000 { #expect(look(turn: 1, used: Self.interval) != .isLost) }
    }
}
