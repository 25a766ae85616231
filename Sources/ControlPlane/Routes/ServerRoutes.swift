import Catalog
import Core
import HTTPTypes
import Reactor
import Services
import TLS
import Wire

/// The version of this server.
public enum SluiceVersion {
    /// As `sluiced --version` prints it.
    public static let text = "0.1.0"
}

extension ControlPlane {
    /// `GET /v1/server`
    func showServer(_ context: RequestContext) async throws(Problem) -> ControlResponse {
        let live = live.withLock { (startedAt: $0.startedAt, control: $0.control, channel: $0.channel) }
        let server = store.get(ServerRecord.self, "self")?.record
        let keys = store.all(KeyRecord.self).map { stored -> JSONValue in
            let key = stored.record
            return .object([
                "keyID": .string(key.keyID), "algorithm": .string("Ed25519"),
                "publicKey": .string(Base64URL.encode(Hex.decode(key.publicKey) ?? [])),
                "createdAt": .string(Timestamp.text(key.createdAt)),
                "verifiesUntil": .optional(key.verifiesUntil.map(Timestamp.text)),
            ])
        }
        let authority = authority
        return ControlResponse(
            status: .ok,
            json: .object([
                "names": .strings(server?.names ?? []), "addresses": .strings(server?.addresses ?? []),
                "certificates": .array(shownCertificates(to: context.caller)),
                "clusterID": .string(authority.clusterID.hex), "name": .string(authority.name),
                "version": .string(SluiceVersion.text), "startedAt": .string(Timestamp.text(live.startedAt)),
                "control": .strings(live.control), "channel": .strings(live.channel),
                "drain": try await drainStatus(),
                "caFingerprint": .string(authority.certificates.certificate.fingerprint.hex),
                "signingKeys": .array(keys),
            ]))
    }
}

extension ControlPlane {
    /// `PATCH /v1/server`: the names and addresses that the server's certificate has. It has them when this answers.
    func patchServer(_ context: RequestContext) async throws(Problem) -> ControlResponse {
        let fields = try context.fields(known: ["names", "addresses"])
        let names = try fields.texts("names", countMax: CertificateAuthority.serverNamesMax, bytesMax: 253)
        let addresses = try fields.texts(
            "addresses", countMax: CertificateAuthority.serverNamesMax, bytesMax: 64)
        let present = store.get(ServerRecord.self, "self")?.record.names ?? []
        for name in names ?? [] where !present.contains(name.lowercased()) {
            guard (try? Authority.check(names: [name], addresses: [])) != nil else {
                throw Problem.invalid(
                    "names", "has something that is no DNS name",
                    expected: "names of letters, digits, hyphens and dots, such as io.example")
            }
        }
        for address in addresses ?? [] where CertificateAuthority.addressBytes(address) == nil {
            throw Problem.invalid(
                "addresses", "has something that is no IP address",
                expected: "IP addresses without port or brackets, such as 192.0.2.10 or 2001:db8::1")
        }
        try await locks.withLock("server") { () async throws(Problem) in
            guard let stored = store.get(ServerRecord.self, "self") else {
                throw Problem(.internalError, "the server has no record")
            }
            var server = stored.record
            if let names { server.names = ControlPlane.unique(names.map { $0.lowercased() } + ["localhost"]) }
            if let addresses { server.addresses = ControlPlane.unique(addresses + ["127.0.0.1", "::1"]) }
            guard server.names.count + server.addresses.count <= CertificateAuthority.serverNamesMax else {
                throw Problem.invalid(
                    "names", "and addresses are too many",
                    expected:
                        "\(CertificateAuthority.serverNamesMax) at most, with localhost and its addresses")
            }
            guard server != stored.record else { return }
            let changed = server
            var changes = RecordChanges()
            try Problem.translating { () throws(CatalogError) in
                try changes.put(changed, over: stored.revision)
            }
            try await commit(changes)
            audit(
                "server names changed", context,
                [
                    "names": server.names.joined(separator: ","),
                    "addresses": server.addresses.joined(separator: ","),
                ])
            await renewCertificates()
        }
        return try await showServer(context)
    }

    /// The certificates that may be of interest to who asks: the server's and the authority's, and to administrators their own
    /// kind's, too.
    private func shownCertificates(to caller: Caller) -> [JSONValue] {
        let now = wallClock.now()
        let troubles = authority.troubles
        return watchedCertificates().filter { $0.kind != .node && ($0.kind != .admin || caller.node == nil) }
            .map {
                .object([
                    "kind": .string($0.kind.rawValue), "name": .string($0.name),
                    "expiresAt": .string(Timestamp.text($0.expiresAt)),
                    "state": .string($0.stage(at: now).name),
                    "trouble": .optional(
                        $0.kind == .admin || caller.node != nil ? nil : troubles[$0.kind]?.description),
                ])
            }
    }

