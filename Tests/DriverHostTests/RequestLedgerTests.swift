import Core
import DriverKit
import Testing

@testable import DriverHost

@Suite("RequestLedger: what a host was given, and what it says is done")
struct RequestLedgerTests {
    private let ledger = RequestLedger(capacity: 8)

    private func request(
        _ opcode: DriverOpcode, _ tag: UInt64, at block: UInt64 = 0, blocks: UInt64 = 1, volume: UInt32 = 0,
        flags: DriverFlags = []
    ) -> DriverRequest {
        DriverRequest(
            opcode: opcode, flags: flags, index: volume, tag: tag, offset: block * 4096,
            length: blocks * 4096, buffer: tag * 4096)
    }

    /// Admits what must go to the host at once.
    private func submit(_ request: DriverRequest, now: UInt64 = 0) throws -> DriverRequest {
        guard case .submit(let given) = ledger.admit(request, now: now) else {
            throw Unexpected("not submitted")
        }
        return given
    }

    private func hold(_ request: DriverRequest) throws {
        guard case .held = ledger.admit(request, now: 0) else { throw Unexpected("not held") }
    }

    private func completion(_ given: DriverRequest, _ status: Status = .ok) -> DriverCompletion {
        DriverCompletion(tag: given.tag, status: status.rawValue, value: status == .ok ? given.length : 0)
    }

    private func deliver(_ completion: DriverCompletion) throws -> DriverCompletion {
        switch ledger.judge(completion) {
        case .deliver(let answer): return answer
        case .violation(let violation): throw Unexpected("\(violation)")
        }
    }

    private func violation(_ completion: DriverCompletion) throws -> HostViolation {
        switch ledger.judge(completion) {
        case .deliver: throw Unexpected("it was believed")
        case .violation(let violation): return violation
        }
    }

    private func replayAll(now: UInt64 = 0) -> [DriverRequest] {
        ledger.beginReplay()
        var all: [DriverRequest] = []
        while let next = ledger.nextReplay(now: now) { all.append(next) }
        return all
    }

    private struct Unexpected: Error, CustomStringConvertible {
        let description: String
        init(_ description: String) { self.description = description }
    }

