import Core
import Testing

@testable import DataPlane

@Suite struct UnreadInputTests {
    private let all = Limits.unreadBytesMetered

    @Test func aNodeHasAsMuchAsItLeavesAndSlowsDownNoOther() {
        var unread = UnreadInput()
        // However many connections it has.
        for _ in 0..<100 { unread.add(all / 200, node: 7) }
        #expect(!unread.isMuch(7))
        unread.add(all / 100, node: 7)
        #expect(unread.isMuch(7))
        for other in [0, 6, 8, 1000] as [UInt32?] + [nil] { #expect(!unread.isMuch(other)) }
        unread.add(all / 5, node: 8)
        #expect(!unread.isMuch(8))
        unread.add(-all / 2, node: 7)
        #expect(!unread.isMuch(7))
    }

    @Test func manyNodesTogetherHaveNoMoreThanThereIs() {
        var unread = UnreadInput()
        for round in 0..<10_000 {
            let node = UInt32(round % 40)
            if !unread.isMuch(node) { unread.add(64 << 10, node: node) }
        }
        #expect(unread.bytes <= all + (64 << 10))
        #expect((0..<40).contains { !unread.isMuch($0) } == false)
        #expect(!unread.isMuch(40), "who comes has room")
    }

    @Test func whatOneHasBeforeItOpensSomethingIsItsNodesFromThenOn() {
        var unread = UnreadInput()
        unread.add(all, node: nil)
        #expect(!unread.isMuch(nil) && !unread.isMuch(3))
        unread.move(all, from: nil, to: 3)
        #expect(unread.bytes == all && unread.isMuch(3))
        unread.add(1, node: nil)
        #expect(unread.isMuch(nil))
    }
}
