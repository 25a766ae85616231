import Core
import DriverKit
import Simulation

@testable import DriverHost

/// A bug that the simulator must find: each is a way to use the parts wrongly.
enum PlantedBug: String, CaseIterable, Sendable {
    /// A finished write is repeated with the unfinished ones.
    case replaysFinished
    /// Completions are matched by their place in the ledger alone.
    case ignoresGeneration
    /// The next host is attached while the lost one may still write.
    case attachesBeforeGone
    /// A flush that was under way when the host was lost is taken for done.
    case forgetsFlush
    /// Replayed writes lose their flags.
    case forgetsForcedUnitAccess
    /// An answer goes out twice.
    case answersTwice
    /// Overlapping mutations are with the host at once.
    case doesNotSerialise
    /// The first request of a replay is left out.
    case losesRequest
    /// Requests fail while the host may still use their buffers.
    case failsTooEarly
    /// Requests that wait for others are never asked for again.
    case forgetsReleased
    /// Who fences is told that it is over while the host may still do what was withdrawn.
    case fenceDoesNotWait
    /// The next host is given what was withdrawn.
    case replaysWithdrawn
}

/// One reactor's side: a consumer with its buffers, the ledger, and the way to the host.
final class SimulatedLane {
    enum Message {
        case attach(SimulatedHost)
        case detach
        case quiesce
        case resume
        case fail(Status)
        case hostsAreGone
    }

    /// A request of the consumer.
    struct Slot {
        var tag: UInt64 = 0
        var request = DriverRequest(opcode: .flush, index: 0, tag: 0)
        var start: UInt64 = 0
        /// What a mutation leaves in its blocks.
        var value: UInt64 = 0
        var isBusy = false
        /// Who asked was cut off.
        var isWithdrawn = false
    }

    static let depth = 16
    static let blocksMax = 8
    /// What no block ever holds.
    static let poison = UInt64.max

    let number: Int
    let ledger = RequestLedger(capacity: 12)
    let bug: PlantedBug?
    var device = SimulatedDevice()
    var arena = [UInt64](repeating: poison, count: depth * blocksMax)
    var slots = [Slot](repeating: Slot(), count: depth)
    /// Slots whose requests the ledger has not taken yet.
    var waiting: [Int] = []
    var busy = 0
    var host: SimulatedHost?
    var isQuiet = false
    var failing: Status?
    var mailbox: [Message] = []
    /// A tag that an earlier host was given, for lies.
    private(set) var oldTag: UInt64 = 0
    private var lastTag: UInt64 = 0
    private var history = [BlockHistory](repeating: BlockHistory(), count: SimulatedDevice.blocks)
    /// By place in the ledger, for bugs: the last tag, and the last finished mutation.
    private var tagOfEntry = [UInt64](repeating: 0, count: 12)
    private var finished: DriverRequest?
    /// What was withdrawn and answered, for a bug.
    private var fenced: [DriverRequest] = []
    private var sequence: UInt64 = 0
    private(set) var completed = 0
    private(set) var failed = 0
    private(set) var withdrawn = 0
    /// What went wrong first.
    private(set) var failure: String?

    init(number: Int, bug: PlantedBug?) {
        self.number = number
        self.bug = bug
    }

    func fail(_ message: String) {
        if failure == nil { failure = "lane \(number): \(message)" }
    }

    // MARK: The consumer

