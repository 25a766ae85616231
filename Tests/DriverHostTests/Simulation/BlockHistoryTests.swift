import Simulation
import Testing

/// The simulator's judge is judged itself: against every possible order of few operations.
@Suite("BlockHistory: whether some order explains what was seen")
struct BlockHistoryTests {
    private struct Operation {
        var value: UInt64
        var isWrite: Bool
        var start: UInt64
        var end: UInt64
    }

    /// Whether an order of the operations exists that keeps to their times and in which each read sees the
    /// last write.
    private func isExplained(_ operations: [Operation], done: Int = 0, current: UInt64 = 0) -> Bool {
        if done == (1 << operations.count) - 1 { return true }
        for (index, operation) in operations.enumerated() where done & (1 << index) == 0 {
            let isFirst = operations.enumerated().allSatisfy {
                done & (1 << $0.offset) != 0 || $0.offset == index || $0.element.end > operation.start
            }
            guard isFirst, operation.isWrite || operation.value == current else { continue }
            if isExplained(operations, done: done | 1 << index, current: operation.value) { return true }
        }
        return false
    }

    private func judge(_ operations: [Operation], prunes: Bool) -> Bool {
        var history = BlockHistory()
        var moments: [(time: UInt64, index: Int, isEnd: Bool)] = []
        for (index, operation) in operations.enumerated() {
            moments.append((operation.start, index, false))
            moments.append((operation.end, index, true))
        }
        moments.sort { $0.time < $1.time }
        var open: Set<Int> = []
        for moment in moments {
            let operation = operations[moment.index]
            if !moment.isEnd {
                open.insert(moment.index)
                if operation.isWrite { history.writeStarted(operation.value, at: operation.start) }
                continue
            }
            open.remove(moment.index)
            let wrong = history.observed(
                operation.value, start: operation.start, end: operation.end, isWrite: operation.isWrite)
            if wrong != nil { return false }
            if prunes {
                let oldest = open.map { operations[$0].start }.min() ?? moment.time
                history.prune(now: moment.time, oldest: oldest, stored: (0, 0))
            }
        }
        return true
    }

    @Test("agrees with trying all orders", arguments: [false, true])
    func agrees(prunes: Bool) {
        var random = SplitMix(seed: 1997)
        var explained = 0
        for round in 0..<4000 {
            let count = 2 + random.below(5)
            var times = (1...UInt64(2 * count)).shuffled(using: &random)
            var operations: [Operation] = []
            var values: [UInt64] = [0]
            for index in 0..<count {
                let (first, second) = (times.removeLast(), times.removeLast())
                let isWrite = index == 0 || random.once(in: 2)
                if isWrite { values.append(UInt64(index + 1)) }
                operations.append(
                    Operation(
                        value: isWrite ? UInt64(index + 1) : values[random.below(values.count)],
                        isWrite: isWrite, start: min(first, second), end: max(first, second)))
            }
            let truth = isExplained(operations)
            if truth { explained += 1 }
            #expect(judge(operations, prunes: prunes) == truth, "round \(round): \(operations)")
        }
        #expect(explained > 500 && explained < 3500, "\(explained) of 4000 were explained")
    }

    @Test("a failed write may show or not, and is forgotten when the device has it no more")
    func failedWrites() {
        var history = BlockHistory()
        history.writeStarted(5, at: 1)
        history.writeFailed(5)
        #expect(history.observed(0, start: 2, end: 3, isWrite: false) == nil)
        #expect(history.observed(5, start: 4, end: 5, isWrite: false) == nil)
        #expect(history.observed(0, start: 6, end: 7, isWrite: false) != nil)

        history = BlockHistory()
        history.writeStarted(6, at: 1)
        history.writeFailed(6)
        history.prune(now: 10, oldest: 20, stored: (6, 0))
        #expect(history.count == 2)
        history.prune(now: 11, oldest: 11, stored: (0, 0))
        #expect(history.count == 2)
        history.prune(now: 12, oldest: 12, stored: (0, 0))
        #expect(history.count == 1)
        #expect(history.observed(6, start: 13, end: 14, isWrite: false) != nil)
    }
}
