import Core
import Testing

@testable import Services

/// What nodes have of one arena.
@Suite struct NodeSharesTests {
    private static let arena = 64 << 20

    private final class Book {
        var shares = NodeShares(arenaBytes: NodeSharesTests.arena)
        var used = 0

        /// Takes as often as it may; how often that was.
        func takeAll(_ bytes: Int, _ share: UInt32, most: Int = .max) -> Int {
            shares.prepare(share)
            var count = 0
            while count < most, shares.mayTake(bytes, share: share, free: NodeSharesTests.arena - used),
                used + bytes <= NodeSharesTests.arena
            {
                shares.charge(bytes, share: share)
                used += bytes
                count += 1
            }
            return count
        }
    }

    @Test func aNodeThatIsAloneLeavesHalf() {
        let book = Book()
        #expect(book.takeAll(1 << 20, 0) == 32)
        #expect(book.takeAll(1 << 20, 0) == 0)
    }

    @Test(arguments: [1, 2, 5, 20, 60]) func whoeverComesFindsRoom(nodes: UInt32) {
        let book = Book()
        for _ in 0..<100 { for node in 0..<nodes { _ = book.takeAll(1 << 20, node, most: 1) } }
        let free = Self.arena - book.used
        #expect(free >= Self.arena / 64, "something small always finds room")
        #expect(nodes > 20 || free >= 2 << 20)
        #expect(book.takeAll(4096, nodes, most: 16) == 16, "and so does what comes next of it")
        #expect(nodes > 20 || book.takeAll(1 << 20, nodes + 1, most: 1) == 1)
    }

    @Test func aSmallArenaServesWhatFillsIt() {
        var shares = NodeShares(arenaBytes: 1 << 20)
        shares.prepare(1)
        let mayTakeAll = shares.mayTake(1 << 20, share: 0, free: 1 << 20)
        #expect(mayTakeAll)
        shares.charge(1 << 20, share: 0)
        let mayTakeMore = shares.mayTake(4096, share: 1, free: 0)
        #expect(!mayTakeMore)
    }

    @Test func whatComesBackIsForAnybody() {
        let book = Book()
        _ = book.takeAll(1 << 20, 0)
        book.shares.charge(-(32 << 20), share: 0)
        book.used -= 32 << 20
        #expect(book.shares.bytes(0) == 0)
        #expect(book.takeAll(1 << 20, 1) == 32)
    }
}

/// What nodes have of sessions and of kept channels.
@Suite struct SessionSharesTests {
    private func node(_ number: UInt64) -> Identifier { Identifier(high: 0xA0, low: number) }

    @Test func aNodeMayHaveAsManySessionsAsItLeaves() {
        var shares = SessionShares(sessionsMax: 100, keptMax: 100)
        func own(_ number: UInt64) -> Bool {
            guard shares.mayOwn(node(number)) else { return false }
            shares.own(node(number))
            return true
        }
        while own(1) {}
        #expect(shares.sessions(of: node(1)) == 50)
        while own(2) {}
        #expect(shares.sessions(of: node(2)) == 25)
        #expect(own(3), "another finds room")
        for _ in 0..<50 { shares.ended(of: node(1)) }
        #expect(shares.sessions(of: node(1)) == 0)
        #expect(own(1), "what has ended does not count")
    }

    @Test func aNodeMayKeepAsManyChannelsAsItLeaves() {
        var shares = SessionShares(sessionsMax: 100, keptMax: 8)
        for _ in 0..<4 {
            #expect(shares.mayKeep(node(1)))
            shares.keep(1, of: node(1))
        }
        #expect(!shares.mayKeep(node(1)))
        #expect(shares.mayKeep(node(2)))
        shares.keep(-1, of: node(1))
        #expect(shares.mayKeep(node(1)))
    }

    @Test func theOldestThatIsNobodysGoesFirst() {
        var shares = SessionShares(sessionsMax: 4, keptMax: 4)
        for number in UInt64(1)...4 { shares.began(Identifier(high: 0, low: number), of: nil) }
        let isNobodys = { (id: Identifier) in id.low != 1 }
        let first = shares.takeNobodys(isNobodys)
        #expect(first?.low == 2, "the first has opened something by now")
        let second = shares.takeNobodys(isNobodys)
        #expect(second?.low == 3)
    }

    @Test func aSessionThatHasOpenedNothingMakesRoomForAnother() {
        var directory = Directory()
        directory.sessions = SessionRegistry(capacity: 2, keptChannelsMax: 2)
        let shard = Shard()
        func start(_ number: UInt64) -> Status {
            directory.startSession(
                SessionRegistry.Session(
                    id: Identifier(high: 0, low: number), secret: SecretBytes([7]),
                    thumbprint: .init(first: .zero, second: .zero),
                    clientName: "", peerAddress: "", since: 0, instance: .zero),
                by: SessionRegistry.Connection(shard: ObjectIdentifier(shard), number: number), now: 0)
        }
        #expect(start(1) == .ok && start(2) == .ok)
        let isBound = directory.sessions.bind(Identifier(high: 0, low: 1), node: node(1))
        #expect(isBound)
        #expect(start(3) == .ok)
        #expect(directory.effects.crowdedOut.map(\.number) == [2], "the one that is a node's stays")
        // The second is on its way out; the third is the next to go.
        #expect(start(4) == .ok)
        #expect(directory.effects.crowdedOut.map(\.number) == [2, 3])
    }

    private final class Shard {}
}
