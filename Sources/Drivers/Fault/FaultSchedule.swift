import DriverKit

/// Decides each request's fault: the same seed, rules and order of requests give the same faults.
///
/// Every rule counts for itself and has a generator of its own, so that a rule more does not change what the
/// others do; the first rule that picks a request has it.
struct FaultSchedule {
    /// What happens to a request, and the random number that decides the details.
    struct Decision {
        let fault: Fault
        let draw: UInt64
    }

    private struct Progress {
        var seen: UInt64 = 0
        var picked: UInt64 = 0
        var random: FaultRandom
    }

    let seed: UInt64
    let rules: FaultRules
    private var progress: [Progress]
    /// How many requests each kind of fault has hit, by its word.
    private(set) var injected: [String: UInt64] = [:]

    init(seed: UInt64, rules: FaultRules) {
        self.seed = seed
        self.rules = rules
        progress = rules.rules.indices.map { index in
            var mix = FaultRandom(seed: seed)
            for _ in 0..<index { _ = mix.next() }
            return Progress(random: FaultRandom(seed: mix.next()))
        }
    }

    /// The fault of the next request of one operation; nil lets it pass.
    mutating func next(_ operation: OperationSet) -> Decision? {
        var decision: Decision?
        for index in progress.indices where rules.rules[index].operations.contains(operation) {
            if let draw = FaultSchedule.pick(rules.rules[index], &progress[index]), decision == nil {
                decision = Decision(fault: rules.rules[index].fault, draw: draw)
            }
        }
        if let decision { injected[decision.fault.word, default: 0] += 1 }
        return decision
    }

    private static func pick(_ rule: FaultRule, _ progress: inout Progress) -> UInt64? {
        progress.seen += 1
        guard progress.seen > rule.after else { return nil }
        let position = progress.seen - rule.after
        if let nth = rule.nth, position != nth { return nil }
        if let every = rule.every, !position.isMultiple(of: every) { return nil }
        if let chance = rule.chance, progress.random.below(chance.of) >= chance.hits { return nil }
        if let count = rule.count, progress.picked >= count { return nil }
        progress.picked += 1
        return progress.random.next()
    }
}

/// SplitMix64: a sequence that its seed decides, the same on every machine.
struct FaultRandom: RandomNumberGenerator {
    private var state: UInt64

    init(seed: UInt64) { state = seed }

    mutating func next() -> UInt64 {
        state &+= 0x9E37_79B9_7F4A_7C15
        var mixed = state
        mixed = (mixed ^ (mixed >> 30)) &* 0xBF58_476D_1CE4_E5B9
        mixed = (mixed ^ (mixed >> 27)) &* 0x94D0_49BB_1331_11EB
        return mixed ^ (mixed >> 31)
    }

    /// A number below a bound, which is not zero.
    mutating func below(_ bound: UInt64) -> UInt64 { next().multipliedFullWidth(by: bound).high }
}
