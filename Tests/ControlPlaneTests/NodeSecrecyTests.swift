import Catalog
import Core
import Foundation
import HTTPTypes
import TLS
import Testing

@testable import ControlPlane

/// What is kept of tokens, who is answered with them, and what a node can find out.
@Suite struct NodeSecrecyTests {
    /// A node with a key of its own, as its certificate has it.
    private func enrol(_ name: String, in rig: ControlRig) async throws -> PeerIdentity {
        let key = PrivateKey.generateP256()
        let csr = String(decoding: try CertificateRequest.make(key: key, commonName: name), as: UTF8.self)
        let added = try await rig.ask(.post, "/v1/nodes", #"{"name": "\#(name)"}"#)
        guard case .string(let token) = added.json["token"] else { throw Problem(.internalError, added.text) }
        let body = JSONValue.object(["token": .string(token), "csr": .string(csr)]).text
        let answer = try await rig.ask(
            .post, "/v1/nodes/\(name)/enroll", String(decoding: body, as: UTF8.self), role: nil)
        guard case .string(let pem) = answer.json["certificate"] else {
            throw Problem(.internalError, answer.text)
        }
        return PeerIdentity(certificate: try Certificate(pem: Array(pem.utf8)))
    }

    private func volume(_ name: String, grantedTo node: String?, in rig: ControlRig) async throws {
        #expect(
            try await rig.ask(.post, "/v1/volumes", #"{"name": "\#(name)", "size": 1048576}"#).status == 201)
        guard let node else { return }
        let grant =
            #"{"name": "\#(node)-\#(name)", "node": "\#(node)", "resource": "volume/\#(name)", "rights": ["read"]}"#
        #expect(try await rig.ask(.post, "/v1/grants", grant).status == 201)
    }

    private func addPool(_ rig: ControlRig) async throws {
        guard try await rig.ask(.get, "/v1/pools/default").status == 404 else { return }
        _ = try await rig.ask(.post, "/v1/pools", #"{"name": "default", "driver": "memory"}"#)
    }

    private let repeated: HTTPFields = [.idempotencyKey: "one"]
    private let wish = #"{"resource": "volume/a"}"#

    @Test func theTokenOfARepeatedAnswerIsStoredSealedOnly() async throws {
        try await withControlPlane { rig async throws in
            try await addPool(rig)
            let node = try await enrol("n1", in: rig)
            try await volume("a", grantedTo: "n1", in: rig)
            let first = try await rig.ask(.post, "/v1/capabilities", wish, headers: repeated, peer: node)
            guard case .string(let token) = first.json["token"] else {
                Issue.record("no token")
                return
            }
            #expect(token.hasPrefix("slcap1_"))
            let second = try await rig.ask(.post, "/v1/capabilities", wish, headers: repeated, peer: node)
            #expect(second.json == first.json && second.status == 201)

            for record in rig.plane.store.all(IdempotencyRecord.self) {
                #expect(!record.record.body.contains("slcap1_"))
                #expect(!(record.record.sealed ?? "").contains(token.dropFirst(7).prefix(20)))
            }
            let folder = rig.machine.folder.path
            for name in ["catalog.sqlite", "catalog.sqlite-wal"] {
                guard let bytes = FileManager.default.contents(atPath: "\(folder)/\(name)") else { continue }
                #expect(bytes.range(of: Data("slcap1_".utf8)) == nil, "\(name)")
            }
        }
    }

    @Test func aNewNodeOfAnOldNameIsNotAnsweredWithTheOldOnesToken() async throws {
        try await withControlPlane { rig async throws in
            try await addPool(rig)
            let old = try await enrol("n1", in: rig)
            try await volume("a", grantedTo: "n1", in: rig)
            let first = try await rig.ask(.post, "/v1/capabilities", wish, headers: repeated, peer: old)
            #expect(first.status == 201)
            #expect(try await rig.ask(.delete, "/v1/nodes/n1").status == 204)
            let new = try await enrol("n1", in: rig)
            let answer = try await rig.ask(.post, "/v1/capabilities", wish, headers: repeated, peer: new)
            #expect(answer.code == "NO_GRANT" && answer.json["token"] == nil)
        }
    }

    @Test func anAnswerThatAnOlderVersionStoredWithItsTokenGoesAtStart() async throws {
        let machine = try await ControlRig.Machine()
        let rig = try await ControlRig(machine)
        let hash = SHA256.hash([1])
        var changes = RecordChanges()
        try changes.put(
            IdempotencyRecord(
                hash: hash, request: hash, createdAt: SystemClockForTests.now(), status: 201, headers: [:],
                body: #"{"token":"slcap1_AAAA"}"#, sealed: nil, caller: nil), over: 0)
        _ = try await rig.plane.store.commit(changes)
        try await rig.stop()
        let next = try await ControlRig(machine)
        #expect(next.plane.store.get(IdempotencyRecord.self, hash.hex) == nil)
        try await next.stop()
    }

    /// Each question that a node may ask about a volume, grant, node, capability or session that is not its own has one
    /// answer, whether there is such a thing or not.
    @Test func aNodeDoesNotLearnWhatThereIs() async throws {
        try await withControlPlane { rig async throws in
            try await addPool(rig)
            let node = try await enrol("n1", in: rig)
            _ = try await enrol("n2", in: rig)
            try await volume("mine", grantedTo: "n1", in: rig)
            try await volume("otherdisk", grantedTo: "n2", in: rig)
            let issued = try await rig.ask(
                .post, "/v1/capabilities", #"{"resource": "volume/otherdisk", "node": "n2"}"#)
            guard case .string(let id) = issued.json["id"] else {
                Issue.record("no capability")
                return
            }
            let none = String(repeating: "0", count: 32)

            let questions: [(HTTPRequest.Method, String, String, there: String, not: String)] = [
                (.post, "/v1/capabilities", #"{"resource": "volume/X"}"#, "otherdisk", "nodisk99"),
                (
                    .post, "/v1/capabilities", #"{"resource": "volume/X", "rights": ["write"]}"#, "otherdisk",
                    "nodisk99"
                ),
                (
                    .post, "/v1/capabilities", #"{"resource": "volume/X", "grant": "n2-X"}"#, "otherdisk",
                    "nodisk99"
                ),
                (
                    .post, "/v1/capabilities", #"{"resource": "volume/mine", "grant": "X"}"#, "n2-otherdisk",
                    "nodisk99"
                ),
                (.post, "/v1/capabilities", #"{"resource": "volume/mine", "node": "X"}"#, "n2", "nobody"),
                (.get, "/v1/volumes/X", "", "otherdisk", "nodisk99"),
                (.get, "/v1/volumes/X/markers", "", "otherdisk", "nodisk99"),
                (.get, "/v1/volumes/X/markers/m", "", "otherdisk", "nodisk99"),
                (.get, "/v1/grants/X", "", "n2-otherdisk", "nodisk99"),
                (.get, "/v1/grants?resource=volume/X", "", "otherdisk", "nodisk99"),
                (.get, "/v1/grants?node=X", "", "n2", "nobody"),
                (.get, "/v1/capabilities?resource=volume/X", "", "otherdisk", "nodisk99"),
                (.get, "/v1/capabilities?node=X", "", "n2", "nobody"),
                (.get, "/v1/nodes/X", "", "n2", "nobody"),
                (.get, "/v1/capabilities/X", "", id, none),
                (.post, "/v1/capabilities/X/revoke", "{}", id, none),
                (.post, "/v1/nodes/X/certificate", #"{"csr": "x"}"#, "n2", "nobody"),
                (
                    .post, "/v1/nodes/X/enroll", #"{"token": "sljoin1_AAAA", "csr": "-----BEGIN X"}"#, "n2",
                    "nobody"
                ),
            ]
            for question in questions {
                let answers = try await [question.there, question.not].asyncMap { name in
                    let answer = try await rig.ask(
                        question.0, question.1.replacingOccurrences(of: "X", with: name),
                        question.2.replacingOccurrences(of: "X", with: name), peer: node)
                    return "\(answer.status) \(answer.text.replacingOccurrences(of: name, with: "X"))"
                }
                #expect(answers[0] == answers[1], "\(question.0) \(question.1) \(question.2)")
            }
        }
    }
}

private enum SystemClockForTests {
    static func now() -> UInt64 { UInt64(Date().timeIntervalSince1970) }
}

extension Array {
    fileprivate func asyncMap<Value>(_ body: (Element) async throws -> Value) async throws -> [Value] {
        var values: [Value] = []
        for element in self { values.append(try await body(element)) }
        return values
    }
}
