/// Finds few steps of a run that are enough for its failure (Zeller and Hildebrandt, "Simplifying and Isolating
/// Failure-Inducing Input", 2002).
struct Shrinker {
    private let seed: UInt64
    private let bug: PlantedBug?
    private let steps: Int
    private let kind: String
    private var skipped: Set<Int> = []
    private var runsLeft: Int

    /// Runs a failing seed again and again without some of its steps, at most `runsMax` times.
    static func shrink(_ failing: SessionSimulator, steps: Int, runsMax: Int = 600) -> SessionSimulator {
        var shrinker = Shrinker(failing, steps: steps, runsMax: runsMax)
        return shrinker.shrink(failing)
    }

    private init(_ failing: SessionSimulator, steps: Int, runsMax: Int) {
        seed = failing.seed
        bug = failing.bug
        self.steps = steps
        kind = Shrinker.kind(failing.failure)
        runsLeft = runsMax
    }

    /// What a failure says, without its numbers.
    private static func kind(_ failure: String?) -> String {
        String((failure ?? "").filter { !$0.isNumber }.prefix(40))
    }

    private mutating func shrink(_ failing: SessionSimulator) -> SessionSimulator {
        var best = failing
        var chunk = max(1, steps / 2)
        while runsLeft > 0 {
            var isSmaller = false
            // What settles afterwards is no trouble: without it nothing ends well.
            for first in stride(from: 1, through: min(steps, best.steps), by: chunk) where runsLeft > 0 {
                let more = Set(first..<min(first + chunk, steps + 1)).subtracting(skipped)
                guard !more.isEmpty, first <= best.steps, let smaller = run(skipped.union(more)) else {
                    continue
                }
                skipped.formUnion(more)
                best = smaller
                isSmaller = true
            }
            if chunk == 1 && !isSmaller { break }
            chunk = max(1, chunk / 2)
        }
        return best
    }

    private mutating func run(_ skipped: Set<Int>) -> SessionSimulator? {
        runsLeft -= 1
        let simulator = SessionSimulator(seed: seed, bug: bug, skipping: skipped)
        simulator.run(steps: steps)
        return Shrinker.kind(simulator.failure) == kind ? simulator : nil
    }
}
