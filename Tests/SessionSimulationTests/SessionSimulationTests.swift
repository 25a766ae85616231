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
        var completed = 0
        var failed = 0
        var attachments = 0
        var steps = 0
        let start = ContinuousClock.now
        for seed in seeds {
            let simulator = SessionSimulator(seed: seed)
            simulator.run(steps: 600)
            completed += simulator.completed
            failed += simulator.failedRequests
            attachments += simulator.attachments
            steps += simulator.steps
            guard simulator.failure == nil else {
                Issue.record("\(simulator.account)")
                return
            }
        }
        print(
            "\(seeds.count) seeds, \(steps) steps, \(completed) requests, \(failed) failed, \(attachments) attachments, "
                + "\(ContinuousClock.now - start)")
        #expect(completed > steps / 100)
    }
}
