import Catalog
import Core
import HTTPTypes
import TLS

/// Where the answer to a POST with an `Idempotency-Key` is kept.
struct IdempotencySlot: Sendable {
    /// SHA-256 over the caller's identity, path and key.
    let hash: Digest32
    /// SHA-256 over the body.
    let request: Digest32
    /// What was done of the request when the server lost it, or failed to note the end; nil for one that is new.
    var begun: String?
}

extension ControlPlane {
    /// Runs a POST, or answers what it answered before when its `Idempotency-Key` was seen already.
    ///
    /// The answer is committed together with the changes, so no crash separates them. A handler that has effects
    /// between its first commit and its answer notes in that commit that it has begun, and a repeat goes on from
    /// there. The server keeps no refusals.
    func repeatable(_ context: RequestContext, route: Route) async throws(Problem) -> ControlResponse {
        guard let key = context.request.headers[.idempotencyKey] else {
            return try await route.handler(self)(context)
        }
        guard (1...Limits.idempotencyKeyCharactersMax).contains(key.utf8.count),
            key.utf8.allSatisfy({ (0x21...0x7E).contains($0) })
        else {
            throw Problem(
                .invalidHeader, "Idempotency-Key is not one", field: "Idempotency-Key",
                expected:
                    "1 to \(Limits.idempotencyKeyCharactersMax) visible ASCII characters, such as a UUID")
        }
        let path = context.request.segments.joined(separator: "/")
        var slot = IdempotencySlot(
            hash: SHA256.hash(Array("\(context.caller.identity)\n\(path)\n\(key)".utf8)),
            request: SHA256.hash(context.request.body))
        return try await locks.withLock("idempotency/\(slot.hash)") { () async throws(Problem) in
            if let record = store.get(IdempotencyRecord.self, slot.hash.hex)?.record,
                record.createdAt + Limits.idempotencySeconds > wallClock.now()
            {
                guard record.request == slot.request else { throw Idempotency.mismatch }
                guard let begun = record.begun else { return try replay(record, slot: slot) }
                slot.begun = begun
            }
            var context = context
            context.idempotency = slot
            return try await route.handler(self)(context)
        }
    }

    private func replay(_ record: IdempotencyRecord, slot: IdempotencySlot) throws(Problem) -> ControlResponse
    {
        var headers: HTTPFields = [.contentType: "application/json"]
        for (name, value) in record.headers {
            if let field = HTTPField.Name(name) { headers[field] = value }
        }
        var body = Array(record.body.utf8)
        if let sealed = record.sealed { body = try unseal(sealed, into: body, slot: slot) }
        return ControlResponse(status: HTTPResponse.Status(code: record.status), headers: headers, body: body)
    }

    /// Adds the token to a recorded answer. The catalog never has a token as it is: the server computes an
    /// enrolment token again, and opens the seal of a capability's.
    private func unseal(
        _ sealed: String, into body: [UInt8], slot: IdempotencySlot
    ) throws(Problem) -> [UInt8] {
        guard let token = EnrolToken(sealed: sealed, authority: authority)?.text ?? openToken(sealed, slot),
            let value = try? JSONParser.parse(body), case .object(var members) = value
        else { throw Problem(.internalError, "the recorded answer cannot be read") }
        members["token"] = .string(token)
        return JSONValue.object(members).text
    }

    /// A token as it may be stored beside the answer that it is left out of; nil without an `Idempotency-Key`.
    func sealToken(_ token: String, for context: RequestContext) -> String? {
        guard let slot = context.idempotency else { return nil }
        return Idempotency.sealedPrefix
            + SealedText.seal(
                Array(token.utf8), context: slot.hash.bytes, key: sealingKey, random: random)
    }

    private func openToken(_ sealed: String, _ slot: IdempotencySlot) -> String? {
        guard sealed.hasPrefix(Idempotency.sealedPrefix),
            let bytes = SealedText.open(
                String(sealed.dropFirst(Idempotency.sealedPrefix.count)), context: slot.hash.bytes,
                key: sealingKey)
        else { return nil }
        return String(validating: bytes, as: UTF8.self)
    }

    /// Derived from the key in the data folder that is not in the catalog.
    private var sealingKey: SecretBytes {
        SecretBytes(
            HMACSHA256.authenticate(
                Array("sluice idempotency 1".utf8), key: authority.tokenKey.copied
            ).bytes)
    }

