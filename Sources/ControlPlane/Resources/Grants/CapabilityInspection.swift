import Capability
import Catalog
import Core
import Services
import TLS

/// What a token is for: a capability names its resource by the id alone, and whoever was handed one has to know the name
/// before they use it.
extension ControlPlane {
    /// `POST /v1/capabilities/inspect`: what a genuine token of the caller's own key says, and whether it counts now.
    ///
    /// An administrator may ask about any key's. A token that is not the caller's, that nobody here signed, or whose
    /// resource is gone is refused in the same words, so that nothing is learnt by asking.
    func inspectCapability(_ context: RequestContext) async throws(Problem) -> ControlResponse {
        let fields = try context.fields(known: ["token"])
        let text = try fields.requiredText("token", bytesMax: Limits.capabilityTextCharactersMax)
        guard let token = try? Capability(text: text),
            let effective = try? EffectiveCapability(narrowing: token),
            let holder = context.caller.isAdmin ? effective.holder : context.request.peer.thumbprint,
            case .genuine(let timing) = verdict(on: token, holder: holder),
            let found = Kinds.grantable(effective.kind)?.find(effective.resource, in: store)
        else {
            throw Problem(.notFound, "the token is no capability of yours for what there is here")
        }
        let reason = timing ?? ending(of: effective, on: found)
        var members: [String: JSONValue] = [
            "id": .string(effective.id.hex), "resource": .string(found.resource.text),
            "resourceID": .string(effective.resource.hex), "rights": .strings(effective.rights.names),
            "range": effective.range.json, "expiresAt": .string(Timestamp.text(effective.expiry)),
            "holder": .string(effective.holder.hex), "isUsable": .bool(reason == nil),
        ]
        members["reason"] = reason.map(JSONValue.string)
        return ControlResponse(status: .ok, json: .object(members))
    }

    private enum Verdict {
        /// Signed here and for the holder; what the time says against it, if anything.
        case genuine(timing: String?)
        case refused
    }

    private func verdict(on token: Capability, holder: Digest32) -> Verdict {
        let verifier = CapabilityVerifier(
            issuerKeys: trustedKeys, audience: authority.clusterID, signatures: OpenSSLSignatures())
        do throws(CapabilityError) {
            _ = try verifier.verify(
                token, now: wallClock.now(), clockSkewSeconds: Limits.clockSkewSeconds, holder: holder)
            return .genuine(timing: nil)
        } catch {
            // The verifier looks at the time last: all else is right.
            switch error {
            case .expired, .notYetValid: return .genuine(timing: "\(error)")
            default: return .refused
            }
        }
    }

    /// Why a genuine capability does not count any more, or not now; nil when it does.
    private func ending(of effective: EffectiveCapability, on target: GrantTarget) -> String? {
        if let record = store.get(CapabilityRecord.self, effective.id.hex)?.record, record.revokedAt != nil {
            return record.reason ?? "it was revoked"
        }
        if let obstacle = target.obstacle { return obstacle.detail }
        if effective.resourceEpoch != target.epoch {
            return "\(target.resource.text) was given a new epoch, as a fence does"
        }
        let issued = store.page(NodeRecord.self, limit: 1) { $0.id == effective.subject }.first?.record
        guard let issued else { return "the node that it was issued to was removed" }
        if effective.nodeEpoch != issued.epoch { return "node \(issued.name) has enrolled anew" }
        return nil
    }
}

extension Grantable {
    /// The one of this id, whatever its name is now.
    static func find(_ id: Identifier, in store: RecordStore) -> GrantTarget? {
        store.page(Value.self, limit: 1) { target($0).resource.id == id }.first.map { target($0.record) }
    }
}