    @Test("the host gets another tag and all the rest, the consumer gets its own tag back")
    func roundTrip() throws {
        let asked = request(.write, 77, at: 3, blocks: 2, volume: 9, flags: .fua)
        let given = try submit(asked)
        #expect(given.tag != 77)
        #expect(given.opcode == .write && given.flags == .fua && given.index == 9)
        #expect(
            given.offset == asked.offset && given.length == asked.length && given.buffer == asked.buffer)
        #expect(ledger.inFlight == 1)
        let answer = try deliver(completion(given))
        #expect(answer.tag == 77 && answer.status == 0 && answer.value == 8192)
        #expect(ledger.inFlight == 0)
    }

    @Test("a full ledger says so, and takes more when one is finished")
    func full() throws {
        var given: [DriverRequest] = []
        for tag in 0..<8 { given.append(try submit(request(.read, UInt64(tag)))) }
        #expect(!ledger.hasRoom)
        guard case .full = ledger.admit(request(.read, 8), now: 0) else {
            Issue.record("a ninth request was taken")
            return
        }
        _ = try deliver(completion(given[3]))
        #expect(ledger.hasRoom)
        #expect(try submit(request(.read, 8)).tag != given[3].tag)
    }

    @Test("a flush covers no bytes, whatever the consumer wrote there")
    func flushValue() throws {
        let given = try submit(request(.flush, 1, blocks: 5))
        #expect(given.length == 0)
        #expect(try deliver(completion(given)).value == 0)
    }

    @Test("a failed request covers no bytes, whatever the host says")
    func failedValue() throws {
        let given = try submit(request(.read, 5))
        let answer = try deliver(
            DriverCompletion(tag: given.tag, status: Status.mediumError.rawValue, value: 4096))
        #expect(answer.status == Status.mediumError.rawValue && answer.value == 0 && answer.tag == 5)
    }

    @Test(
        "a block status covers what the host says, up to what was asked, in whole extents; it changes nothing"
    )
    func blockStatus() throws {
        let write = try submit(request(.write, 1, blocks: 4))
        let given = try submit(request(.blockStatus, 2, blocks: 4))
        func said(_ value: UInt64, _ bytes: UInt32) -> DriverCompletion {
            DriverCompletion(tag: given.tag, status: 0, value: value, mapBytes: bytes)
        }
        for (value, bytes) in [
            (0, 16), (4 * 4096 + 1, 16), (4096, 0), (4096, 8), (4096, 17), (4096, 4112), (.max, .max - 15),
        ] as [(UInt64, UInt32)] {
            #expect(try violation(said(value, bytes)) == .badMap(value, bytes: bytes))
        }
        let answer = try deliver(said(4096, 4096))
        #expect(answer.tag == 2 && answer.value == 4096 && answer.mapBytes == 4096)
        // Extents come with nothing else.
        let plain = DriverCompletion(tag: write.tag, status: 0, value: 4 * 4096, mapBytes: 16)
        #expect(try deliver(plain).mapBytes == 0)
    }

    // MARK: Lies

    @Test("a completion counts once")
    func duplicate() throws {
        let first = try submit(request(.read, 1))
        _ = try deliver(completion(first))
        #expect(try violation(completion(first)) == .repeatedTag(first.tag))
        // The next request in the same place has another tag.
        let second = try submit(request(.read, 2))
        #expect(try violation(completion(first)) == .repeatedTag(first.tag))
        #expect(try deliver(completion(second)).tag == 2)
    }

    @Test("tags that were never given")
    func invented() throws {
        let given = try submit(request(.read, 1))
        for tag in [0, 1, 8, given.tag + (1 << 16), UInt64.max, given.tag ^ (1 << 60), given.tag + 8] {
            #expect(
                try violation(DriverCompletion(tag: tag, status: 0, value: 4096)) == .inventedTag(tag))
        }
        // Another entry's index under a generation that was given.
        let mixed = given.tag ^ 1
        #expect(
            try violation(DriverCompletion(tag: mixed, status: 0, value: 4096)) == .repeatedTag(mixed))
        #expect(try deliver(completion(given)).tag == 1)
    }

    @Test("what an earlier host was given is nothing to this one")
    func stale() throws {
        let old = try submit(request(.write, 1))
        ledger.beginReplay()
        // Lost, and not given to the next host yet.
        #expect(try violation(completion(old)) == .staleTag(old.tag))
        let new = try #require(ledger.nextReplay(now: 0))
        #expect(new.tag != old.tag)
        #expect(try violation(completion(old)) == .staleTag(old.tag))
        #expect(try deliver(completion(new)).tag == 1)
    }

    @Test("a held request was given to nobody")
    func completesHeld() throws {
        let first = try submit(request(.write, 1))
        try hold(request(.write, 2))
        let guess = (first.tag & ~0xFFFF) | 1
        #expect(
            try violation(DriverCompletion(tag: guess, status: 0, value: 4096)) == .repeatedTag(guess))
        #expect(try violation(DriverCompletion(tag: 0, status: 0, value: 4096)) == .inventedTag(0))
    }

    @Test("every number as a status: only what drivers may say is believed")
    func statuses() throws {
        for raw in UInt16.min...UInt16.max where raw != 0 {
            let given = try submit(request(.read, 1))
            let said = DriverCompletion(tag: given.tag, status: raw, value: 0)
            if let status = Status(rawValue: raw), status.isForDrivers {
                #expect(try deliver(said).status == raw)
            } else {
                guard case .violation(.badStatus(raw)) = ledger.judge(said) else {
                    Issue.record("status \(raw) was believed")
                    return
                }
                _ = try deliver(completion(given))
            }
        }
        for status in [Status.revoked, .fenced, .draining, .quarantined, .driverRecovering, .badSlot] {
            #expect(!status.isForDrivers)
        }
        for status in [Status.noSpace, .ioError, .mediumError, .unaligned] {
            #expect(status.isForDrivers)
        }
    }

    @Test("what is done is done in full", arguments: [UInt64(0), 1, 4095, 4097, 8192, .max])
    func values(value: UInt64) throws {
        let given = try submit(request(.write, 1))
        let said = DriverCompletion(tag: given.tag, status: 0, value: value)
        #expect(try violation(said) == .badValue(value, expected: 4096))
        #expect(try deliver(completion(given)).value == 4096)
    }

    @Test("each violation says what happened")
    func descriptions() {
        let all: [HostViolation] = [
            .inventedTag(41), .staleTag(42), .repeatedTag(43), .badStatus(44), .badValue(45, expected: 46),
        ]
        for (number, violation) in zip(41..., all) {
            #expect(violation.description.contains("\(number)"))
        }
        #expect(Set(all.map(\.description)).count == all.count)
    }

    // MARK: Overlapping mutations

    @Test("a mutation waits for the earlier ones that it overlaps")
    func holds() throws {
        let first = try submit(request(.write, 1, at: 0, blocks: 4))
        let second = try submit(request(.discard, 2, at: 6, blocks: 2))
        try hold(request(.writeZeroes, 3, at: 3, blocks: 4))
        #expect(ledger.heldCount == 1 && ledger.inFlight == 3)
        _ = try deliver(completion(first))
        #expect(ledger.nextReleased(now: 0) == nil)
        _ = try deliver(completion(second))
        let third = try #require(ledger.nextReleased(now: 0))
        #expect(third.opcode == .writeZeroes && ledger.heldCount == 0)
        #expect(ledger.nextReleased(now: 0) == nil)
        #expect(try deliver(completion(third)).tag == 3)
    }

    @Test("held mutations of the same bytes go one after the other, in order")
    func holdsInOrder() throws {
        var given = try submit(request(.write, 1))
        for tag in UInt64(2)...6 { try hold(request(.write, tag)) }
        for tag in UInt64(1)...6 {
            #expect(try deliver(completion(given)).tag == tag)
            if tag < 6 { given = try #require(ledger.nextReleased(now: 0)) }
            #expect(ledger.nextReleased(now: 0) == nil)
        }
        #expect(ledger.inFlight == 0 && ledger.heldCount == 0)
    }

    @Test("neighbours, other volumes, reads and flushes do not wait")
    func doesNotHold() throws {
        _ = try submit(request(.write, 1, at: 4, blocks: 4))
        _ = try submit(request(.write, 2, at: 0, blocks: 4))
        _ = try submit(request(.write, 3, at: 8, blocks: 4))
        _ = try submit(request(.write, 4, at: 4, blocks: 4, volume: 1))
        _ = try submit(request(.read, 5, at: 4, blocks: 4))
        _ = try submit(request(.flush, 6, at: 4, blocks: 4))
    }

    @Test("a range that runs over the end of numbers still holds what it overlaps")
    func overflowingRange() throws {
        _ = try submit(
            DriverRequest(
                opcode: .discard, index: 0, tag: 1, offset: .max - 4096, length: .max - 4096))
        try hold(DriverRequest(opcode: .write, index: 0, tag: 2, offset: .max - 100, length: 50))
    }

    // MARK: Replay

    @Test("what is unfinished is given again, in order and whole, under new tags")
    func replay() throws {
        let given = [
            try submit(request(.write, 1, at: 0)), try submit(request(.read, 2, at: 0)),
            try submit(request(.flush, 3)), try submit(request(.discard, 4, at: 8, blocks: 4)),
            try submit(request(.writeZeroes, 5, at: 20, flags: .noUnmap)),
        ]
        _ = try deliver(completion(given[1]))
        let again = replayAll()
        #expect(again.map(\.opcode) == [.write, .flush, .discard, .writeZeroes])
        #expect(Set(again.map(\.tag)).isDisjoint(with: given.map(\.tag)))
        #expect(again[2].offset == 8 * 4096 && again[2].length == 4 * 4096 && again[3].flags == .noUnmap)
        #expect(again[0].buffer == 4096)
        #expect(ledger.replayed == 4)
        #expect(try again.map { try deliver(completion($0)).tag } == [1, 3, 4, 5])
    }

    @Test("a host that is lost during its replay leaves all of it to the next")
    func replayTwice() throws {
        for tag in UInt64(1)...3 { _ = try submit(request(.write, tag, at: tag)) }
        ledger.beginReplay()
        let early = try #require(ledger.nextReplay(now: 0))
        let again = replayAll()
        #expect(again.map(\.offset) == [4096, 8192, 12288])
        #expect(try violation(completion(early)) == .staleTag(early.tag))
        #expect(ledger.replayed == 4)
    }

    @Test("a host may complete what it was given while the replay goes on")
    func completesDuringReplay() throws {
        for tag in UInt64(1)...3 { _ = try submit(request(.write, tag, at: tag)) }
        ledger.beginReplay()
        let first = try #require(ledger.nextReplay(now: 0))
        _ = try deliver(completion(first))
        let second = try #require(ledger.nextReplay(now: 0))
        let third = try #require(ledger.nextReplay(now: 0))
        #expect(ledger.nextReplay(now: 0) == nil)
        #expect(try deliver(completion(third)).tag == 3)
        #expect(try deliver(completion(second)).tag == 2)
    }

    @Test("what is admitted during a replay is not given twice")
    func admitsDuringReplay() throws {
        _ = try submit(request(.write, 1, at: 1))
        ledger.beginReplay()
        let new = try submit(request(.write, 2, at: 2))
        try hold(request(.write, 3, at: 1))
        let again = try #require(ledger.nextReplay(now: 0))
        #expect(again.offset == 4096)
        #expect(ledger.nextReplay(now: 0) == nil)
        #expect(try deliver(completion(new)).tag == 2)
        #expect(try deliver(completion(again)).tag == 1)
        #expect(ledger.nextReleased(now: 0)?.offset == 4096)
    }

    @Test("held requests wait over the loss of a host; released ones go with the replay")
    func holdsOverReplay() throws {
        let first = try submit(request(.write, 1, at: 1))
        try hold(request(.write, 2, at: 1))
        _ = try submit(request(.write, 3, at: 3))
        try hold(request(.write, 4, at: 3))
        _ = try deliver(completion(first))
        // The host is lost before anybody fetched what was released.
        let again = replayAll()
        #expect(again.map(\.offset) == [4096, 3 * 4096])
        #expect(ledger.replayed == 1 && ledger.heldCount == 1)
        #expect(ledger.nextReleased(now: 0) == nil)
        #expect(try again.map { try deliver(completion($0)).tag } == [2, 3])
        #expect(ledger.nextReleased(now: 0)?.offset == 3 * 4096)
    }

    // MARK: Giving up and watching

    @Test("giving up answers everything on record once, held or not")
    func failAll() throws {
        let first = try submit(request(.write, 1))
        try hold(request(.write, 2))
        _ = try submit(request(.flush, 3))
        try hold(request(.write, 4))
        _ = try deliver(completion(first))
        var failed: [UInt64] = []
        while let answer = ledger.failNext(.quarantined) {
            #expect(answer.status == Status.quarantined.rawValue && answer.value == 0)
            failed.append(answer.tag)
        }
        #expect(failed == [2, 3, 4])
        #expect(ledger.inFlight == 0 && ledger.heldCount == 0 && ledger.nextReleased(now: 0) == nil)
        #expect(replayAll().isEmpty)
        _ = try submit(request(.write, 5))
    }

    @Test("each class of request has its own deadline, counted from when the host got it")
    func overdue() throws {
        let deadlines = RequestLedger.Deadlines(transfer: 100, flush: 1000, space: 500)
        _ = try submit(request(.flush, 1), now: 10)
        _ = try submit(request(.discard, 2, at: 8), now: 10)
        let write = try submit(request(.write, 3, volume: 7), now: 20)
        #expect(ledger.overdue(now: 120, deadlines: deadlines) == nil)
        let late = try #require(ledger.overdue(now: 121, deadlines: deadlines))
        #expect(late == RequestLedger.Overdue(opcode: .write, volume: 7, waited: 101))
        #expect(late.description.contains("write on volume 7"))
        _ = try deliver(completion(write))
        #expect(ledger.overdue(now: 510, deadlines: deadlines) == nil)
        #expect(ledger.overdue(now: 511, deadlines: deadlines)?.opcode == .discard)
        #expect(ledger.overdue(now: 5, deadlines: deadlines) == nil)
        // The next host gets its own time.
        _ = replayAll(now: 1000)
        #expect(ledger.overdue(now: 1500, deadlines: deadlines) == nil)
        #expect(ledger.overdue(now: 1501, deadlines: deadlines)?.opcode == .discard)
    }

    @Test("a held request is not the host's delay")
    func heldIsNotOverdue() throws {
        let deadlines = RequestLedger.Deadlines(transfer: 100, flush: 100, space: 100)
        let first = try submit(request(.write, 1), now: 0)
        try hold(request(.write, 2))
        _ = try deliver(completion(first))
        #expect(ledger.overdue(now: 1000, deadlines: deadlines) == nil)
        _ = ledger.nextReleased(now: 1000)
        #expect(ledger.overdue(now: 1100, deadlines: deadlines) == nil)
        #expect(ledger.overdue(now: 1101, deadlines: deadlines) != nil)
    }
}
