import Testing

@testable import ControlPlane

/// What callers do not read of their answers.
@Suite struct UnreadAnswersTests {
    private var limits: ControlServerLimits {
        var limits = ControlServerLimits()
        limits.unreadBytesPerCaller = 100
        limits.unreadBytes = 250
        return limits
    }

    @Test func aCallerHasItsOwnMost() {
        var unread = UnreadAnswers(limits)
        let (one, other) = (ControlCaller.node("one"), ControlCaller.node("other"))
        unread.change(one, by: 100)
        #expect(!unread.isTooMuch(of: one))
        unread.change(one, by: 1)
        #expect(unread.isTooMuch(of: one) && !unread.isTooMuch(of: other))
        unread.change(one, by: -101)
        #expect(!unread.isTooMuch(of: one))
    }

    @Test func manyCallersLeaveRoomForOthers() {
        var unread = UnreadAnswers(limits)
        for number in 0..<2 { unread.change(.node("\(number)"), by: 90) }
        unread.change(.node("late"), by: 35)
        #expect(!unread.isTooMuch(of: .node("late")), "it has no more than is left")
        unread.change(.node("late"), by: 1)
        #expect(unread.isTooMuch(of: .node("late")))
        #expect(unread.isTooMuch(of: .node("0")))
        unread.change(.node("0"), by: -90)
        #expect(!unread.isTooMuch(of: .node("late")))
    }

    @Test func anAdministratorHasNoBound() {
        var unread = UnreadAnswers(limits)
        unread.change(.admin("root"), by: 1_000_000)
        #expect(!unread.isTooMuch(of: .admin("root")) && !unread.isTooMuch(of: .node("one")))
    }
}
