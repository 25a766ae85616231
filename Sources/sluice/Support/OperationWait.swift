import Attach
import Core
import Glibc

/// Waits for long work on the server; on a terminal its progress is shown.
enum OperationWait {
    /// Returns when it has ended.
    ///
    /// - Throws: when it has failed or was cancelled. A server that is away for a while, or busy, is asked again: the work
    ///   goes on when it is back.
    static func untilDone(_ id: String, _ api: ControlAPI) throws -> Answered<LongOperation> {
        var isShown = false
        defer { if isShown { Terminal.progress("") } }
        HeldSignals().say(
            "operation \(id) goes on without this command: 'sluice operation show \(id)' says how far it is, and "
                + "'sluice operation cancel \(id)' ends it")
        while true {
            do {
                let operation: Answered<LongOperation> = try api.get("/v1/operations/\(id)")
                if operation.endedAt != nil { return try judge(operation) }
                if Terminal.hasErrorTerminal {
                    Terminal.progress(operation.known.waitingText)
                    isShown = true
                }
            } catch let failure as Failure where [.unreachable, .busy].contains(failure.status) {
                if Terminal.hasErrorTerminal {
                    Terminal.progress(failure.message)
                    isShown = true
                }
            }
            _ = poll(nil, 0, 1000)
        }
    }

    private static func judge(_ operation: Answered<LongOperation>) throws -> Answered<LongOperation> {
        let what = "\(operation.kind) of \(operation.resource)"
        switch operation.state {
        case "failed":
            throw Failure(.failure, "\(what) has failed: \(operation.message ?? "no reason is given")")
        case "cancelled": throw Failure(.failure, "\(what) was cancelled")
        default: return operation
        }
    }

    /// The volume that an answer was about, after what is under way on it has ended.
    static func settled(_ volume: Answered<Volume>, _ api: ControlAPI) throws -> Answered<Volume> {
        guard let operation = volume.operation else { return volume }
        do { _ = try untilDone(operation, api) } catch let failure as Failure
            where failure.status == .notFound
        {
            // A server that was started anew since the work ended knows it no more: the volume tells what became of it.
        }
        return try api.get("/v1/volumes/\(volume.name)")
    }
}
