import Testing

@testable import Reactor

@Suite struct MemoryReturnTests {
    private let mebibyte: UInt64 = 1 << 20

    @Test func whatAFloodHasLeftIsGivenBackAtTheNextLook() {
        var look = MemoryReturn()
        let quiet = (0..<10).map { _ in look.isDue(40 * mebibyte) } + [look.isDue(56 * mebibyte)]
        #expect(!quiet.contains(true))
        let isDue = look.isDue(500 * mebibyte)
        #expect(isDue)
        look.returned(from: 500 * mebibyte, to: 45 * mebibyte)
        let isDueAgain = look.isDue(45 * mebibyte)
        #expect(!isDueAgain)
    }

    /// It may be free a minute later.
    @Test func whatIsInUseIsLookedAtLessOftenAndNotNever() {
        var look = MemoryReturn()
        _ = look.isDue(40 * mebibyte)
        var dues: [Int] = []
        for round in 0..<20 where look.isDue(500 * mebibyte) {
            dues.append(round)
            look.returned(from: 500 * mebibyte, to: 500 * mebibyte)
        }
        #expect(dues == [0, 2, 5, 8, 11, 14, 17])
    }

    @Test func aProcessKnowsWhatItHas() throws {
        let memory = Memory(32 << 20, fill: 1)
        #expect(try #require(ProcessMemory.ownBytes) > 32 << 20)
        withExtendedLifetime(memory) {}
    }
}
