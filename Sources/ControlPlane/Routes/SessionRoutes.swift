import Core
import HTTPTypes
import Services

extension ControlPlane {
    /// `GET /v1/sessions`, in order of their start; a node sees its own.
    func listSessions(_ context: RequestContext) async throws(Problem) -> ControlResponse {
        let page = try context.page()
        var sessions = try await sessions(for: context.caller)
        if let after = try page.mark() { sessions.removeAll { !(after < TimeMark($0.since, $0.id)) } }
        return page.answer(
            sessions.prefix(page.limit + 1).map { (TimeMark($0.since, $0.id).text, json($0)) })
    }

    /// `GET /v1/sessions/{id}`
    func showSession(_ context: RequestContext) async throws(Problem) -> ControlResponse {
        ControlResponse(status: .ok, json: json(try await session(context)))
    }

    /// `POST /v1/sessions/{id}/disconnect`: ends its connections; its client may go on with it.
    func disconnectSession(_ context: RequestContext) async throws(Problem) -> ControlResponse {
        let fields = try context.fields(known: ["reason"])
        let given = try fields.text("reason", bytesMax: Limits.reasonBytesMax)
        let reason = "disconnected by \(context.caller.name)" + (given.map { ": \($0)" } ?? "")
        let session = try await session(context)
        try await perform(.disconnectSession(session.id, reason: reason))
        audit("session disconnected", context, ["session": session.id.hex, "reason": reason])
        // A session whose client cannot resume has ended with its connections.
        let left = try await sessions(for: context.caller).first { $0.id == session.id } ?? session
        return ControlResponse(status: .ok, json: json(left))
    }

    /// `DELETE /v1/sessions/{id}`: ends it for good; its capabilities still count.
    func endSession(_ context: RequestContext) async throws(Problem) -> ControlResponse {
        let given = context.request.queryValue("reason") ?? ""
        guard given.utf8.count <= Limits.reasonBytesMax, given.unicodeScalars.allSatisfy(Fields.isPlain)
        else {
            throw Problem(
                .invalidParameter, "reason is too long or holds control characters", field: "reason",
                expected: "at most \(Limits.reasonBytesMax) bytes of text")
        }
        let session = try await session(context)
        let reason = "ended by \(context.caller.name)" + (given.isEmpty ? "" : ": \(given)")
        try await perform(.endSession(session.id, reason: reason))
        audit("session ended", context, ["session": session.id.hex, "reason": reason])
        return ControlResponse(status: .noContent)
    }

    private func sessions(for caller: Caller) async throws(Problem) -> [SessionInfo] {
        let sessions = try await perform(.listSessions)
        guard let node = caller.node else { return sessions }
        return sessions.filter { $0.node == node.id || $0.thumbprint == node.keyThumbprint }
    }

    private func session(_ context: RequestContext) async throws(Problem) -> SessionInfo {
        let text = context.parameters["id"] ?? ""
        guard let id = context.id,
            let session = try await sessions(for: context.caller).first(where: { $0.id == id })
        else { throw Problem.notFound("session", text) }
        return session
    }

    private func state(of session: SessionInfo) -> String {
        if session.lost != nil { return "disconnected" }
        return session.channels == 0 && session.inFlight > 0 ? "ending" : "connected"
    }

    private func json(_ session: SessionInfo) -> JSONValue {
        let open = session.openVolumes.map { volume -> JSONValue in
            .object([
                "name": .string(volume.name), "resource": .string("volume/\(volume.name)"),
                "rights": .strings(volume.rights.names), "capability": .string(volume.capability.hex),
            ])
        }
        let claims = session.claims.map { claim -> JSONValue in
            .object([
                "volume": .string(claim.volume), "since": .string(Timestamp.text(claim.since)),
                "expiresAt": .string(Timestamp.text(claim.expiry)),
            ])
        }
        var since: UInt64?
        var before: UInt64?
        switch session.lost {
        case .since(let time)?: since = time
        case .beforeStart(let time)?: before = time
        case nil: break
        }
        return .object([
            "state": .string(state(of: session)),
            "disconnectedSince": .optional(since.map(Timestamp.text)),
            "disconnectedBefore": .optional(before.map(Timestamp.text)),
            "writing": .array(claims),
            "id": .string(session.id.hex), "node": .optional(session.nodeName),
            "thumbprint": .string(session.thumbprint.hex), "client": .string(session.clientName),
            "address": .string(session.peerAddress), "channels": .integer(UInt64(session.channels)),
            "open": .array(open), "since": .string(Timestamp.text(session.since)),
            "requests": .integer(session.requests), "bytesRead": .integer(session.bytesRead),
            "bytesWritten": .integer(session.bytesWritten), "inFlight": .integer(UInt64(session.inFlight)),
        ])
    }
}

/// Where something stands in a list that is in order of the beginning of what is in it.
struct TimeMark: Comparable {
    let since: UInt64
    let id: Identifier

    init(_ since: UInt64, _ id: Identifier) {
        self.since = since
        self.id = id
    }

    init?(_ text: String) {
        let parts = text.split(separator: ".")
        guard parts.count == 2, let since = UInt64(parts[0]), let id = Identifier(hex: String(parts[1]))
        else {
            return nil
        }
        self.since = since
        self.id = id
    }

    var text: String { "\(since).\(id.hex)" }

    static func < (left: TimeMark, right: TimeMark) -> Bool {
        (left.since, left.id) < (right.since, right.id)
    }
}

extension PageRequest {
    /// The mark of the last item of the page before, of a list that is in order of time; nil for the first page.
    func mark() throws(Problem) -> TimeMark? {
        guard let after else { return nil }
        guard let mark = TimeMark(after) else {
            throw Problem(.invalidCursor, "the cursor is not one that this server gave", field: "cursor")
        }
        return mark
    }
}
