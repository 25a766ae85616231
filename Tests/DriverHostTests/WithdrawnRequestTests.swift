import Core
import DriverKit
import Testing

@testable import DriverHost

@Suite("RequestLedger: requests of users who were cut off")
struct WithdrawnRequestTests {
    private let ledger = RequestLedger(capacity: 8)

    private func write(_ tag: UInt64, at block: UInt64, blocks: UInt64 = 1) -> DriverRequest {
        DriverRequest(
            opcode: .write, index: 0, tag: tag, offset: block * 4096, length: blocks * 4096,
            buffer: tag * 4096)
    }

    @discardableResult
    private func admit(_ request: DriverRequest) -> DriverRequest? {
        if case .submit(let given) = ledger.admit(request, now: 0) { given } else { nil }
    }

    private func withdraw(_ tags: UInt64..., now: UInt64 = 0) -> [UInt64] {
        ledger.withdraw(Set(tags), status: .fenced, now: now)
        return answered()
    }

    /// The tags that are answered as fenced.
    private func answered() -> [UInt64] {
        var tags: [UInt64] = []
        while let completion = ledger.nextWithdrawn() {
            #expect(completion.status == Status.fenced.rawValue && completion.value == 0)
            tags.append(completion.tag)
        }
        return tags
    }

    private func replay() -> [UInt64] {
        var offsets: [UInt64] = []
        while let request = ledger.nextReplay(now: 0) { offsets.append(request.offset / 4096) }
        return offsets
    }

    @Test("what the host has waits for the host; when that is gone it is answered and not given again")
    func isLeftOutOfTheReplay() {
        for tag in UInt64(1)...3 { admit(write(tag, at: tag)) }
        #expect(withdraw(2) == [])
        #expect(ledger.inFlight == 3)
        ledger.beginReplay()
        #expect(answered() == [2])
        #expect(replay() == [1, 3])
        #expect(ledger.replayed == 2 && ledger.inFlight == 2)
    }

    @Test("what the host finishes all the same is answered as it happened, once")
    func mayFinish() throws {
        let given = try #require(admit(write(1, at: 1)))
        #expect(withdraw(1) == [])
        let done = DriverCompletion(tag: given.tag, status: 0, value: 4096)
        guard case .deliver(let answer) = ledger.judge(done) else {
            Issue.record("the truth was not believed")
            return
        }
        #expect(answer.tag == 1 && answer.status == 0)
        ledger.beginReplay()
        #expect(answered() == [] && ledger.inFlight == 0)
    }

    @Test("what waits for others is answered at once, and lets go only those that waited for it")
    func heldRequestsEndAtOnce() throws {
        let first = try #require(admit(write(1, at: 0, blocks: 2)))
        #expect(admit(write(2, at: 1, blocks: 2)) == nil)
        #expect(admit(write(3, at: 1, blocks: 3)) == nil)
        #expect(admit(write(4, at: 3)) == nil)
        #expect(ledger.heldCount == 3)
        #expect(withdraw(3) == [3])
        // 4 waited for 3 alone; 2 still waits for 1, which the host has.
        #expect(ledger.heldCount == 1)
        #expect(ledger.nextReleased(now: 0)?.offset == 3 * 4096)
        #expect(ledger.nextReleased(now: 0) == nil)
        _ = ledger.judge(DriverCompletion(tag: first.tag, status: 0, value: 8192))
        #expect(ledger.nextReleased(now: 0)?.offset == 4096)
    }

    @Test("what was about to be given is answered at once")
    func releasedRequestsEndAtOnce() throws {
        let first = try #require(admit(write(1, at: 0)))
        admit(write(2, at: 0))
        _ = ledger.judge(DriverCompletion(tag: first.tag, status: 0, value: 4096))
        #expect(ledger.hasReleased)
        #expect(withdraw(2) == [2])
        #expect(!ledger.hasReleased && ledger.inFlight == 0)
    }

    @Test("what is lost between two hosts is answered at once")
    func lostRequestsEndAtOnce() {
        admit(write(1, at: 0))
        admit(write(2, at: 1))
        ledger.beginReplay()
        #expect(withdraw(1, 77) == [1])
        #expect(replay() == [1])
    }

    @Test("a pool that gives up answers with what the fence says")
    func failsWithItsOwnStatus() {
        admit(write(1, at: 0))
        admit(write(2, at: 1))
        #expect(withdraw(2) == [])
        #expect(ledger.failNext(.quarantined)?.status == Status.quarantined.rawValue)
        #expect(ledger.failNext(.quarantined)?.status == Status.fenced.rawValue)
        #expect(answered() == [])
    }

    @Test("a host may keep what was withdrawn for the time that is stated, from then on")
    func isOverdueSoon() {
        let deadlines = RequestDeadlines()
        let second: UInt64 = 1_000_000_000
        admit(write(1, at: 0))
        admit(write(2, at: 1))
        #expect(ledger.overdue(now: 20 * second, deadlines: deadlines) == nil)
        #expect(withdraw(2, now: 20 * second) == [])
        #expect(ledger.overdue(now: 24 * second, deadlines: deadlines) == nil)
        let overdue = ledger.overdue(now: 24 * second + 1, deadlines: deadlines)
        #expect(overdue?.isWithdrawn == true)
        #expect(
            overdue?.description == "a write on volume 0 of a user who was cut off has taken 24000 ms")
    }

    @Test("withdrawing twice changes neither status nor time")
    func twice() {
        let deadlines = RequestDeadlines(withdrawn: 10)
        admit(write(1, at: 0))
        #expect(withdraw(1, now: 100) == [])
        ledger.withdraw([1], status: .revoked, now: 109)
        #expect(ledger.overdue(now: 111, deadlines: deadlines) != nil)
        ledger.beginReplay()
        #expect(answered() == [1])
    }
}
