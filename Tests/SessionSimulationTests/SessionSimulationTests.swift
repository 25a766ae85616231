import Foundation
import Testing

/// Sessions under a seeded simulator. `SLUICE_SEED` repeats one seed, `SLUICE_SESSION_SEEDS` sets the scale.
@Suite("Session simulation: what users are promised holds, whatever is lost and whenever")
struct SessionSimulationTests {
    private static let environment = ProcessInfo.processInfo.environment

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
            simulator.run(steps: 600)
            for client in simulator.clients { counts.add(client.counts) }
            troubles.merge(simulator.troubles) { $0 + $1 }
            steps += simulator.steps
            guard simulator.failure == nil else {
                Issue.record("\(simulator.account)")
                return
            }
        }
        let descriptors = try? FileManager.default.contentsOfDirectory(atPath: "/proc/self/fd").count
        print("descriptors \(descriptors ?? 0)")
        print("\(seeds.count) seeds, \(steps) steps, \(counts), \(ContinuousClock.now - start)")
        print(troubles.map { "\($0.key) \($0.value)" }.sorted().joined(separator: ", "))
        #expect(counts.completed > steps / 100)
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
