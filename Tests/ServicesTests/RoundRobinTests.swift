import Core
import Testing

@testable import Services

@Suite struct RoundRobinTests {
    private final class Queue {
        var turns = RoundRobin()

        init(_ flows: Int) { turns.prepare(flows - 1) }

        /// Takes a turn, which costs so many bytes, and says whose it was.
        func take(_ bytes: Int, onlyFresh: Bool = false) -> Int? {
            while let (flow, _) = turns.candidate(onlyFresh: onlyFresh) {
                guard turns.isDue() else { continue }
                turns.charge(bytes, flow: flow)
                return flow
            }
            return nil
        }
    }

    @Test func nobodyIsNext() {
        let queue = Queue(3)
        #expect(queue.take(1) == nil)
        queue.turns.enter(2)
        #expect(queue.turns.isListed(2) && !queue.turns.isListed(1))
        #expect(queue.take(1) == 2)
    }

    @Test func whoHasTakenItsPartWaitsForTheOthers() {
        let queue = Queue(2)
        queue.turns.enter(0)
        queue.turns.enter(1)
        let part = Limits.fairQuantumBytes
        let order = (0..<6).map { _ in queue.take(part) }
        #expect(order == [0, 1, 0, 1, 0, 1])
    }

    @Test func whoWantedNothingLatelyIsFirstOnce() {
        let queue = Queue(3)
        queue.turns.enter(0)
        #expect(queue.take(4 * Limits.fairQuantumBytes) == 0)
        #expect(queue.take(1) == 0, "it is alone, and pays later")
        queue.turns.enter(1)
        #expect(queue.take(1, onlyFresh: true) == 1)
        queue.turns.pass()
        #expect(queue.turns.isListed(1), "it is not fresh again before everybody else had a turn")
        #expect(queue.take(1, onlyFresh: true) == nil)
    }

    @Test func whoMayHaveNothingLeavesAndComesBackBehind() {
        let queue = Queue(2)
        queue.turns.enter(0)
        queue.turns.leave()
        #expect(!queue.turns.isListed(0) && queue.turns.candidate() == nil)
        queue.turns.enter(1)
        queue.turns.enterAgain(0)
        let first = queue.turns.candidate()
        #expect(first?.flow == 1 && first?.isFresh == true)
    }
}
