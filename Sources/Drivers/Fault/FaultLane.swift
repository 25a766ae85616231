import Core
import DriverKit
import Reactor

/// The way from a `fault` queue to a queue of the wrapped driver; confined to the reactor's thread.
final class FaultLane {
    /// Room for every operation and every restore, so that neither ring is ever full.
    private let submissions = SubmissionRing(capacity: 2048)
    let completions = CompletionRing(capacity: 2048)
    private(set) var queue: (any DriverQueue)?
    private var hasSubmissions = false

    func open(
        _ driver: any InstalledVolumeDriver, reactor: Reactor, arena: Arena,
        onCompletions: @escaping () -> Void
    ) throws(StatusError) {
        queue = try driver.makeQueue(
            reactor: reactor, arena: arena, submissions: submissions, completions: completions,
            onCompletions: onCompletions)
    }

    func push(_ request: DriverRequest) {
        let pushed = submissions.push(request)
        precondition(pushed, "the ring has room for every operation")
        hasSubmissions = true
    }

    /// Runs the wrapped queue when there is something for it; false: there was nothing.
    func run() -> Bool {
        guard hasSubmissions else { return false }
        hasSubmissions = false
        queue?.process()
        return true
    }

    func stop() {
        queue?.stop()
        queue = nil
    }
}
