import Core
import DriverKit
import Simulation
import Testing

@testable import DriverHost

/// A host that says anything, against a plain model of what it was given. A failure names the seed.
@Suite("RequestLedger: a lying host is never believed")
struct LyingHostTests {
    private struct Given {
        var tag: UInt64
        var consumerTag: UInt64
        var length: UInt64
        /// Whether extents are the answer, which may cover less than was asked.
        var isMap: Bool
    }

    private func randomRequest(_ random: inout SplitMix, tag: UInt64) -> DriverRequest {
        let opcode = DriverOpcode.allCases[random.below(DriverOpcode.allCases.count)]
        return DriverRequest(
            opcode: opcode, index: UInt32(random.below(2)), tag: tag,
            offset: UInt64(random.below(64)) * 512, length: UInt64(1 + random.below(8)) * 512)
    }

    /// A completion that is the truth now and then, mostly near it, and sometimes noise.
    private func lie(_ random: inout SplitMix, live: [Given], past: [UInt64]) -> DriverCompletion {
        let tag: UInt64
        let choice = random.below(10)
        if choice < 6, !live.isEmpty {
            tag = live[random.below(live.count)].tag
        } else if choice < 8, !past.isEmpty {
            tag = past[random.below(past.count)]
        } else if choice == 8, let some = live.first {
            tag = some.tag ^ (1 << UInt64(random.below(64)))
        } else {
            tag = random.next() >> UInt64(random.below(64))
        }
        let length = live.first { $0.tag == tag }?.length ?? 4096
        let value =
            switch random.below(8) {
            case 0: random.next()
            case 1: length &+ 512
            default: length
            }
        let status: UInt16 =
            switch random.below(8) {
            case 0: UInt16(truncatingIfNeeded: random.next())
            case 1: Status.allCases[random.below(Status.allCases.count)].rawValue
            default: 0
            }
        var completion = DriverCompletion(tag: tag, status: status, value: value)
        let isMap = live.first { $0.tag == tag }?.isMap ?? false
        if isMap != random.once(in: 16) { completion.mapBytes = UInt32(random.below(300)) * 8 }
        return completion
    }

    /// Whether an answer to a block status is one that a host may give.
    private func isSound(_ said: DriverCompletion, _ truth: Given) -> Bool {
        (1...truth.length).contains(said.value) && (16...4096).contains(said.mapBytes)
            && said.mapBytes % 16 == 0
    }

    @Test("one hundred thousand completions", arguments: [UInt64(1), 2, 3, 4])
    func fuzz(seed: UInt64) throws {
        var random = SplitMix(seed: seed)
        let ledger = RequestLedger(capacity: 32)
        var live: [Given] = []
        var past: [UInt64] = []
        var waiting: Set<UInt64> = []
        var everGiven: Set<UInt64> = []
        var answered: Set<UInt64> = []
        var nextTag: UInt64 = 1
        var delivered = 0
        var refused = 0

        func given(_ request: DriverRequest, consumerTag: UInt64) {
            #expect(everGiven.insert(request.tag).inserted, "seed \(seed): a tag came twice")
            live.append(
                Given(
                    tag: request.tag, consumerTag: consumerTag, length: request.length,
                    isMap: request.opcode == .blockStatus))
        }

        for _ in 0..<25_000 {
            while random.once(in: 2), ledger.hasRoom {
                var request = randomRequest(&random, tag: nextTag)
                // The buffer carries the consumer's tag to where the host's request is seen.
                request.buffer = nextTag
                switch ledger.admit(request, now: 0) {
                case .submit(let host): given(host, consumerTag: nextTag)
                case .held: waiting.insert(nextTag)
                case .full: Issue.record("seed \(seed): full with room")
                }
                nextTag += 1
            }
            let said = lie(&random, live: live, past: past)
            let truth = live.first { $0.tag == said.tag }
            switch ledger.judge(said) {
            case .deliver(let answer):
                delivered += 1
                let owner = try #require(truth, "seed \(seed): tag \(said.tag) was believed")
                #expect(answer.tag == owner.consumerTag, "seed \(seed)")
                #expect(answered.insert(answer.tag).inserted, "seed \(seed): \(answer.tag) answered twice")
                let status = try #require(Status(rawValue: answer.status), "seed \(seed)")
                #expect(status.isForDrivers, "seed \(seed)")
                if owner.isMap, status == .ok {
                    #expect(answer.value == said.value && answer.mapBytes == said.mapBytes, "seed \(seed)")
                    #expect(isSound(said, owner), "seed \(seed): an impossible map was believed")
                } else {
                    #expect(answer.value == (status == .ok ? owner.length : 0), "seed \(seed)")
                }
                live.removeAll { $0.tag == said.tag }
                past.append(said.tag)
            case .violation:
                refused += 1
                if let truth, said.status == 0 {
                    let isTrue = truth.isMap ? isSound(said, truth) : said.value == truth.length
                    #expect(!isTrue, "seed \(seed): the truth was not believed")
                }
            }
            while let host = ledger.nextReleased(now: 0) {
                #expect(waiting.remove(host.buffer) != nil, "seed \(seed): released what did not wait")
                given(host, consumerTag: host.buffer)
            }
            if random.once(in: 200) {
                past.append(contentsOf: live.map(\.tag))
                let before = Set(live.map(\.consumerTag))
                live = []
                ledger.beginReplay()
                while let host = ledger.nextReplay(now: 0) { given(host, consumerTag: host.buffer) }
                #expect(Set(live.map(\.consumerTag)) == before, "seed \(seed)")
            }
            #expect(ledger.inFlight == live.count + waiting.count, "seed \(seed)")
            #expect(ledger.heldCount == waiting.count, "seed \(seed)")
        }
        while let answer = ledger.failNext(.quarantined) {
            #expect(answered.insert(answer.tag).inserted, "seed \(seed): \(answer.tag) answered twice")
        }
        #expect(answered.count == Int(nextTag - 1), "seed \(seed): every request is answered")
        // Without enough of both the fuzzer would prove nothing.
        #expect(delivered > 5000 && refused > 5000, "\(delivered) delivered, \(refused) refused")
    }
}
