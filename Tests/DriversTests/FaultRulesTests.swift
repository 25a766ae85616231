import Core
import DriverKit
import Testing

@testable import Drivers

@Suite("The rules of the fault driver")
struct FaultRulesTests {
    @Test(
        "rules are read as they are meant",
        arguments: [
            ("", []),
            (" ;; ", []),
            ("write: error", [FaultRule(operations: .write, fault: .error(.ioError))]),
            (
                "write after=100 every=50: error medium",
                [FaultRule(operations: .write, fault: .error(.mediumError), after: 100, every: 50)]
            ),
            (
                "read chance=1/1000: delay 20ms",
                [
                    FaultRule(
                        operations: .read, fault: .delay(20_000_000),
                        chance: FaultRule.Chance(hits: 1, of: 1000))
                ]
            ),
            ("flush nth=3: hang", [FaultRule(operations: .flush, fault: .hang, nth: 3)]),
            ("any nth=500: crash", [FaultRule(operations: .all, fault: .crash, nth: 500)]),
            ("any: bitflip", [FaultRule(operations: [.read, .write], fault: .bitFlip)]),
            ("any: delay 1ms", [FaultRule(operations: .all, fault: .delay(1_000_000))]),
            ("prepare: delay 1ms", [FaultRule(operations: .prepare, fault: .delay(1_000_000))]),
            ("any: nospace", [FaultRule(operations: [.write, .writeZeroes], fault: .error(.noSpace))]),
            (
                "write: torn crash count=2; powercut after=2000",
                [
                    FaultRule(operations: .write, fault: .torn(crash: true), count: 2),
                    FaultRule(operations: .all, fault: .powerCut(crash: false), after: 2000),
                ]
            ),
            (
                "read,discard,zeroes:delay 3s;",
                [FaultRule(operations: [.read, .discard, .writeZeroes], fault: .delay(3_000_000_000))]
            ),
        ] as [(String, [FaultRule])])
    func valid(text: String, rules: [FaultRule]) throws {
        #expect(try FaultRules(text: text).rules == rules)
    }

    @Test(
        "what is wrong is refused with the rule's number and what would be right",
        arguments: [
            ("write: eror", "error, nospace, delay"), ("write: ", "says no fault"),
            (": error", "before the colon"),
            ("wirte: error", "there is no operation \"wirte\""), ("write,: error", "no operation \"\""),
            ("write: error oi", "io, medium"), ("write: error io io", "one word too many"),
            ("write: hang now", "one word too many"), ("write: delay", "such as delay 20ms"),
            ("write: delay 20", "500us"), ("write: delay 9999999s", "at most 600s"),
            ("write: delay 99999999999999999999s", "at most 600s"),
            ("prepare: hang", "not for prepare"), ("read: torn", "torn is for write, not for read"),
            ("flush: bitflip", "for read, write"),
            ("write: torn lie", "torn crash"), ("write nht=1: error", "there is no condition \"nht\""),
            ("write nth=0: error", "at least 1"), ("write nth=-1: error", "at least 1"),
            ("write after=: error", "at least 0"), ("write nth=1 nth=2: error", "nth is said twice"),
            ("write nth=1: error nth=2", "nth is said twice"),
            ("write nth=1 every=2: error", "do not go with it"), ("write chance=2/1: error", "1/1000"),
            ("write chance=0/1: error", "1/1000"), ("write chance=1: error", "1/1000"),
            ("write chance=1/2/3: error", "1/1000"), ("write: error: io", "more than one colon"),
            ("read: hang; ; write: x", "rule 2"),
            (String(repeating: "read: hang;", count: 65), "more than 64 rules"),
            (String(repeating: " ", count: 5000), "4096 bytes"),
        ])
    func invalid(text: String, words: String) throws {
        let error = try #require(throws: StatusError.self) { _ = try FaultRules(text: text) }
        #expect(error.status == .badRequest)
        #expect(error.message.contains(words), "\(error.message)")
    }

    /// Which of so many requests a schedule picks.
    private func picks(_ text: String, seed: UInt64 = 1, _ count: Int, _ operation: OperationSet = .write)
        throws
        -> [Int]
    {
        var schedule = FaultSchedule(seed: seed, rules: try FaultRules(text: text))
        return (1...count).filter { _ in schedule.next(operation) != nil }
    }

    @Test("conditions count the requests of their operations")
    func conditions() throws {
        #expect(try picks("write after=3 every=4: error", 16) == [7, 11, 15])
        #expect(try picks("write after=3 nth=4: error", 16) == [7])
        #expect(try picks("write every=2 count=3: error", 16) == [2, 4, 6])
        #expect(try picks("write after=14: error", 16) == [15, 16])
        #expect(try picks("write: error", 3, .read) == [])
        let chances = try picks("write chance=1/10: error", 10_000).count
        #expect(chances > 850 && chances < 1150)
    }

    @Test("a seed decides what is picked, and one rule does not change another's picks")
    func determinism() throws {
        let rule = "write chance=1/10: error"
        let first = try picks(rule, seed: 7, 1000)
        #expect(try picks(rule, seed: 7, 1000) == first)
        #expect(try picks(rule, seed: 8, 1000) != first)
        var schedule = FaultSchedule(
            seed: 7, rules: try FaultRules(text: "\(rule); write chance=1/3: delay 1ms"))
        let errors = (1...1000).filter { _ in schedule.next(.write)?.fault == .error(.ioError) }
        #expect(errors == first)
    }

    @Test("the first rule that picks a request has it; the others count it all the same")
    func order() throws {
        var schedule = FaultSchedule(
            seed: 1, rules: try FaultRules(text: "write every=2: hang; write every=3: nospace"))
        let faults = (1...6).map { _ in schedule.next(.write)?.fault }
        #expect(faults == [nil, .hang, .error(.noSpace), .hang, nil, .hang])
        #expect(schedule.injected == ["hang": 3, "nospace": 1])
    }
}
