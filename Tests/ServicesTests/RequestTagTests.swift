import Core
import Testing

@testable import Services

@Suite struct RequestTagTests {
    @Test func fieldsComeBackFromTheWord() {
        let channels = [0, 1, UInt32(Limits.channelsPerShardMax) - 1]
        let slots = [0, 1, UInt16(Limits.slotsPerChannelMax) - 1]
        for channel in channels {
            for slot in slots {
                for sequence in [0, 1, .max] as [UInt32] {
                    let tag = RequestTag(channel: channel, slot: slot, sequence: sequence)
                    let echo = RequestTag(echo: tag.rawValue)
                    #expect(echo == tag)
                    #expect(echo.channel == Int(channel) && echo.slot == slot && echo.sequence == sequence)
                }
            }
        }
    }

    @Test func whatADriverInventsNamesNoChannelBeyondTheWord() {
        for word in [.max, 1 << 63, UInt64(0xFF_FFFF) << 40] as [UInt64] {
            let tag = RequestTag(echo: word)
            #expect(tag.channel >= Limits.channelsPerShardMax)
            #expect(Int(tag.slot) < Limits.slotsPerChannelMax)
        }
    }

    @Test func requestsOfTheServersOwnAreNoChannels() {
        for number in [1, 2, 1 << 40, .max] as [UInt64] {
            #expect(RequestTag(own: number).channel >= Limits.channelsPerShardMax)
        }
        #expect(RequestTag(own: 1) != RequestTag(own: 2))
    }
}
