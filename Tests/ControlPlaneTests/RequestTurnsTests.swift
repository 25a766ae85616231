import Testing

@testable import ControlPlane

/// Whose request of the control API is handled next.
@Suite struct RequestTurnsTests {
    private let admin = ControlCaller.admin("root")
    private func node(_ name: String) -> ControlCaller { .node(name) }

    private final class Turns {
        private var turns: RequestTurns<String>

        init(_ limits: RequestTurns<String>.Limits = .init()) { turns = RequestTurns(limits) }

        func add(_ item: String, of caller: ControlCaller, isUrgent: Bool = false) -> Bool {
            turns.add(item, of: caller, isUrgent: isUrgent)
        }

        func ended(_ turn: RequestTurns<String>.Turn) { turns.ended(turn) }

        /// Handles what may be handled, without an end.
        func run() -> [(item: String, turn: RequestTurns<String>.Turn)] {
            var begun: [(String, RequestTurns<String>.Turn)] = []
            while let next = turns.next() { begun.append((next.item, next.turn)) }
            return begun
        }
    }

    @Test func oneWithManyRequestsDelaysItselfOnly() {
        let turns = Turns()
        for number in 0..<200 { _ = turns.add("greedy \(number)", of: node("greedy")) }
        _ = turns.add("modest", of: node("modest"))
        let begun = turns.run()
        #expect(begun.map(\.item) == ["greedy 0", "modest", "greedy 1", "greedy 2", "greedy 3"])
        turns.ended(begun[0].turn)
        #expect(turns.run().map(\.item) == ["greedy 4"])
    }

    @Test func anAdministratorComesBeforeAllOthers() {
        let turns = Turns()
        for caller in 0..<100 {
            for _ in 0..<5 { _ = turns.add("n\(caller)", of: node("n\(caller)")) }
        }
        let before = turns.run()
        #expect(before.count == 32, "of all together so many are handled at once")
        #expect(turns.add("admin", of: admin))
        #expect(turns.run().map(\.item) == ["admin"])
    }

    @Test func whatIsUrgentWaitsForNothing() {
        let turns = Turns()
        for _ in 0..<200 { _ = turns.add("list", of: admin) }
        _ = turns.run()
        #expect(turns.add("revoke", of: admin, isUrgent: true))
        let begun = turns.run()
        #expect(begun.map(\.item) == ["revoke"])
        turns.ended(begun[0].turn)
        // What a node does to itself is not.
        _ = turns.add("own", of: node("n"), isUrgent: true)
        #expect(turns.run().first?.turn.isUrgent == false)
    }

    @Test func aCallerMayHaveAsManyAsItLeaves() {
        var limits = RequestTurns<String>.Limits()
        limits.all = 100
        let turns = Turns(limits)
        var taken = 0
        while turns.add("x", of: node("greedy")) { taken += 1 }
        #expect(taken == 50)
        #expect(turns.add("x", of: node("modest")))
        #expect(turns.add("x", of: .anonymous("192.0.2.1")))
        // Administrators do not count among them.
        var all = 0
        while turns.add("x", of: admin) { all += 1 }
        #expect(all == 100)
    }

    @Test func everythingIsHandledInTheEnd() {
        let turns = Turns()
        var added = 0
        for number in 0..<2000 where turns.add("\(number)", of: node("n\(number % 37)")) { added += 1 }
        var handled = 0
        while handled < added {
            let running = turns.run()
            guard !running.isEmpty else { break }
            for (_, turn) in running { turns.ended(turn) }
            handled += running.count
        }
        #expect(handled == added && added > 900)
        #expect(turns.run().isEmpty)
    }
}
