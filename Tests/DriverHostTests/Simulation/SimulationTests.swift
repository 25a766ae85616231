import DriverKit
import Foundation
import TestSupport
import Testing

@testable import DriverHost

/// Recovery under a seeded simulator. `SLUICE_SEED` repeats one seed, `SLUICE_SIMULATION_STEPS` sets the scale.
@Suite("Simulation: hosts die, hang and lie, and consumers see none of it", .background)
struct SimulationTests {
    private static let environment = ProcessInfo.processInfo.environment
    private static let stepsPerSeed = 10_000

    @Test("a million steps")
    func soak() {
        let total = Int(Self.environment["SLUICE_SIMULATION_STEPS"] ?? "") ?? 1_000_000
        var seeds = (1...UInt64(max(1, total / Self.stepsPerSeed))).map { $0 }
        if let seed = UInt64(Self.environment["SLUICE_SEED"] ?? "") { seeds = [seed] }
        var steps = 0
        var completed = 0
        var replayed: UInt64 = 0
        var violations = 0
        var withdrawn = 0
        var longest = 0
        var seen: [DriverHostReport.State: Int] = [:]
        var ends: [DriverHostReport.End.Cause: UInt64] = [:]
        for seed in seeds {
            let simulator = Simulator(seed: seed)
            simulator.run(steps: Self.stepsPerSeed)
            steps += simulator.steps
            completed += simulator.completed
            replayed += simulator.replayed
            violations += simulator.violations
            withdrawn += simulator.withdrawn
            longest = max(longest, simulator.longestHistory)
            seen.merge(simulator.seen) { $0 + $1 }
            ends.merge(simulator.report.ends) { $0 + $1 }
            guard simulator.failure == nil else {
                Issue.record("\(simulator.account)")
                return
            }
        }
        print(
            "\(steps) steps, \(completed) requests, \(replayed) replayed, \(withdrawn) withdrawn, ends \(ends), "
                + "states \(seen)")
        // A run in which nothing happens would prove nothing.
        #expect(completed > steps / 20 && longest < 100)
        guard seeds.count > 10 else { return }
        #expect(replayed > UInt64(steps / 500) && violations > steps / 5000)
        #expect(withdrawn > steps / 5000)
        for cause in DriverHostReport.End.Cause.allCases { #expect(ends[cause, default: 0] > 10) }
        for state in [DriverHostReport.State.quarantined, .upgrading, .recovering, .running] {
            #expect(seen[state, default: 0] > 10)
        }
    }

    @Test("a seed repeats a run to the step")
    func repeats() {
        let runs = (0..<2).map { _ in
            let simulator = Simulator(seed: 7)
            simulator.run(steps: 3_000)
            return simulator
        }
        #expect(runs[0].account == runs[1].account)
        #expect(runs[0].report == runs[1].report && runs[0].completed == runs[1].completed)
        #expect(runs[0].replayed > 10)
    }

    @Test("every planted bug is found", arguments: PlantedBug.allCases)
    func findsPlantedBugs(bug: PlantedBug) {
        for seed in UInt64(1)...300 {
            let simulator = Simulator(seed: seed, bug: bug)
            simulator.run(steps: Self.stepsPerSeed)
            if let failure = simulator.failure {
                print("\(bug): seed \(seed), step \(simulator.steps): \(failure)")
                return
            }
        }
        Issue.record("\(bug) was not found")
    }
}