    /// The consumer asks for something; false when all its slots are taken.
    func submit(clock: inout UInt64, random: inout SplitMix) -> Bool {
        guard busy < SimulatedLane.depth else { return false }
        var slot = random.below(SimulatedLane.depth)
        while slots[slot].isBusy { slot = (slot + 1) % SimulatedLane.depth }
        clock += 1
        sequence += 1
        busy += 1
        let opcode: DriverOpcode =
            switch random.below(17) {
            case 0..<6: .read
            case 6..<12: .write
            case 12: .writeZeroes
            case 13: .discard
            case 14: .blockStatus
            default: .flush
            }
        // Mostly short and near the start, so that much overlaps.
        let count = 1 + random.below(random.once(in: 4) ? SimulatedLane.blocksMax : 3)
        let span = SimulatedDevice.blocks - count
        let first = random.once(in: 2) ? random.below(min(span, 6)) : random.below(span)
        let flags: DriverFlags = opcode == .write && random.once(in: 6) ? .fua : []
        let value = clock
        let buffer = UInt64(slot * SimulatedLane.blocksMax)
        let isTransfer = opcode == .read || opcode == .write
        let tag = sequence << 8 | UInt64(slot)
        let request = DriverRequest(
            opcode: opcode, flags: flags, index: 0, tag: tag,
            offset: UInt64(first) * SimulatedDevice.blockBytes,
            length: opcode == .flush ? 0 : UInt64(count) * SimulatedDevice.blockBytes,
            buffer: isTransfer ? buffer : value)
        slots[slot] = Slot(tag: tag, request: request, start: clock, value: value, isBusy: true)
        for index in 0..<count where isTransfer {
            arena[Int(buffer) + index] = opcode == .write ? value : SimulatedLane.poison
        }
        if opcode != .read && opcode != .flush && opcode != .blockStatus {
            for block in first..<first + count { history[block].writeStarted(value, at: clock) }
        }
        waiting.append(slot)
        return true
    }

    /// The consumer is answered; its buffer is its own again.
    func answer(_ completion: DriverCompletion, clock: inout UInt64, hosts: [SimulatedHost]) {
        let index = Int(completion.tag & 0xFF)
        guard index < slots.count, slots[index].isBusy, slots[index].tag == completion.tag else {
            return fail("request \(completion.tag) was answered twice, or never asked")
        }
        let slot = slots[index]
        slots[index].isBusy = false
        busy -= 1
        clock += 1
        let isTransfer = slot.request.opcode == .read || slot.request.opcode == .write
        for host in hosts where isTransfer {
            if host.mayTouch(buffer: slot.request.buffer, lane: number) {
                fail("request \(slot.tag) was answered while host \(host.number) may touch its buffer")
            }
        }
        for host in hosts where completion.status == Status.fenced.rawValue {
            if host.mayDo(slot.request, lane: number) {
                fail("request \(slot.tag) was answered as fenced while host \(host.number) may still do it")
            }
        }
        let first = Int(slot.request.offset / SimulatedDevice.blockBytes)
        let blocks = first..<first + Int(slot.request.length / SimulatedDevice.blockBytes)
        if completion.status != Status.ok.rawValue {
            failed += 1
            judgeFailure(completion, slot, blocks)
        } else {
            completed += 1
            let isMap = slot.request.opcode == .blockStatus
            let isRight =
                isMap
                ? completion.value > 0 && completion.value <= slot.request.length && completion.mapBytes == 16
                : completion.value == slot.request.length && completion.mapBytes == 0
            if !isRight { fail("request \(slot.tag) covered another length") }
            judge(slot, blocks, clock)
        }
    }

    private func judgeFailure(_ completion: DriverCompletion, _ slot: Slot, _ blocks: Range<Int>) {
        let isKnown =
            completion.status == Status.mediumError.rawValue || completion.status == failing?.rawValue
            || (completion.status == Status.fenced.rawValue && slot.isWithdrawn)
        if !isKnown { fail("request \(slot.tag) failed with status \(completion.status)") }
        if [.read, .flush, .blockStatus].contains(slot.request.opcode) { return }
        for block in blocks { history[block].writeFailed(slot.value) }
    }

    private func judge(_ slot: Slot, _ blocks: Range<Int>, _ clock: UInt64) {
        switch slot.request.opcode {
        case .read:
            for (index, block) in blocks.enumerated() {
                observe(block, arena[Int(slot.request.buffer) + index], slot, clock, "read")
            }
        case .write, .writeZeroes, .discard:
            for block in blocks {
                observe(block, slot.value, slot, clock, "write")
                // Where mutations overlap, another one may have come since: the history must show the bug.
                guard slot.request.flags.contains(.fua), bug != .doesNotSerialise else { continue }
                if device.medium[block] != slot.value {
                    fail("FUA write \(slot.tag): block \(block) is not on the medium")
                }
            }
        case .flush:
            // What is on the medium must be as new as what a read would see that ran when the flush did.
            for block in 0..<SimulatedDevice.blocks {
                observe(block, device.medium[block], slot, clock, "flush")
            }
        case .blockStatus: break
        case nil: fail("no opcode")
        }
    }

