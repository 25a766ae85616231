import Core
import HTTPTypes

/// Long work: what is under way, and what has ended lately.
extension ControlPlane {
    /// `GET /v1/operations`, in order of their beginning.
    func listOperations(_ context: RequestContext) async throws(Problem) -> ControlResponse {
        let page = try context.page()
        let now = wallClock.now()
        var found = live.withLock { $0.operations.all(at: now) }
        if let after = try page.mark() { found.removeAll { !(after < $0.mark) } }
        found.sort { $0.mark < $1.mark }
        return page.answer(found.prefix(page.limit + 1).map { ($0.mark.text, json($0)) })
    }

    /// `GET /v1/operations/{id}`
    func showOperation(_ context: RequestContext) async throws(Problem) -> ControlResponse {
        ControlResponse(status: .ok, json: json(try operation(context)))
    }

    /// `DELETE /v1/operations/{id}`: durable when it answers; the driver may be at its last second of it still.
    func cancelOperation(_ context: RequestContext) async throws(Problem) -> ControlResponse {
        let name = try operation(context).name
        return try await locks.withLock("volume/\(name)") { () async throws(Problem) in
            let operation = try operation(context)
            if operation.state == .cancelled { return ControlResponse(status: .noContent) }
            guard operation.endedAt == nil else {
                throw Problem(.conflict, "the operation has ended: it is \(operation.state.name)")
            }
            switch operation.kind {
            case .prepareVolume: try await remove(try volume(name), for: context)
            case .growVolume:
                guard operation.left > 0 else {
                    throw Problem(
                        .conflict, "the volume has its new size already, which is being written down")
                }
                try await withdraw(operation)
                end(operation, .cancelled)
            }
            audit(
                "operation cancelled", context,
                ["operation": operation.id.hex, "kind": operation.kind.rawValue, "volume": name])
            return ControlResponse(status: .noContent)
        }
    }

    private func operation(_ context: RequestContext) throws(Problem) -> LongOperation {
        let now = wallClock.now()
        guard let id = context.id,
            let found = live.withLock({ $0.operations.all(at: now).first { $0.id == id } })
        else { throw Problem.notFound("operation", context.parameters["id"] ?? "") }
        return found
    }

    private func json(_ operation: LongOperation) -> JSONValue {
        var members: [String: JSONValue] = [
            "id": .string(operation.id.hex), "kind": .string(operation.kind.rawValue),
            "resource": .string("volume/\(operation.name)"), "state": .string(operation.state.name),
            "progress": operation.progress, "size": .integer(operation.size),
            "since": .string(Timestamp.text(operation.since)),
            "endedAt": .optional(operation.endedAt.map(Timestamp.text)),
        ]
        members["message"] = operation.state.reason.map(JSONValue.string)
        return .object(members)
    }
}

extension LongOperation {
    fileprivate var mark: TimeMark { TimeMark(since, id) }

    /// How far it is, in bytes.
    var progress: JSONValue { .object(["done": .integer(total - left), "total": .integer(total)]) }

    /// Where it is shown.
    var location: String { "/v1/operations/\(id.hex)" }
}
