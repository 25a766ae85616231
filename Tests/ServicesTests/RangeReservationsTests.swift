import Core
import Simulation
import Testing

@testable import Services

@Suite("RangeReservations: whose turn it is to keep others away from bytes")
struct RangeReservationsTests {
    private let volume = Identifier(high: 1, low: 1)

    @Test func whatDoesNotOverlapHasItsTurnAtOnce() {
        var reservations = RangeReservations<Int>()
        #expect(reservations.request(volume, offset: 0, count: 512, owner: 1).hasTurn)
        #expect(reservations.request(volume, offset: 512, count: 512, owner: 2).hasTurn)
        #expect(!reservations.request(volume, offset: 511, count: 1, owner: 3).hasTurn)
        #expect(!reservations.request(volume, offset: 512, count: 1, owner: 4).hasTurn)
        #expect(
            reservations.request(Identifier(high: 1, low: 2), offset: 0, count: 512, owner: 5).hasTurn)
        #expect(reservations.count == 5)
    }

    @Test func thoseThatWaitHaveTheirTurnInOrderAndTogetherWhereTheyCan() {
        var reservations = RangeReservations<Int>()
        let first = reservations.request(volume, offset: 0, count: 4096, owner: 1)
        let left = reservations.request(volume, offset: 0, count: 512, owner: 2)
        let right = reservations.request(volume, offset: 512, count: 512, owner: 3)
        let both = reservations.request(volume, offset: 0, count: 1024, owner: 4)
        let later = reservations.request(volume, offset: 2048, count: 512, owner: 5)
        #expect(![left, right, both, later].contains { $0.hasTurn })
        #expect(reservations.release(first.id, volume).map(\.owner) == [2, 3, 5])
        #expect(reservations.release(left.id, volume).isEmpty)
        #expect(reservations.release(right.id, volume).map(\.owner) == [4])
        #expect(reservations.release(both.id, volume).isEmpty)
        #expect(reservations.release(later.id, volume).isEmpty)
        #expect(reservations.count == 0)
    }

    @Test func onlyAFewOfAVolumeHaveTheirTurnAtOnceAndAllHaveItInTheEnd() {
        var reservations = RangeReservations<Int>()
        var having: [UInt64] = []
        let count = 2000
        for number in 0..<count {
            let (id, hasTurn) = reservations.request(
                volume, offset: UInt64(number) * 512, count: 512, owner: number)
            #expect(hasTurn == (number < Limits.comparesAtOnceMax))
            if hasTurn { having.append(id) }
        }
        // Others are not in their way.
        #expect(reservations.request(Identifier(high: 1, low: 2), offset: 0, count: 1, owner: 0).hasTurn)
        var ended = 0
        while let id = having.popLast() {
            ended += 1
            having += reservations.release(id, volume).map(\.id)
            #expect(having.count <= Limits.comparesAtOnceMax)
        }
        #expect(ended == count && reservations.count == 1)
    }

    @Test func aLongQueueForTheSameBytesGoesOnOneAtATime() {
        var reservations = RangeReservations<Int>()
        var current = reservations.request(volume, offset: 0, count: 512, owner: 0).id
        let count = 3 * Limits.comparesLookedAtMax
        for number in 1..<count {
            #expect(!reservations.request(volume, offset: 0, count: 512, owner: number).hasTurn)
        }
        for number in 1..<count {
            let next = reservations.release(current, volume)
            #expect(next.map(\.owner) == [number])
            guard let id = next.first?.id else { return }
            current = id
        }
    }

    @Test func whoGivesUpIsNotWaitedFor() {
        var reservations = RangeReservations<Int>()
        let first = reservations.request(volume, offset: 0, count: 512, owner: 1)
        let wide = reservations.request(volume, offset: 0, count: 4096, owner: 2)
        let behind = reservations.request(volume, offset: 2048, count: 512, owner: 3)
        #expect(!behind.hasTurn)
        #expect(reservations.release(wide.id, volume).map(\.owner) == [3])
        #expect(reservations.release(wide.id, volume).isEmpty, "it is given back once")
        #expect(reservations.release(first.id, volume).isEmpty)
    }

    @Test func atAnyMomentNoTwoThatOverlapHaveTheirTurnAndAllHaveItInTheEnd() {
        var random = SplitMix(seed: 7)
        for _ in 0..<200 {
            var reservations = RangeReservations<Int>()
            var waiting: [UInt64: Range<UInt64>] = [:]
            var having: [UInt64: Range<UInt64>] = [:]
            var left = 60
            func grant(_ id: UInt64, _ range: Range<UInt64>) {
                #expect(!having.values.contains { $0.overlaps(range) })
                having[id] = range
            }
            while left > 0 || !having.isEmpty || !waiting.isEmpty {
                if left > 0, random.below(3) > 0 || having.isEmpty {
                    left -= 1
                    let start = UInt64(random.below(40))
                    let range = start..<start + 1 + UInt64(random.below(8))
                    let (id, hasTurn) = reservations.request(
                        volume, offset: range.lowerBound, count: UInt32(range.count), owner: 0)
                    if hasTurn { grant(id, range) } else { waiting[id] = range }
                } else if let id = (random.below(4) == 0 ? waiting : having).keys.sorted().first {
                    having[id] = nil
                    waiting[id] = nil
                    for (next, _) in reservations.release(id, volume) {
                        guard let range = waiting.removeValue(forKey: next) else {
                            Issue.record("a turn was given twice")
                            return
                        }
                        grant(next, range)
                    }
                }
                #expect(waiting.isEmpty || !having.isEmpty, "somebody always has a turn")
            }
            #expect(reservations.count == 0)
        }
    }
}