    private func observe(_ block: Int, _ value: UInt64, _ slot: Slot, _ clock: UInt64, _ what: String) {
        let isWrite = value == slot.value && slot.request.opcode != .read && slot.request.opcode != .flush
        if let wrong = history[block].observed(value, start: slot.start, end: clock, isWrite: isWrite) {
            fail("\(what) \(slot.tag), block \(block): \(wrong)")
        }
        guard history[block].count > 6 else { return }
        var oldest = UInt64.max
        for other in slots where other.isBusy { oldest = min(oldest, other.start) }
        history[block].prune(
            now: clock, oldest: min(oldest, slot.start), stored: (device.cache[block], device.medium[block]))
    }

    /// The most values that a block's history holds: memory must stay bounded.
    var longestHistory: Int { history.reduce(0) { max($0, $1.count) } }

    // MARK: Somebody cuts consumers off

    /// Withdraws some of what is asked, as a fence does.
    func withdraw(now: UInt64, clock: inout UInt64, hosts: [SimulatedHost], random: inout SplitMix) {
        var tags: Set<UInt64> = []
        for index in slots.indices where slots[index].isBusy && random.once(in: 3) {
            slots[index].isWithdrawn = true
            tags.insert(slots[index].tag)
        }
        // What the ledger has not taken is taken back.
        for slot in waiting where tags.contains(slots[slot].tag) {
            answerFenced(slots[slot].tag, clock: &clock, hosts: hosts)
        }
        waiting.removeAll { tags.contains(slots[$0].tag) }
        ledger.withdraw(tags, status: .fenced, now: now)
        answerWithdrawn(clock: &clock, hosts: hosts)
        if bug == .fenceDoesNotWait {
            for index in slots.indices where slots[index].isBusy && slots[index].isWithdrawn {
                answerFenced(slots[index].tag, clock: &clock, hosts: hosts)
            }
        }
        guard let host else { return }
        while let given = ledger.nextReleased(now: now) { give(given, host) }
    }

    private func answerWithdrawn(clock: inout UInt64, hosts: [SimulatedHost]) {
        while let completion = ledger.nextWithdrawn() {
            let slot = slots[Int(completion.tag & 0xFF)]
            if bug == .replaysWithdrawn, slot.request.opcode != .flush { fenced.append(slot.request) }
            withdrawn += 1
            answer(completion, clock: &clock, hosts: hosts)
        }
    }

    private func answerFenced(_ tag: UInt64, clock: inout UInt64, hosts: [SimulatedHost]) {
        let completion = DriverCompletion(tag: tag, status: Status.fenced.rawValue, value: 0)
        answer(completion, clock: &clock, hosts: hosts)
    }

    // MARK: The reactor

    /// Moves one waiting request on; false when there is none or no way.
    func pump(now: UInt64, clock: inout UInt64, hosts: [SimulatedHost]) -> Bool {
        guard let slot = waiting.first else { return false }
        if let failing {
            waiting.removeFirst()
            answer(
                DriverCompletion(tag: slots[slot].tag, status: failing.rawValue, value: 0), clock: &clock,
                hosts: hosts)
            return true
        }
        guard let host, !isQuiet else { return false }
        var request = slots[slot].request
        // To the ledger, requests of different volumes never overlap.
        if bug == .doesNotSerialise { request.index = UInt32(slot) }
        switch ledger.admit(request, now: now) {
        case .submit(let given): give(given, host)
        case .held: break
        case .full: return false
        }
        waiting.removeFirst()
        return true
    }

    private func give(_ request: DriverRequest, _ host: SimulatedHost) {
        checkIsAsked(request)
        lastTag = request.tag
        tagOfEntry[Int(request.tag & 0xFFFF)] = request.tag
        host.lanes[number].submissions.append(request)
        if host.lanes[number].submissions.count > ledger.capacity { fail("the submission ring ran over") }
    }

