import Core
import Testing

@testable import Services

@Suite struct OperationTableTests {
    private final class Owner: ChannelOwner {
        func channelHasOutput() {}
        func channelMayContinue() {}
        func channelMustClose(_ reason: String) {}
        func channelWasSuperseded() {}
        func channelIsDisconnected(_ reason: String) {}
        func channelIsDoubted() {}
        func channelMustSkip(slot: UInt16) {}
        func channelMustHurry() {}
        func channelIsInTheWay() {}
        func channelWasGreeted(isAccepted: Bool) {}
    }

    private func channel() -> ServiceChannel {
        let channel = ServiceChannel(
            number: 0, connection: 1, thumbprint: Digest32(first: .zero, second: .zero), peerAddress: "",
            owner: Owner())
        channel.slots = SlotTable(count: 4)
        return channel
    }

    private func begin(_ channel: ServiceChannel, _ slot: UInt16, _ sequence: UInt32) {
        let status = channel.slots.begin(index: slot, sequence: sequence, opcode: 0x106, flags: 0)
        #expect(status == .ok)
    }

    @Test func nothingIsKnownOfAPlainRequest() {
        let channel = channel()
        begin(channel, 1, 1)
        #expect(channel[copy: 1] == nil && channel[compare: 1] == nil)
        channel[copy: 1]?.copied = 4096
        #expect(channel[copy: 1] == nil)
        #expect(channel.slots[1].way == .whole)
    }

    @Test func anOperationIsItsSlotsAlone() {
        let channel = channel()
        begin(channel, 1, 1)
        begin(channel, 2, 1)
        channel[copy: 1] = CopyOperation(source: 7, sourceOffset: 4096)
        channel[copy: 1]?.copied = 512
        #expect(channel[copy: 1]?.copied == 512 && channel[copy: 1]?.source == 7)
        #expect(channel[copy: 2] == nil && channel[compare: 1] == nil)
        #expect(channel.slots[1].way == .detailed)
    }

    @Test func theNextRequestOfASlotKnowsNothingOfTheOneBefore() {
        let channel = channel()
        begin(channel, 3, 1)
        channel[compare: 3] = CompareOperation(number: 9)
        channel.slots[3].way = .stepped
        #expect(channel[compare: 3]?.number == 9)
        channel.slots.abandon(3)
        begin(channel, 3, 2)
        #expect(channel[compare: 3] == nil)
    }

    @Test func aCopyUsesTwoHandles() {
        let channel = channel()
        begin(channel, 0, 1)
        channel.slots[0].handle = 4
        #expect(channel.uses(0, 4) && !channel.uses(0, 7))
        channel[copy: 0] = CopyOperation(source: 1 << 8 | 7, sourceOffset: 0)
        #expect(channel.uses(0, 4) && channel.uses(0, 7) && !channel.uses(0, 5))
    }
}
