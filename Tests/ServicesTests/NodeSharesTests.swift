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

    private func session(_ number: UInt64) -> SessionRegistry.Session {
        SessionRegistry.Session(
            id: Identifier(high: 0, low: number), secret: SecretBytes([7]),
            thumbprint: .init(first: .zero, second: .zero),
            clientName: "", peerAddress: "", since: 0, instance: .zero)
    }

    private func connection(_ number: UInt64) -> SessionRegistry.Connection {
        SessionRegistry.Connection(shard: ObjectIdentifier(shard), number: number)
    }

    @Test func aSessionThatHasOpenedNothingMakesRoomForAnother() {
        var directory = Directory()
        directory.sessions = SessionRegistry(capacity: 2, keptChannelsMax: 2)
        func start(_ number: UInt64) -> Status {
            directory.startSession(session(number), by: connection(number), now: 0)
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

    @Test func aSessionOfANodeThatWasRemovedMakesRoomToo() {
        var directory = Directory()
        directory.sessions = SessionRegistry(capacity: 4, keptChannelsMax: 4)
        func start(_ number: UInt64, of owner: Identifier) -> Status {
            let status = directory.startSession(session(number), by: connection(number), now: 0)
            if status == .ok { _ = directory.sessions.bind(session(number).id, node: owner) }
            return status
        }
        for number in UInt64(1)...2 { directory.nodes[node(number)] = .init(name: "node", epoch: 1) }
        #expect(start(1, of: node(1)) == .ok && start(2, of: node(1)) == .ok && start(3, of: node(2)) == .ok)
        #expect(start(4, of: node(3)) == .ok)
        directory.nodes[node(3)] = .init(name: "node", epoch: 1)
        #expect(start(5, of: node(2)) == .busy, "all are somebody's, and connected")
        directory.nodes[node(2)] = nil
        #expect(start(6, of: node(1)) == .ok)
        #expect(directory.effects.crowdedOut.map(\.number) == [3])
    }

    @Test func aChannelThatIsNotKeptPushesNoOtherOut() {
        var directory = Directory()
        directory.sessions = SessionRegistry(capacity: 8, keptChannelsMax: 2)
        for number in UInt64(1)...3 {
            _ = directory.startSession(session(number), by: connection(number), now: 0)
            _ = directory.sessions.bind(session(number).id, node: node(1))
        }
        let kept = KeptSlots(entries: [], count: 1, resumption: .slots)
        _ = directory.keepChannel(session(1).id, channel: 0, kept, now: 0)
        #expect(directory.sessions.keptChannels == 1, "and that is all that the node may keep")
        // One goes on elsewhere at once, and of the other nothing may be left.
        _ = directory.resumeChannel(
            session(2).id, secret: [7], thumbprint: session(2).thumbprint, channel: 0, by: connection(9))
        _ = directory.keepChannel(session(2).id, channel: 0, kept, now: 0)
        directory.sessions.leaveNothing(of: session(3).id, channel: 0)
        _ = directory.keepChannel(session(3).id, channel: 0, kept, now: 0)
        #expect(directory.sessions.keptChannels == 1)
        #expect(directory.sessions.sessions.keys.sorted() == [session(1).id, session(2).id])
    }

    private final class Shard {}
    private let shard = Shard()
}