    private func checkIsAsked(_ request: DriverRequest) {
        let isAsked = slots.contains { slot in
            slot.isBusy && slot.request.rawOpcode == request.rawOpcode
                && slot.request.offset == request.offset && slot.request.buffer == request.buffer
        }
        if !isAsked { fail("a host was given what nobody asks for any more") }
    }

    /// What a completion led to.
    enum Polled {
        case nothing
        case answered
        case violation(HostViolation)
    }

    /// Takes one completion from the host.
    func poll(now: UInt64, clock: inout UInt64, hosts: [SimulatedHost], random: inout SplitMix) -> Polled {
        guard let host, !host.lanes[number].completions.isEmpty else { return .nothing }
        let said = host.lanes[number].completions.removeFirst()
        var completion = said.completion
        if bug == .ignoresGeneration {
            let entry = Int(completion.tag & 0xFFFF)
            if entry < tagOfEntry.count { completion.tag = tagOfEntry[entry] }
        }
        switch ledger.judge(completion) {
        case .violation(let violation):
            if !said.isLie && bug == nil { fail("the truth was not believed: \(violation)") }
            return .violation(violation)
        case .deliver(let answered):
            if said.isLie && bug != .ignoresGeneration { fail("a lie was believed") }
            let slot = slots[Int(answered.tag & 0xFF)]
            if slot.request.opcode == .write { finished = slot.request }
            answer(answered, clock: &clock, hosts: hosts)
            if bug == .answersTwice && random.once(in: 50) { answer(answered, clock: &clock, hosts: hosts) }
            if bug != .forgetsReleased {
                while let given = ledger.nextReleased(now: now) { give(given, host) }
            }
            return .answered
        }
    }

    /// Takes one message; the host's number when the lane has turned to it.
    func receive(now: UInt64, clock: inout UInt64, hosts: [SimulatedHost]) -> Int? {
        switch mailbox.removeFirst() {
        case .detach:
            host = nil
            oldTag = lastTag
            isQuiet = false
            if bug == .failsTooEarly { failAll(.mediumError, clock: &clock, hosts: hosts) }
        case .attach(let next):
            if host != nil { fail("two hosts are attached") }
            host = next
            isQuiet = false
            failing = nil
            replay(next, now: now, clock: &clock, hosts: hosts)
            return next.number
        case .quiesce: isQuiet = true
        case .resume: isQuiet = false
        case .fail(let status):
            failing = status
            failAll(status, clock: &clock, hosts: hosts)
        case .hostsAreGone:
            guard host == nil else { break }
            ledger.beginReplay()
            answerWithdrawn(clock: &clock, hosts: hosts)
        }
        return nil
    }

    private func replay(
        _ next: SimulatedHost, now: UInt64, clock: inout UInt64, hosts: [SimulatedHost]
    ) {
        ledger.beginReplay()
        answerWithdrawn(clock: &clock, hosts: hosts)
        for request in fenced {
            checkIsAsked(request)
            next.lanes[number].submissions.append(request)
        }
        fenced.removeAll()
        if bug == .replaysFinished, let finished { next.lanes[number].submissions.append(finished) }
        var isFirst = true
        while var given = ledger.nextReplay(now: now) {
            defer { isFirst = false }
            if bug == .losesRequest && isFirst { continue }
            if bug == .forgetsForcedUnitAccess { given.rawFlags = 0 }
            if bug == .forgetsFlush, given.opcode == .flush {
                let done = DriverCompletion(tag: given.tag, status: 0, value: 0)
                if case .deliver(let answered) = ledger.judge(done) {
                    answer(answered, clock: &clock, hosts: hosts)
                }
                continue
            }
            give(given, next)
        }
        while let given = ledger.nextReleased(now: now) { give(given, next) }
    }

    private func failAll(_ status: Status, clock: inout UInt64, hosts: [SimulatedHost]) {
        while let answered = ledger.failNext(status) { answer(answered, clock: &clock, hosts: hosts) }
    }
}
