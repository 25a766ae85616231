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
    @Test func whatIsInUseIsLookedAtLessAndLessOftenAndNotNever() {
        var look = MemoryReturn()
        _ = look.isDue(40 * mebibyte)
        var dues: [Int] = []
        for round in 0..<100 where look.isDue(500 * mebibyte) {
            dues.append(round)
            look.returned(from: 500 * mebibyte, to: 500 * mebibyte)
        }
        #expect(dues == [0, 2, 5, 10, 19, 36, 67, 98])
        // Once it is free it is given back, and from then on at the next look again.
        let looks = (1...MemoryReturn.pausesMax + 1).first { _ in look.isDue(500 * mebibyte) }
        #expect(looks != nil)
        look.returned(from: 500 * mebibyte, to: 60 * mebibyte)
        let isDueAgain = look.isDue(80 * mebibyte)
        #expect(isDueAgain)
    }

    @Test func anotherFloodDoesNotWaitForWhatIsInUse() {
        var look = MemoryReturn()
        _ = look.isDue(40 * mebibyte)
        for _ in 0..<50 where look.isDue(200 * mebibyte) {
            look.returned(from: 200 * mebibyte, to: 200 * mebibyte)
        }
        let (isDueForLittle, isDueForMuch) = (look.isDue(220 * mebibyte), look.isDue(600 * mebibyte))
        #expect(!isDueForLittle && isDueForMuch)
    }

    /// An hour of use that comes and goes and leaves nothing free, or next to nothing.
    @Test func ordinaryUseIsHardlyDisturbed() {
        var look = MemoryReturn()
        _ = look.isDue(40 * mebibyte)
        let count = (0..<360).count { round in
            let own: UInt64 = [45, 120, 200, 200, 160][round % 5] * mebibyte
            guard look.isDue(own) else { return false }
            look.returned(from: own, to: own - 3 * mebibyte)
            return true
        }
        #expect((6...36).contains(count), "\(count) times")
    }

    @Test func aProcessKnowsWhatItHas() throws {
        let memory = Memory(32 << 20, fill: 1)
        #expect(try #require(ProcessMemory.ownBytes) > 32 << 20)
        withExtendedLifetime(memory) {}
    }
}
