import Core
import Testing

@testable import DataPlane

@Suite struct TurnQueueTests {
    @Test func eachSessionHasItsTurnHoweverManyConnectionsItHas() {
        var queue = TurnQueue<Int>()
        for connection in 0..<8 { queue.append(connection, flow: 0) }
        queue.append(100, flow: 1)
        var bytes = [0, 0]
        for _ in 0..<4000 {
            guard let (connection, flow, _) = queue.next(onlyFresh: false) else { break }
            bytes[flow] += 16 << 10
            queue.charge(16 << 10, flow: flow)
            queue.append(connection, flow: flow)
        }
        #expect(abs(bytes[0] - bytes[1]) <= 2 * Limits.fairQuantumBytes)
    }

    @Test(arguments: [1, 2, 7, 300])
    func everythingComesOutWhateverItCost(_ flows: Int) {
        for cost in [0, 1, Limits.turnCost, Limits.fairQuantumBytes, 16 * Limits.fairQuantumBytes, 1 << 20] {
            var queue = TurnQueue<Int>()
            for flow in 0..<flows { for element in 0..<3 { queue.append(element, flow: flow) } }
            var out = 0
            // Whoever takes only those that are new goes on with the others.
            for onlyFresh in [true, false] {
                while let (_, flow, _) = queue.next(onlyFresh: onlyFresh) {
                    queue.charge(cost, flow: flow)
                    out += 1
                    if out > 3 * flows { break }
                }
            }
            #expect(out == 3 * flows && queue.isEmpty)
        }
    }

    @Test func whoWantedNothingLatelyIsNextEvenWhereTheOthersHaveUsedUpTheWakeUp() {
        var queue = TurnQueue<Int>()
        queue.append(1, flow: 1)
        queue.append(2, flow: 1)
        #expect(queue.next(onlyFresh: false)?.element == 1)
        queue.charge(1 << 20, flow: 1)
        #expect(queue.next(onlyFresh: true) == nil)
        queue.append(3, flow: 2)
        #expect(queue.next(onlyFresh: true)?.element == 3)
        #expect(queue.next(onlyFresh: true) == nil)
        #expect(queue.next(onlyFresh: false)?.element == 2)
        #expect(queue.isEmpty)
        #expect(queue.next(onlyFresh: false) == nil)
    }

    @Test func whoComesAgainAndAgainDoesNotStarveOthers() {
        var queue = TurnQueue<Int>()
        queue.append(0, flow: 0)
        queue.append(1, flow: 1)
        var turns = [0, 0]
        for _ in 0..<1000 {
            guard let (element, flow, _) = queue.next(onlyFresh: false) else { break }
            turns[flow] += 1
            queue.charge(64 << 10, flow: flow)
            queue.append(element, flow: flow)
        }
        #expect(abs(turns[0] - turns[1]) <= 2)
    }
}