    /// Adds the record of an answer to `changes` when the request carried an `Idempotency-Key`.
    ///
    /// - Parameter sealed: for an answer with a token: what it is had from again; `body` lacks it then.
    func record(
        _ response: ControlResponse, for context: RequestContext, in changes: inout RecordChanges,
        body: JSONValue, sealed: String? = nil
    ) throws(Problem) {
        guard let slot = context.idempotency else { return }
        var headers: [String: String] = [:]
        for name in [HTTPField.Name.eTag, .location] {
            if let value = response.headers[name] { headers[name.rawName] = value }
        }
        let record = IdempotencyRecord(
            hash: slot.hash, request: slot.request, createdAt: wallClock.now(), status: response.status.code,
            headers: headers, body: String(decoding: body.text, as: UTF8.self), sealed: sealed,
            caller: context.caller.name)
        try put(record, in: &changes)
    }

    /// Adds to `changes` that a request with an `Idempotency-Key` has begun, and what a repeat needs to know then.
    /// `remember` notes its end.
    func recordBegin(
        of context: RequestContext, as begun: String, in changes: inout RecordChanges
    ) throws(Problem) {
        guard let slot = context.idempotency else { return }
        let record = IdempotencyRecord(
            hash: slot.hash, request: slot.request, createdAt: wallClock.now(), begun: begun,
            caller: context.caller.name)
        try put(record, in: &changes)
    }

    /// Records the answer to a POST whose changes are on record already, when it carried an `Idempotency-Key`.
    func remember(
        _ response: ControlResponse, for context: RequestContext, body: JSONValue
    ) async throws(Problem) {
        var changes = RecordChanges()
        try record(response, for: context, in: &changes, body: body)
        if !changes.isEmpty { try await commit(changes) }
    }

    /// Runs what the start of a server does as well, such as starting a pool's driver anew. When the server was
    /// started again since the request began, a repeat has nothing left to do.
    func once(
        _ context: RequestContext, _ body: () async throws(Problem) -> Void
    ) async throws(Problem) {
        if let begun = context.idempotency?.begun, begun != run.hex { return }
        try await noting(context, as: run.hex, body)
    }

    /// Does what has no commit of its own, and notes before that it has begun; what fails has not.
    func noting(
        _ context: RequestContext, as begun: String, _ body: () async throws(Problem) -> Void
    ) async throws(Problem) {
        var changes = RecordChanges()
        try recordBegin(of: context, as: begun, in: &changes)
        if !changes.isEmpty { try await commit(changes) }
        do throws(Problem) { try await body() } catch {
            await forgetBegin(of: context)
            throw error
        }
    }

    /// Forgets that a request had begun which was refused then: a repeat is a new request, also after a start of
    /// the server.
    private func forgetBegin(of context: RequestContext) async {
        guard let slot = context.idempotency,
            let stored = store.get(IdempotencyRecord.self, slot.hash.hex), stored.record.begun != nil
        else { return }
        var changes = RecordChanges()
        changes.delete(stored)
        do throws(Problem) { try await commit(changes) } catch {
            logger.error(
                "a refused request is on record as begun", metadata: ["reason": "\(error.detail)"])
        }
    }

    private func put(_ record: IdempotencyRecord, in changes: inout RecordChanges) throws(Problem) {
        let old = store.get(IdempotencyRecord.self, record.recordKey)?.revision ?? 0
        try Problem.translating { () throws(CatalogError) in try changes.put(record, over: old) }
    }
}

private enum Idempotency {
    /// What a sealed token begins with.
    static let sealedPrefix = "sealed:"

    static let mismatch = Problem(
        .idempotencyMismatch, "this key was used for a request with another body", field: "Idempotency-Key",
        expected: "a new key for a new request")
}

extension HTTPField.Name {
    /// `Idempotency-Key`: a POST with a key that was seen is answered again, not executed again.
    static let idempotencyKey = HTTPField.Name(known: "idempotency-key")

    /// A field name that is known to be one.
    init(known name: String) {
        guard let field = HTTPField.Name(name) else { preconditionFailure("\(name) is no field name") }
        self = field
    }
}
