import Core
import Testing

@testable import Attach

@Suite struct RequestTableTests {
    private func table(capacity: Int = 4, transferMax: UInt32 = 100, rangeMax: UInt32 = 1000) -> RequestTable
    {
        RequestTable(capacity: capacity, transferMax: transferMax, rangeMax: rangeMax)
    }

    /// Sends every piece of the first waiting request.
    private func sendAll(_ table: inout RequestTable) -> [RequestTable.Piece] {
        var pieces: [RequestTable.Piece] = []
        guard let index = table.firstWaiting else { return [] }
        while let piece = table.nextPiece(of: index) {
            table.sent(piece)
            pieces.append(piece)
        }
        return pieces
    }

    @Test("a request above the maximum is cut into pieces that cover it without gap or overlap")
    func splitting() {
        var table = table()
        let index = table.begin(.write, offset: 1_000_000, length: 250)
        let pieces = sendAll(&table)
        #expect(pieces.map(\.count) == [100, 100, 50])
        #expect(pieces.map(\.offset) == [1_000_000, 1_000_100, 1_000_200])
        #expect(pieces.map(\.position) == [0, 100, 200])
        #expect(table.advance() == nil)
        #expect(table.completed(index, .ok) == nil)
        #expect(table.completed(index, .ok) == nil)
        #expect(table.completed(index, .ok)?.status == .ok)
        #expect(table.activeCount == 0)
    }

    @Test("a discard may be longer than a transfer, up to the maximum of a range")
    func ranges() {
        var table = table()
        _ = table.begin(.discard, offset: 0, length: 2500)
        #expect(sendAll(&table).map(\.count) == [1000, 1000, 500])
    }

    @Test(
        "a request for which there is no space yet keeps its entry, and is sent anew as a whole when it is its turn"
    )
    func parking() {
        var table = table()
        let first = table.begin(.write, offset: 0, length: 150)
        #expect(sendAll(&table).count == 2)
        #expect(table.advance() == nil)
        let second = table.begin(.write, offset: 500, length: 50)
        #expect(sendAll(&table).count == 1)
        #expect(table.advance() == nil)
        #expect(table.completed(first, .ok) == nil)
        #expect(table.completed(first, .noSpaceYet)?.status == .noSpaceYet)
        #expect(table.completed(second, .noSpaceYet)?.status == .noSpaceYet)
        #expect(table.parkedCount == 2 && table.activeCount == 2 && table.firstWaiting == nil)
        #expect(table.unparkFirst() == first)
        let again = sendAll(&table)
        #expect(again.map(\.offset) == [0, 100] && again.map(\.position) == [0, 100])
        #expect(table.advance() == nil)
        #expect(table.completed(first, .ok) == nil)
        #expect(table.completed(first, .ok)?.status == .ok)
        #expect(table.parkedCount == 1 && table.activeCount == 1)
        // Given up while it waits.
        table.failWaiting(second, .timedOut)
        #expect(table.parkedCount == 0 && table.firstWaiting == second && table.nextPiece(of: second) == nil)
        #expect(table.advance()?.status == .timedOut)
        #expect(table.activeCount == 0 && table.unparkFirst() == nil)
    }

    @Test("a flush is one piece of no bytes")
    func flush() {
        var table = table()
        let index = table.begin(.flush, offset: 0, length: 0)
        #expect(sendAll(&table).map(\.count) == [0])
        #expect(table.advance() == nil)
        #expect(table.completed(index, .noSpace)?.status == .noSpace)
    }

    @Test("the first failure is the request's, and keeps its other pieces from being sent")
    func failure() {
        var table = table()
        let index = table.begin(.read, offset: 0, length: 300)
        let first = table.nextPiece(of: index)
        table.sent(first!)
        #expect(table.completed(index, .mediumError) == nil)
        #expect(table.nextPiece(of: index) == nil)
        #expect(table.advance()?.status == .mediumError)
        #expect(!table.isFull)
    }

