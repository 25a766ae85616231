import Testing

@testable import DataPlane

@Suite struct ConnectionPhaseTests {
    private static let all: [ConnectionPhase] = {
        let closing = ConnectionPhase.Closing(since: 5, isByClient: true, isLast: false)
        let finishing = ConnectionPhase.Finishing(hasHalfRequest: false)
        return [
            .handshake(since: 1), .greeting(since: 1), .resuming, .open, .finishing(finishing),
            .closing(closing), .lingering(closing), .closed,
        ]
    }()

    private static let patience = ConnectionPhase.Patience(hello: 10, linger: 20, lastLinger: 2)

    /// Requests are read only where what arrives is decrypted, and what is served is heard.
    @Test func whatAPhaseMeansAgrees() {
        for phase in Self.all {
            if phase.isReading || phase.isServing { #expect(phase.isHearing, "\(phase)") }
            if phase.isOpen { #expect(phase.isReading && phase.isServing && !phase.endsWhenSent) }
            if phase.isClosed { #expect(!phase.isHearing && !phase.mayEncrypt) }
        }
    }

    @Test func whoeverWasServedIsToldOnceThatItEnds() {
        for var phase in Self.all {
            let before = phase
            let begins = phase.close(now: 7, isByClient: false)
            #expect(begins == before.isHearing, "\(before)")
            let again = phase.close(now: 9, isByClient: true)
            #expect(!again)
            if begins {
                #expect(phase.deadline(Self.patience) == (before.endsWhenSent ? 9 : 27), "\(before)")
            }
        }
    }

    @Test func theEndKnowsWhetherTheClientWantedIt() {
        var phase = ConnectionPhase.open
        _ = phase.close(now: 1, isByClient: true)
        phase.linger()
        #expect(phase == .lingering(ConnectionPhase.Closing(since: 1, isByClient: true, isLast: false)))
        let first = phase.end()
        let second = phase.end()
        #expect(first == true && second == nil && phase.isClosed)
        for var phase in Self.all where phase.isHearing {
            let wasWanted = phase.end()
            #expect(wasWanted == false, "a connection that breaks is lost")
        }
    }

    @Test func onlyAnOpenConnectionFinishes() {
        for var phase in Self.all {
            let before = phase
            let finishes = phase.finish(hasHalfRequest: true)
            #expect(finishes == before.isOpen)
            if finishes { #expect(phase.endsWhenSent && phase.isServing && !phase.isReading) }
        }
    }

    @Test func whatIsLateEndsInItsOwnWay() {
        #expect(ConnectionPhase.greeting(since: 1).deadline(Self.patience) == 11)
        #expect(ConnectionPhase.open.deadline(Self.patience) == .max)
        for phase in Self.all {
            let lateness = (phase.lateness(isSending: true), phase.lateness(isSending: false))
            let isGoing = !phase.isHearing
            #expect((lateness.0 == .teardown) == isGoing && (lateness.1 == .teardown) == isGoing, "\(phase)")
        }
        #expect(ConnectionPhase.open.lateness(isSending: true) == .close("it does not read"))
    }

    @Test func onlyTLSMakesAGreetingOfAHandshake() {
        for var phase in Self.all {
            let before = phase
            phase.becomeGreeting()
            #expect(phase == (before == .handshake(since: 1) ? .greeting(since: 1) : before))
        }
    }
}

@Suite struct ReceiveStateTests {
    @Test func theKernelIsAskedOnceForWhatComes() {
        var state = ReceiveState()
        let actions = [
            state.more(mayMeter: true, hasMuch: false), state.more(mayMeter: true, hasMuch: false),
        ]
        #expect(actions == [.receive, .nothing] && state.isReceiving)
        let pauses = [state.pause(), state.pause()]
        #expect(pauses == [.cancel, .nothing] && state.isReceiving, "it may still give something")
        let more = state.more(mayMeter: true, hasMuch: false)
        #expect(more == .nothing)
        state.ended()
        let again = state.more(mayMeter: true, hasMuch: false)
        #expect(again == .receive)
    }

    @Test func whoIsMeteredReceivesInItsTurn() {
        var state = ReceiveState()
        _ = state.more(mayMeter: true, hasMuch: false)
        let actions = [state.meter(), state.meter()]
        #expect(actions == [.cancel, .nothing] && state.isMetered)
        state.ended()
        let turns = [
            state.more(mayMeter: true, hasMuch: false), state.more(mayMeter: true, hasMuch: false),
        ]
        #expect(turns == [.waitForTurn, .nothing])
        let turn = state.takeTurn()
        #expect(turn == .piece)
        state.poll()
        let polled = state.more(mayMeter: true, hasMuch: false)
        #expect(polled == .nothing, "the kernel says when there is something")
        state.polled()
        state.unmeter()
        let free = state.more(mayMeter: true, hasMuch: false)
        #expect(free == .receive)
    }

    @Test func aConnectionThatIsNotOpenIsNotMeteredHoweverMuchIsUnread() {
        var state = ReceiveState()
        let action = state.more(mayMeter: false, hasMuch: true)
        #expect(action == .receive && state.isMetered)
    }

    @Test func whatHasArrivedIsTakenUpBeforeMoreIsReceived() {
        var state = ReceiveState()
        _ = state.more(mayMeter: true, hasMuch: true)
        let off = [state.putOff(), state.putOff()]
        #expect(off == [.nothing, .nothing], "it waits for its turn already")
        #expect(state.isPutOff)
        let turns = [state.takeTurn(), state.takeTurn()]
        #expect(turns == [.arrived, .none] && !state.isPutOff)
        let next = state.putOff()
        #expect(next == .waitForTurn)
    }
}

@Suite struct SendStateTests {
    @Test func aTurnIsAskedForOnce() {
        var state = SendState()
        let asks = [state.wants(), state.wants()]
        #expect(asks == [true, false])
        state.takeTurn()
        let again = state.wants()
        #expect(again)
    }

    @Test func whoeverTakesNothingIsLateTheSoonerTheMoreItsBufferIsNeeded() {
        var state = SendState()
        #expect(state.deadline(patience: 30, hurried: 3) == .max)
        state.began(now: 100)
        #expect(state.deadline(patience: 30, hurried: 3) == 130)
        state.hurry(true)
        #expect(state.deadline(patience: 30, hurried: 3) == 103)
        state.ended()
        #expect(!state.isSending && state.deadline(patience: 30, hurried: 3) == .max)
    }
}
