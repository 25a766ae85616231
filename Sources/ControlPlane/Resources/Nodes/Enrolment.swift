import Catalog
import Core
import HTTPTypes
import Services
import TLS

extension ControlPlane {
    /// `POST /v1/nodes/{name}/enroll`: a one-time token and a certificate request become a certificate.
    ///
    /// The same key may repeat itself while the token lives, in case the answer was lost.
    func enrol(_ context: RequestContext) async throws(Problem) -> ControlResponse {
        guard isReady else {
            throw Problem(.notReady, "the server is starting; /readyz tells when it is ready")
        }
        let fields = try context.fields(known: ["token", "csr"])
        guard let text = try fields.text("token", bytesMax: EnrolToken.textBytesMax) else {
            throw Problem(
                .missingField, "token is missing", field: "token", expected: "what `sluice node add` printed")
        }
        let pem = try fields.pem("csr", bytesMax: 16384)
        return try await locks.withLock("node/\(context.name)") { () async throws(Problem) in
            let token = try acceptedToken(text, node: context.name)
            let request = try certificateRequest(pem)
            let thumbprint = request.publicKeyThumbprint
            if let user = token.record.usedBy, user != thumbprint { throw tokenRefused(context.name) }
            let stored = try node(context.name)
            guard stored.record.id == token.record.nodeID else { throw tokenRefused(context.name) }
            try checkKeyIsFree(thumbprint, for: stored.record)
            var node = stored.record
            let isOtherKey = node.keyThumbprint != nil && node.keyThumbprint != thumbprint
            if isOtherKey { node.epoch += 1 }
            let certificate = try issueCertificate(request, for: node)
            let now = wallClock.now()
            node.keyThumbprint = thumbprint
            node.certificateExpiresAt = certificate.notAfter
            node.enrolledAt = now
            node.touch(now)
            var used = token.record
            used.usedBy = thumbprint
            try await commit([(node, stored.revision)], token: (used, token.revision))
            if isOtherKey {
                try await perform(.setNode(id: node.id, name: node.name, epoch: node.epoch))
                capabilitiesHaveEnded()
            }
            counters.update { $0.nodesEnrolled += 1 }
            audit(
                "node enrolled", context,
                ["node": node.name, "key": thumbprint.hex, "serial": certificate.serialHex])
            return answer(certificate, node: node, status: .created)
        }
    }

    /// `POST /v1/nodes/{name}/certificate`: a fresh certificate for the key that the node has.
    func renewCertificate(_ context: RequestContext) async throws(Problem) -> ControlResponse {
        let fields = try context.fields(known: ["csr"])
        let pem = try fields.pem("csr", bytesMax: 16384)
        guard context.caller.node?.name == context.name else {
            throw Problem(.forbidden, "a node renews its own certificate only")
        }
        return try await locks.withLock("node/\(context.name)") { () async throws(Problem) in
            let stored = try node(context.name)
            let request = try certificateRequest(pem)
            guard request.publicKeyThumbprint == stored.record.keyThumbprint else {
                throw Problem(
                    .keyChanged, "the request is for another key than the node has", field: "csr",
                    expected:
                        "the same key; for a new one enrol again, with the token of 'sluice node token \(context.name)'"
                )
            }
            let certificate = try issueCertificate(request, for: stored.record)
            var node = stored.record
            node.certificateExpiresAt = certificate.notAfter
            node.touch(wallClock.now())
            try await commit([(node, stored.revision)], token: nil)
            audit("node certificate renewed", context, ["node": node.name, "serial": certificate.serialHex])
            return answer(certificate, node: node, status: .created)
        }
    }

    // MARK: Steps

    private func tokenRefused(_ name: String) -> Problem {
        counters.update { $0.tokensRefused += 1 }
        return Problem(
            .invalidToken,
            "the token does not count: it was used, has expired, or is for another node or server",
            field: "token",
            expected: "a new one, of 'sluice node token \(name)'")
    }

    private func acceptedToken(_ text: String, node name: String) throws(Problem) -> Stored<TokenRecord> {
        guard ResourceName(name) != nil,
            let hash = EnrolToken.hash(of: text, node: name, authority: authority),
            let stored = store.get(TokenRecord.self, hash.hex), stored.record.nodeName == name,
            stored.record.expiresAt > wallClock.now()
        else { throw tokenRefused(String(name.prefix(ResourceName.lengthMax))) }
        return stored
    }

    func certificateRequest(_ pem: [UInt8]) throws(Problem) -> CertificateRequest {
        do throws(TLSError) {
            return try CertificateRequest(pem: pem)
        } catch {
            throw Problem.invalid(
                "csr", "cannot be used: \(error)",
                expected: "a PKCS #10 request in PEM for a P-256 or Ed25519 key, signed by it")
        }
    }

    /// A key belongs to one node: two nodes with one key could use each other's capabilities.
    private func checkKeyIsFree(_ thumbprint: Digest32, for node: NodeRecord) throws(Problem) {
        let others = store.page(NodeRecord.self, limit: 1) {
            $0.keyThumbprint == thumbprint && $0.id != node.id
        }
        guard others.isEmpty else {
            throw Problem.invalid("csr", "is for a key that another node has", expected: "a key of its own")
        }
    }

    private func issueCertificate(
        _ request: CertificateRequest, for node: NodeRecord
    ) throws(Problem) -> Certificate {
        do throws(TLSError) {
            return try authority.certificates.issueClient(
                publicKeyFrom: request, commonName: node.name, role: PeerRole.node.rawValue,
                uris: [Certificate.nodeURIPrefix + node.id.hex], validSeconds: Limits.nodeCertificateSeconds,
                now: wallClock.now())
        } catch {
            throw Problem(.internalError, "the certificate could not be issued: \(error)")
        }
    }

    private func commit(
        _ nodes: [(NodeRecord, Revision)], token: (TokenRecord, Revision)?
    ) async throws(Problem) {
        var changes = RecordChanges()
        try Problem.translating { () throws(CatalogError) in
            for (node, revision) in nodes { try changes.put(node, over: revision) }
            if let (token, revision) = token { try changes.put(token, over: revision) }
        }
        try await commit(changes)
    }

    private func answer(
        _ certificate: Certificate, node: NodeRecord, status: HTTPResponse.Status
    ) -> ControlResponse {
        ControlResponse(status: status, json: answer(certificate, name: node.name, id: node.id))
    }

    /// What a client is given with its certificate.
    func answer(_ certificate: Certificate, name: String, id: Identifier) -> JSONValue {
        .object([
            "name": .string(name), "id": .string(id.hex),
            "certificate": .string(String(decoding: certificate.pem, as: UTF8.self)),
            "ca": .string(String(decoding: authority.certificates.certificate.pem, as: UTF8.self)),
            "expiresAt": .string(Timestamp.text(certificate.notAfter)),
        ])
    }
}
