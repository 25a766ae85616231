import Catalog
import Core
import HTTPTypes
import Services
import TLS
import TestSupport
import Testing

@testable import ControlPlane

/// Records of capabilities: one node does not use up what others need.
@Suite(.timeLimit(.minutes(1)), .serialized, .blocking)
struct CapabilityRoomTests {
    /// A control plane with room for twelve, of one node for eight.
    private func withRoom(_ body: (ControlRig) async throws -> Void) async throws {
        try await withControlPlane(configure: {
            $0.capabilityRecords.all = 12
            $0.capabilityRecords.perNode = 8
            $0.capabilityRecords.reserve = 3
        }) { rig async throws in
            let made = try await rig.ask(.post, "/v1/volumes", #"{"name": "disk", "size": 1048576}"#)
            #expect(made.status == 201)
            try await body(rig)
        }
    }

    /// A node with a grant on the volume.
    private func enrol(_ rig: ControlRig, _ name: String) async throws -> PeerIdentity {
        let added = try await rig.ask(.post, "/v1/nodes", "{\"name\": \"\(name)\"}")
        guard case .string(let token) = added.json["token"], case .string(let id) = added.json["id"] else {
            throw Problem(.internalError, "no token: \(added.text)")
        }
        let key = PrivateKey.generateP256()
        let csr = String(decoding: try CertificateRequest.make(key: key, commonName: name), as: UTF8.self)
        let body = JSONValue.object(["token": .string(token), "csr": .string(csr)])
        let enrolled = try await rig.ask(
            .post, "/v1/nodes/\(name)/enroll", String(decoding: body.text, as: UTF8.self), role: nil)
        #expect(enrolled.status == 201, "\(enrolled.text)")
        let granted = try await rig.ask(
            .post, "/v1/grants",
            "{\"name\": \"\(name)-disk\", \"node\": \"\(name)\", \"resource\": \"volume/disk\", \"rights\": [\"read\"]}"
        )
        #expect(granted.status == 201, "\(granted.text)")
        return PeerIdentity(
            role: .node, commonName: name, nodeID: Identifier(hex: id), thumbprint: key.publicKeyThumbprint)
    }

    private func issue(_ rig: ControlRig, _ peer: PeerIdentity) async throws -> ControlRig.Answer {
        try await rig.ask(.post, "/v1/capabilities", #"{"resource": "volume/disk"}"#, peer: peer)
    }

    /// Issues until that is refused; how many that were.
    private func issueAll(_ rig: ControlRig, _ peer: PeerIdentity) async throws -> Int {
        for count in 0..<100 {
            let answer = try await issue(rig, peer)
            guard answer.status == 201 else {
                #expect(answer.status == 507 && answer.code == "LIMIT_REACHED", "\(answer.text)")
                return count
            }
        }
        return 100
    }

    @Test func oneNodeLeavesRoomForOthersAndForTheAdministrator() async throws {
        try await withRoom { rig async throws in
            let greedy = try await enrol(rig, "greedy")
            let modest = try await enrol(rig, "modest")
            #expect(try await issueAll(rig, greedy) == 6, "as many as it leaves")
            #expect(try await issue(rig, modest).status == 201)
            #expect(try await issueAll(rig, modest) == 2)
            for _ in 0..<6 {
                let answer = try await rig.ask(
                    .post, "/v1/capabilities", #"{"resource": "volume/disk", "node": "greedy"}"#)
                #expect(answer.status == 201, "an administrator finds room: \(answer.text)")
            }
        }
    }

    @Test func whatANodeRevokesCountsForItselfOnlyAndARemovedNodeForNobody() async throws {
        try await withRoom { rig async throws in
            let greedy = try await enrol(rig, "greedy")
            let modest = try await enrol(rig, "modest")
            for _ in 0..<6 {
                guard case .string(let id) = try await issue(rig, greedy).json["id"] else { continue }
                let revoked = try await rig.ask(.post, "/v1/capabilities/\(id)/revoke", peer: greedy)
                #expect(revoked.status == 200)
            }
            #expect(try await issue(rig, greedy).code == "LIMIT_REACHED", "the next start revokes by them")
            #expect(try await issue(rig, modest).status == 201)
            let before = try await rig.ask(.get, "/v1/capabilities")
            #expect(try await rig.ask(.delete, "/v1/nodes/greedy").status == 204)
            let after = try await rig.ask(.get, "/v1/capabilities")
            guard case .array(let all) = before.json["items"], case .array(let left) = after.json["items"]
            else {
                Issue.record("no lists")
                return
            }
            #expect(all.count == 7 && left.count == 1)
            #expect(try await issueAll(rig, modest) == 5)
        }
    }

    @Test func whatAFenceHasEndedGivesWay() async throws {
        try await withRoom { rig async throws in
            let greedy = try await enrol(rig, "greedy")
            let modest = try await enrol(rig, "modest")
            #expect(try await issueAll(rig, greedy) == 6)
            #expect(try await issueAll(rig, modest) == 3)
            #expect(try await rig.ask(.post, "/v1/volumes/disk/fence").status == 200)
            #expect(try await issue(rig, modest).status == 201, "those of before the fence make room")
            #expect(try await issue(rig, greedy).status == 201)
        }
    }

    @Test func aGrantWithManyCapabilitiesIsDeletedAndNoneCounts() async throws {
        try await withRoom { rig async throws in
            let node = try await enrol(rig, "node")
            #expect(try await issueAll(rig, node) == 6)
            #expect(try await rig.ask(.delete, "/v1/grants/node-disk").status == 204)
            let list = try await rig.ask(.get, "/v1/capabilities?revoked=false", peer: node)
            #expect(list.json["items"] == .array([]))
        }
    }
}
