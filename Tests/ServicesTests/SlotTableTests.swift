import Core
import Testing

@testable import Services

@Suite struct SlotTableTests {
    @Test func sequencesStartAtOneAndHaveNoGaps() {
        var table = SlotTable(count: 2)
        let outcome1 = table.begin(index: 0, sequence: 0, opcode: 1, flags: 0)
        #expect(outcome1 == .badSequence)
        let outcome2 = table.begin(index: 0, sequence: 2, opcode: 1, flags: 0)
        #expect(outcome2 == .badSequence)
        let outcome3 = table.begin(index: 0, sequence: 1, opcode: 1, flags: 0)
        #expect(outcome3 == .ok)
        table.abandon(0)
        let outcome4 = table.begin(index: 0, sequence: 1, opcode: 1, flags: 0)
        #expect(outcome4 == .badSequence)
        let outcome5 = table.begin(index: 0, sequence: 3, opcode: 1, flags: 0)
        #expect(outcome5 == .badSequence)
        let outcome6 = table.begin(index: 0, sequence: 2, opcode: 1, flags: 0)
        #expect(outcome6 == .ok)
    }

    @Test func slotsCountSeparately() {
        var table = SlotTable(count: 2)
        let outcome7 = table.begin(index: 0, sequence: 1, opcode: 1, flags: 0)
        #expect(outcome7 == .ok)
        let outcome8 = table.begin(index: 1, sequence: 1, opcode: 1, flags: 0)
        #expect(outcome8 == .ok)
        let outcome9 = table.begin(index: 2, sequence: 1, opcode: 1, flags: 0)
        #expect(outcome9 == .badSlot)
        #expect(table.unanswered == 2)
    }

    @Test func zeroIsLeftOutWhenSequencesWrap() {
        #expect(SlotTable.successor(of: .max) == 1)
        #expect(SlotTable.successor(of: 0) == 1)
        var table = SlotTable(count: 1)
        table[0].sequence = .max
        let outcome10 = table.begin(index: 0, sequence: 0, opcode: 1, flags: 0)
        #expect(outcome10 == .badSequence)
        let outcome11 = table.begin(index: 0, sequence: 1, opcode: 1, flags: 0)
        #expect(outcome11 == .ok)
    }

    @Test func anOccupiedSlotTakesNoRequestUntilItsReplyIsReleased() throws {
        var table = SlotTable(count: 1)
        let outcome12 = table.begin(index: 0, sequence: 1, opcode: 7, flags: 0)
        #expect(outcome12 == .ok)
        let outcome13 = table.begin(index: 0, sequence: 2, opcode: 7, flags: 0)
        #expect(outcome13 == .badSequence)
        table.answer(0, status: .ok, value: 9)
        let outcome14 = table.begin(index: 0, sequence: 2, opcode: 7, flags: 0)
        #expect(outcome14 == .badSequence)
        let outcome15 = table.popReply()
        #expect(outcome15 == 0)
        #expect(table[0].value == 9)
        table.release(0)
        let outcome16 = table.begin(index: 0, sequence: 2, opcode: 7, flags: 0)
        #expect(outcome16 == .ok)
    }

    @Test func repliesLeaveInTheOrderOfTheAnswers() {
        var table = SlotTable(count: 8)
        for index in 0..<UInt16(8) { _ = table.begin(index: index, sequence: 1, opcode: 1, flags: 0) }
        let order: [UInt16] = [3, 0, 7, 1, 2, 6, 5, 4]
        for index in order { table.answer(index, status: .ok) }
        #expect(table.replies.count == 8)
        #expect(table.unanswered == 0)
        var popped: [UInt16] = []
        while let index = table.popReply() { popped.append(index) }
        #expect(popped == order)
        let outcome17 = table.popReply()
        #expect(outcome17 == nil)
    }

    @Test func aQueueOfTheTableKeepsItsOrder() {
        var table = SlotTable(count: 4)
        var queue = SlotQueue()
        #expect(queue.isEmpty)
        for index in [2, 0, 3] as [UInt16] { table.append(index, to: &queue) }
        #expect(queue.count == 3)
        let outcome18 = table.pop(from: &queue)
        #expect(outcome18 == 2)
        table.append(1, to: &queue)
        let rest = [table.pop(from: &queue), table.pop(from: &queue), table.pop(from: &queue)]
        #expect(rest == [0, 3, 1])
        let none = table.pop(from: &queue)
        #expect(queue.isEmpty && none == nil)
    }

    @Test func theNumberOfSlotsIsBounded() {
        #expect(SlotTable(count: 0).count == 1)
        #expect(SlotTable(count: 1 << 20).count == Limits.slotsPerChannelMax)
    }
}
