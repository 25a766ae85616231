import Catalog
import Core
import HTTPTypes
import Services

extension ControlPlane {
    /// `POST /v1/volumes/{name}/fence`: durable first, then in force on every reactor, then the answer.
    func fenceVolume(_ context: RequestContext) async throws(Problem) -> ControlResponse {
        let fields = try context.fields(known: ["reason"])
        let reason = try fields.text("reason", bytesMax: Limits.reasonBytesMax)
        return try await locks.withLock("volume/\(context.name)") { () async throws(Problem) in
            let (volume, epoch) = try await raiseEpoch(of: context.name, for: context, reason: reason)
            var sessions: [FencedSession] = []
            // Where somebody has fenced it once more since, nothing is left to do for a repeat.
            if epoch == volume.epoch { sessions = try await cutOff(volume, for: context, reason: reason) }
            let body = JSONValue.object([
                "volume": .string(volume.name), "epoch": .integer(epoch),
                "sessions": .array(sessions.map(json)),
            ])
            let response = ControlResponse(status: .ok, json: body, tag: volume.entityTag)
            try await remember(response, for: context, body: body)
            return response
        }
    }

    /// Gives a volume the epoch of a fence, durably. When a request that got so far is repeated, it keeps the epoch
    /// that it made, so that it cuts off nobody who has opened the volume since.
    private func raiseEpoch(
        of name: String, for context: RequestContext, reason: String?
    ) async throws(Problem) -> (volume: VolumeRecord, epoch: UInt64) {
        let stored = try readyVolume(name)
        var volume = stored.record
        if let begun = context.idempotency?.begun {
            let parts = begun.split(separator: ":")
            guard parts.count == 2, parts[0] == volume.id.hex, let epoch = UInt64(parts[1]) else {
                throw Problem(
                    .conflict, "the volume that this request has fenced is no more: \(name) is another one",
                    expected: "another Idempotency-Key to fence that")
            }
            return (volume, epoch)
        }
        volume.epoch += 1
        volume.epochReason = "fenced by \(context.caller.name)" + (reason.map { ": \($0)" } ?? "")
        volume.touch(wallClock.now())
        let fenced = volume
        var changes = RecordChanges()
        try Problem.translating { () throws(CatalogError) in
            try changes.put(fenced, over: stored.revision)
        }
        try recordBegin(of: context, as: "\(fenced.id.hex):\(fenced.epoch)", in: &changes)
        try await commit(changes)
        return (fenced, fenced.epoch)
    }

    /// Puts a fence in force on every reactor.
    private func cutOff(
        _ volume: VolumeRecord, for context: RequestContext, reason: String?
    ) async throws(Problem) -> [FencedSession] {
        let words = volume.epochReason ?? ""
        let sessions = try await perform(.fenceVolume(descriptor(of: volume), reason: words))
        capabilitiesHaveEnded()
        events.append(.volumeFenced, subject: "volume/\(volume.name)", message: words)
        audit(
            "volume fenced", context,
            [
                "volume": volume.name, "epoch": "\(volume.epoch)", "sessions": "\(sessions.count)",
                "reason": reason ?? "",
            ])
        return sessions
    }

    private func json(_ session: FencedSession) -> JSONValue {
        .object([
            "session": .string(session.session.hex), "node": .optional(session.nodeName),
            "wasWriting": .bool(session.wasWriting),
        ])
    }
}
