import Foundation
import Testing

/// Sessions under a seeded simulator. `SLUICE_SEED` repeats one seed, `SLUICE_SESSION_SEEDS` sets the scale.
@Suite("Session simulation: what users are promised holds, whatever is lost and whenever")
struct SessionSimulationTests {
    private static let environment = ProcessInfo.processInfo.environment

    private static let stepsPerSeed = 600
    private static let seedsForBug: UInt64 = 2000

    @Test("seeds")
    func soak() {
        let count = UInt64(Self.environment["SLUICE_SESSION_SEEDS"] ?? "") ?? 200
        var seeds = Array(1...max(1, count))
        if let seed = UInt64(Self.environment["SLUICE_SEED"] ?? "") { seeds = [seed] }
        var counts = SimulatedClient.Counts()
        var troubles: [Trouble: Int] = [:]
        var steps = 0
        let start = ContinuousClock.now
        for seed in seeds {
            let simulator = SessionSimulator(seed: seed)
            simulator.run(steps: Self.stepsPerSeed)
            for client in simulator.clients { counts.add(client.counts) }
            troubles.merge(simulator.troubles) { $0 + $1 }
            steps += simulator.steps
            guard simulator.failure == nil else {
                Issue.record("\(simulator.account)")
                return
            }
        }
        print("\(seeds.count) seeds, \(steps) steps, \(counts), \(ContinuousClock.now - start)")
        print(troubles.map { "\($0.key) \($0.value)" }.sorted().joined(separator: ", "))
        #expect(counts.completed > steps / 100)
    }

    @Test("a planted bug is found", arguments: PlantedBug.allCases)
    func finds(bug: PlantedBug) {
        for seed in 1...Self.seedsForBug {
            let simulator = SessionSimulator(seed: seed, bug: bug)
            simulator.run(steps: Self.stepsPerSeed)
            if let failure = simulator.failure {
                if failure.contains("not settled") { print(simulator.account) }
                print("\(bug): \(failure), after \(seed) seeds")
                return
            }
        }
        Issue.record("\(bug) was not found in \(Self.seedsForBug) seeds")
    }
}

extension SimulatedClient.Counts {
    mutating func add(_ other: SimulatedClient.Counts) {
        attachments += other.attachments
        completed += other.completed
        failed += other.failed
        resumed += other.resumed
        repeated += other.repeated
        sessionsLost += other.sessionsLost
        unknown += other.unknown
        givenUp += other.givenUp
        compared += other.compared
        miscompared += other.miscompared
    }
}
