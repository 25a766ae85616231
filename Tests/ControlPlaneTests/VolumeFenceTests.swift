import Catalog
import Core
import HTTPTypes
import Services
import TestSupport
import Testing

@testable import ControlPlane

/// `POST /v1/volumes/{name}/fence`, and who writes to a volume.
@Suite(.timeLimit(.minutes(1)), .serialized, .blocking)
struct VolumeFenceTests {
    private let key: HTTPFields = [.idempotencyKey: "fence-1"]
    private static let volume = #"{"name": "disk", "size": 1048576}"#

    @Test func aFenceRaisesTheEpochForGood() async throws {
        let machine = try await ControlRig.Machine()
        var rig = try await ControlRig(machine)
        #expect(try await rig.ask(.post, "/v1/volumes", Self.volume).status == 201)
        let tag = try await rig.ask(.get, "/v1/volumes/disk").headers[.eTag]
        let first = try await rig.ask(.post, "/v1/volumes/disk/fence", #"{"reason": "it hangs"}"#)
        #expect(first.text == #"{"epoch":2,"sessions":[],"volume":"disk"}"# + "\n")
        #expect(first.headers[.eTag] != tag)
        let event = rig.events.events(after: 0, limit: 100).events.last { $0.kind == .volumeFenced }
        #expect(event?.subject == "volume/disk" && event?.message == "fenced by admin:admin: it hangs")
        try await rig.stop()
        rig = try await ControlRig(machine)
        let second = try await rig.ask(.post, "/v1/volumes/disk/fence")
        #expect(second.json["epoch"] == .integer(3))
        try await rig.stop()
    }

    @Test func aRepeatWithTheSameKeyFencesNobody() async throws {
        try await withControlPlane { rig async throws in
            #expect(try await rig.ask(.post, "/v1/volumes", Self.volume).status == 201)
            let first = try await rig.ask(.post, "/v1/volumes/disk/fence", headers: key)
            let again = try await rig.ask(.post, "/v1/volumes/disk/fence", headers: key)
            #expect(first.status == 200 && again.text == first.text)
            let other = try await rig.ask(.post, "/v1/volumes/disk/fence")
            #expect(other.json["epoch"] == .integer(3))
        }
    }

    @Test func onlyAdministratorsFenceAndOnlyWhatIsThere() async throws {
        try await withControlPlane { rig async throws in
            #expect(try await rig.ask(.post, "/v1/volumes", Self.volume).status == 201)
            let target = "/v1/volumes/disk/fence"
            #expect(try await rig.ask(.post, target, role: .observer).code == "FORBIDDEN")
            #expect(try await rig.ask(.post, target, role: nil).status == 401)
            #expect(try await rig.ask(.post, "/v1/volumes/other/fence").code == "NOT_FOUND")
            let wrong = try await rig.ask(.post, target, #"{"reason": "a\u0000b"}"#)
            #expect(wrong.status == 422 || wrong.status == 400)
            #expect(try await rig.ask(.post, target).json["epoch"] == .integer(2))
        }
    }

    @Test func aVolumeSaysWhoWrites() async throws {
        try await withControlPlane { rig async throws in
            let made = try await rig.ask(.post, "/v1/volumes", Self.volume)
            #expect(made.json["writers"] == nil)
            let shown = try await rig.ask(.get, "/v1/volumes/disk")
            #expect(shown.json["writers"] == .array([]))
        }
    }
}
