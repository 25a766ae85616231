import Catalog
import Core
import HTTPTypes

/// The version of this server.
public enum SluiceVersion {
    /// As `sluiced --version` prints it.
    public static let text = "0.1.0"
}

extension ControlPlane {
    /// `GET /v1/server`
    func showServer(_ context: RequestContext) async throws(Problem) -> ControlResponse {
        let live = live.withLock { (startedAt: $0.startedAt, control: $0.control, channel: $0.channel) }
        let keys = store.all(KeyRecord.self).map { stored -> JSONValue in
            let key = stored.record
            return .object([
                "keyID": .string(key.keyID), "algorithm": .string("Ed25519"),
                "publicKey": .string(Base64URL.encode(Hex.decode(key.publicKey) ?? [])),
                "createdAt": .string(Timestamp.text(key.createdAt)),
                "verifiesUntil": .optional(key.verifiesUntil.map(Timestamp.text)),
            ])
        }
        return ControlResponse(
            status: .ok,
            json: .object([
                "clusterID": .string(authority.clusterID.hex), "name": .string(authority.name),
                "version": .string(SluiceVersion.text), "startedAt": .string(Timestamp.text(live.startedAt)),
                "control": .strings(live.control), "channel": .strings(live.channel),
                "caFingerprint": .string(authority.certificates.certificate.fingerprint.hex),
                "signingKeys": .array(keys),
            ]))
    }
}
