import Synchronization
import Testing

@testable import Reactor

/// One answer from one thread to others, and what becomes of who waits for a reactor that has ended.
@Suite struct OneShotTests {
    @Test func theFirstValueCountsForAllWhoWait() throws {
        let shot = OneShot<Int>()
        let heard = OneShot<Int>()
        let sum = Mutex((count: 0, sum: 0))
        for _ in 0..<3 {
            try DetachedThread.start(name: "waits") {
                let value = shot.take()
                let all = sum.withLock { sum in
                    sum.count += 1
                    sum.sum += value
                    return sum
                }
                if all.count == 3 { heard.give(all.sum) }
            }
        }
        #expect(shot.give(7))
        #expect(!shot.give(8))
        #expect(heard.take() == 21)
        #expect(shot.take(milliseconds: 0) == 7)
    }

    @Test func whoeverWaitsForSoLongHearsThatNothingCame() {
        let shot = OneShot<Void>()
        #expect(shot.take(milliseconds: 1) == nil)
        shot.give(())
        #expect(shot.take(milliseconds: 0) != nil)
    }

    @Test func aReactorAnswersUntilItHasEndedAndThenNobodyWaitsForIt() throws {
        let thread = try Reactor.start { _ in }
        #expect(thread.remote.call { _ in 5 } == 5)
        thread.remote.stop()
        thread.join()
        #expect(thread.remote.call { _ in 5 } == nil)
    }

    @Test func aThreadThatCannotBeHadIsAnError() {
        #expect(throws: ReactorError.self) {
            try DetachedThread.start(name: "huge", stackBytes: 1 << 47) {}
        }
    }
}