    @Test(
        "a request whose pieces all came back while it still stood in the queue is finished when it leaves it"
    )
    func completionBeforeAdvance() {
        var table = table()
        let index = table.begin(.write, offset: 0, length: 50)
        table.sent(table.nextPiece(of: index)!)
        #expect(table.completed(index, .ok) == nil)
        let finished = table.advance()
        #expect(finished?.index == index)
        #expect(finished?.status == .ok)
    }

    @Test("a refused piece comes again, as it was")
    func refusal() {
        var table = table()
        for (operation, length) in [(BlockOperation.write, UInt64(150)), (.flush, 0)] {
            let index = table.begin(operation, offset: 64, length: length)
            let piece = table.nextPiece(of: index)!
            table.sent(piece)
            table.refused(piece)
            #expect(table.nextPiece(of: index) == piece)
            _ = sendAll(&table)
            _ = table.advance()
        }
    }

    @Test("requests leave the queue in the order of their arrival, also around its end")
    func order() {
        var table = table(capacity: 3)
        var expected: [Int] = []
        for round in 0..<7 {
            let index = table.begin(.write, offset: UInt64(round), length: 1)
            expected.append(index)
            #expect(table.firstWaiting == index)
            _ = sendAll(&table)
            #expect(table.advance() == nil)
            #expect(table.completed(index, .ok)?.index == index)
        }
        let indices = (0..<3).map { table.begin(.read, offset: UInt64($0), length: 1) }
        #expect(table.isFull)
        #expect(
            indices.map { _ -> Int? in
                let first = table.firstWaiting
                _ = sendAll(&table)
                _ = table.advance()
                return first
            } == indices)
        #expect(table.firstWaiting == nil)
        #expect(Set(table.active) == Set(indices))
    }

    @Test("waiting requests can be failed without being sent")
    func failWaiting() {
        var table = table()
        let index = table.begin(.write, offset: 0, length: 300)
        table.failWaiting(index, .ioError)
        #expect(table.nextPiece(of: index) == nil)
        #expect(table.advance()?.status == .ioError)
    }

    @Test("whatever the order of answers and refusals, every request ends exactly once and covers its range")
    func random() {
        var generator = Generator(state: 20_261_124)
        var table = table(capacity: 8, transferMax: 7, rangeMax: 11)
        var wanted: [Int: UInt64] = [:]
        var sent: [Int: UInt64] = [:]
        var flying: [RequestTable.Piece] = []
        var finished = 0
        var begun = 0
        func end(_ result: (index: Int, status: Status)?) {
            guard let result else { return }
            #expect(sent[result.index] == wanted[result.index])
            wanted[result.index] = nil
            sent[result.index] = nil
            finished += 1
        }
        while finished < 5000 {
            switch generator.next(3) {
            case 0 where !table.isFull && begun < 5000:
                let operation = BlockOperation.allCases[generator.next(5)]
                let length = operation == .flush ? 0 : UInt64(generator.next(40) + 1)
                let index = table.begin(operation, offset: 5, length: length)
                #expect(wanted[index] == nil)
                wanted[index] = length
                sent[index] = 0
                begun += 1
            case 1:
                guard let index = table.firstWaiting else { continue }
                guard let piece = table.nextPiece(of: index) else {
                    end(table.advance())
                    continue
                }
                table.sent(piece)
                if generator.next(4) == 0 {
                    table.refused(piece)
                } else {
                    #expect(piece.position == sent[index])
                    sent[index]! += UInt64(piece.count)
                    flying.append(piece)
                }
            default:
                guard !flying.isEmpty else { continue }
                let piece = flying.remove(at: generator.next(flying.count))
                end(table.completed(piece.index, .ok))
            }
        }
        #expect(table.activeCount == 0 && flying.isEmpty)
    }
}

/// A small seeded generator (xorshift), the same on every run.
struct Generator {
    var state: UInt64

    mutating func next(_ bound: Int) -> Int {
        state ^= state << 13
        state ^= state >> 7
        state ^= state << 17
        return Int(state % UInt64(bound))
    }
}