    private static func unique(_ texts: [String]) -> [String] {
        var seen: Set<String> = []
        return texts.filter { seen.insert($0).inserted }
    }
}

extension ControlPlane {
    /// `POST /v1/server/drain`: takes no new session from now on, and tells clients. Answers at once; `drain` of
    /// `GET /v1/server` says how many sessions are left.
    func drainServer(_ context: RequestContext) async throws(Problem) -> ControlResponse {
        let fields = try context.fields(known: ["timeoutSeconds", "redirect"])
        let seconds = try fields.integer("timeoutSeconds", in: 0...Limits.drainSecondsMax)
        let redirect = try fields.text("redirect", bytesMax: Limits.redirectBytesMax)
        if let redirect, !ControlPlane.isPlace(redirect) {
            throw Problem.invalid(
                "redirect", "is no address", expected: "ADDRESS:PORT, such as 192.0.2.20:7481")
        }
        if let redirect { try expectOwn(redirect) }
        let now = wallClock.now()
        let drain = Drain(
            deadline: now + (seconds ?? Limits.drainSecondsDefault), target: redirect ?? "")
        live.withLock { $0.drain = (drain, now) }
        try await perform(.drain(drain))
        audit(
            "server draining", context, ["until": Timestamp.text(drain.deadline), "redirect": drain.target])
        let body = try await drainStatus()
        let response = ControlResponse(status: .accepted, json: body)
        try await remember(response, for: context, body: body)
        return response
    }

    /// `DELETE /v1/server/drain`: takes new sessions again.
    func undrainServer(_ context: RequestContext) async throws(Problem) -> ControlResponse {
        live.withLock { $0.drain = nil }
        try await perform(.drain(nil))
        audit("server not draining", context, [:])
        return ControlResponse(status: .noContent)
    }

    /// How far a drain is; null without one.
    private func drainStatus() async throws(Problem) -> JSONValue {
        guard let (drain, since) = live.withLock({ $0.drain }) else { return .null }
        let statistics = try await perform(.statistics)
        return .object([
            "since": .string(Timestamp.text(since)), "until": .string(Timestamp.text(drain.deadline)),
            "redirect": .optional(drain.target.isEmpty ? nil : drain.target),
            "sessions": .integer(UInt64(statistics.sessions)),
            "channels": .integer(UInt64(statistics.channels)),
        ])
    }

    /// Clients go only where the server's certificate names it, or to the host that they are connected to.
    private func expectOwn(_ place: String) throws(Problem) {
        func host(_ place: String) -> String {
            let host = place[..<(place.lastIndex(of: ":") ?? place.endIndex)]
            return host.hasPrefix("[") ? String(host.dropFirst().dropLast()) : host.lowercased()
        }
        func bytes(_ host: String) -> [UInt8]? { (try? SocketAddress(host: host, port: 1))?.hostBytes }
        let server = store.get(ServerRecord.self, "self")?.record
        let (names, addresses) = (server?.names ?? [], server?.addresses ?? [])
        let wanted = host(place)
        let isOwn =
            if let wanted = bytes(wanted) {
                addresses.contains { bytes($0) == wanted }
                    || live.withLock { $0.channel }.contains { bytes(host($0)) == wanted }
            } else {
                names.contains { $0.lowercased() == wanted }
            }
        guard !isOwn else { return }
        throw Problem.invalid(
            "redirect", "is not named by this server's certificate, so that no client would go there",
            expected: "one of \((names + addresses).joined(separator: ", ")), and a port")
    }

    /// Whether it is an address or name, a colon, and a port.
    private static func isPlace(_ text: String) -> Bool {
        guard let colon = text.lastIndex(of: ":"), let port = UInt16(text[text.index(after: colon)...]) else {
            return false
        }
        let host = text[..<colon]
        let letters = host.hasPrefix("[") && host.hasSuffix("]") ? host.dropFirst().dropLast() : host
        return port > 0 && !letters.isEmpty
            && letters.allSatisfy { $0.isASCII && ($0.isLetter || $0.isNumber || ".-:".contains($0)) }
            && (letters.count != host.count || !letters.contains(":"))
    }
}
