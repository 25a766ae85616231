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
        #expect(SlotSequence.successor(of: .max) == 1)
        #expect(SlotSequence.successor(of: 0) == 1)
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

/// What a slot of a resumed channel takes: the table of API/data-channel.md, "Resume".
@Suite struct KeptSlotsTests {
    /// A table that can be changed within an expectation.
    private final class Table {
        var slots: SlotTable

        init(_ kept: KeptSlots, count: Int = 2) { slots = SlotTable(resuming: kept, count: count) }

        func begin(_ index: UInt16, _ sequence: UInt32, _ opcode: UInt16 = KeptSlotsTests.read) -> Status {
            slots.begin(index: index, sequence: sequence, opcode: opcode, flags: 0)
        }

        func replay(_ index: UInt16, _ sequence: UInt32) -> Bool {
            slots.replay(index: index, sequence: sequence)
        }
    }

    private static let write: UInt16 = 0x101
    private static let read: UInt16 = 0x100
    private static let open: UInt16 = 2

    /// A table that has begun sequence 1 in slot 0, and lost its connection after `end`.
    private func lost(_ opcode: UInt16, _ end: (inout SlotTable) -> Void) -> KeptSlots {
        var table = SlotTable(count: 2)
        _ = table.begin(index: 0, sequence: 1, opcode: opcode, flags: 0)
        end(&table)
        return table.kept
    }

    private func begun(_ kept: KeptSlots, _ sequence: UInt32) -> Status {
        Table(kept, count: kept.count).begin(0, sequence)
    }

    private func replays(_ kept: KeptSlots, _ sequence: UInt32) -> Bool {
        Table(kept, count: kept.count).replay(0, sequence)
    }

    @Test func aWriteThatWasExecutedIsAnsweredAsItWas() {
        let kept = lost(Self.write) { $0.conclude(0, status: .noSpace, value: 7, detail: 9) }
        #expect(replays(kept, 1) && !replays(kept, 2) && !replays(kept, 0))
        #expect(begun(kept, 2) == .ok)
        #expect(begun(kept, 1) == .badSequence && begun(kept, 3) == .badSequence)
        let table = Table(kept)
        _ = table.replay(0, 1)
        #expect(!table.replay(0, 1), "it is on its way already")
        #expect(table.begin(0, 2) == .badSequence)
        let index = table.slots.popReply()
        #expect(index == 0 && table.slots.unanswered == 0)
        #expect(
            table.slots[0].status == .noSpace && table.slots[0].value == 7
                && table.slots[0].detail == 9)
        table.slots.release(0)
        #expect(table.replay(0, 1), "that reply may have been lost as well")
    }

    @Test func whatMayBeRepeatedIsExecutedAgain() {
        for opcode in [Self.read, Self.open, 0xFFFF] {
            let kept = lost(opcode) { $0.conclude(0, status: .ok) }
            #expect(!replays(kept, 1))
            #expect(begun(kept, 1) == .ok && begun(kept, 2) == .ok)
            #expect(begun(kept, 3) == .badSequence && begun(kept, 0) == .badSequence)
        }
    }

    @Test func aReplyThatWasSentCountsAsOneThatWasLost() {
        let kept = lost(Self.write) { table in
            table.answer(0, status: .ok, value: 512)
            _ = table.popReply()
            table.release(0)
        }
        #expect(replays(kept, 1) && begun(kept, 2) == .ok)
    }

    @Test func whatWasDroppedMustComeAgain() {
        let kept = lost(Self.write) { $0.drop(0) }
        #expect(!replays(kept, 1))
        #expect(begun(kept, 1) == .ok)
        #expect(begun(kept, 2) == .badSequence && begun(kept, 0) == .badSequence)
    }

    @Test func aSlotThatWasNeverUsedBeginsAtOne() {
        let kept = lost(Self.write) { $0.drop(0) }
        let table = Table(kept)
        #expect(table.begin(1, 2) == .badSequence)
        #expect(table.begin(1, 1) == .ok)
    }

    @Test func onlyTheFirstRequestOfASlotIsLookedUp() {
        let table = Table(lost(Self.read) { $0.conclude(0, status: .ok) })
        #expect(table.slots.recalls == 1)
        #expect(table.begin(0, 1) == .ok)
        #expect(table.slots.recalls == 0)
        table.slots.abandon(0)
        #expect(table.begin(0, 1) == .badSequence)
        #expect(table.begin(0, 2) == .ok)
    }

    @Test func lostAgainBeforeItWasUsedItIsAsBefore() {
        let first = lost(Self.write) { $0.conclude(0, status: .ok, value: 3) }
        let second = SlotTable(resuming: first, count: first.count).kept
        #expect(second == first)
        let dropped = lost(Self.write) { $0.drop(0) }
        #expect(SlotTable(resuming: dropped, count: 2).kept == dropped)
    }

    @Test func aRestartedServerTakesWhateverComesFirst() {
        let table = Table(.ofRestartedServer)
        #expect(table.begin(0, 0) == .badSequence)
        #expect(table.slots.kept.resumption == .session, "nobody has seen the answer to HELLO yet")
        #expect(table.begin(0, 4711, Self.write) == .ok)
        table.slots.conclude(0, status: .ok)
        let kept = table.slots.kept
        #expect(kept.resumption == .slots)
        let again = Table(kept)
        #expect(again.replay(0, 4711))
        #expect(again.begin(1, 99) == .ok)
        #expect(SlotTable(resuming: .ofRestartedServer, count: 2).kept.resumption == .session)
    }

    @Test func sequencesWrapAroundZero() {
        let table = Table(.ofRestartedServer, count: 1)
        _ = table.begin(0, .max)
        table.slots.conclude(0, status: .ok)
        let kept = table.slots.kept
        #expect(begun(kept, .max) == .ok && begun(kept, 1) == .ok && begun(kept, 0) == .badSequence)
    }
}
