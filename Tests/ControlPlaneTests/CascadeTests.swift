import Catalog
import Core
import Services
import TLS
import TestSupport
import Testing

@testable import ControlPlane

/// What hangs on something that is removed, where that is more than one transaction takes.
@Suite(.timeLimit(.minutes(2)), .serialized, .blocking)
struct CascadeTests {
    private static let many = Limits.cascadeRecordsMax + 500

    /// A volume and a node with many grants on it.
    private func fill(_ rig: ControlRig, grants count: Int = many) async throws {
        #expect(try await rig.ask(.post, "/v1/volumes", #"{"name":"disk","size":1048576}"#).status == 201)
        #expect(try await rig.ask(.post, "/v1/nodes", #"{"name":"n1"}"#).status == 201)
        let store = rig.plane.store
        let node = try #require(store.get(NodeRecord.self, "n1")?.record)
        let volume = try #require(store.get(VolumeRecord.self, "disk")?.record)
        for start in stride(from: 0, to: count, by: 5000) {
            var changes = RecordChanges()
            for number in start..<min(start + 5000, count) {
                try changes.insert(
                    GrantRecord(
                        id: Identifier(high: 7, low: UInt64(number)), name: "g\(number)", node: node,
                        on: volume.reference, rights: .read, range: nil, limits: .none,
                        lifetimeSecondsMax: 60,
                        expiresAt: nil, delegationDepth: 0, labels: [:], createdAt: 1))
            }
            try await store.commit(changes)
        }
    }

    @Test func aVolumeTakesAllItsGrantsWithIt() async throws {
        try await withControlPlane { rig async throws in
            try await fill(rig)
            let deleted = try await rig.ask(.delete, "/v1/volumes/disk")
            #expect(deleted.json["grants"] == .integer(UInt64(Self.many)), "\(deleted.text)")
            #expect(rig.plane.store.count(GrantRecord.self) == 0)
        }
    }

    @Test func aNodeTakesAllItsGrantsWithItAndWhatACrashLeavesGoesAtStart() async throws {
        let machine = try await ControlRig.Machine()
        var rig = try await ControlRig(machine)
        try await fill(rig)
        machine.commits.endAfter(2)
        #expect(try await rig.ask(.delete, "/v1/nodes/n1").status == 204)
        let event = rig.events.events(after: 0, limit: 1000).events.last { $0.kind == .nodeRemoved }
        #expect(event?.message.contains("with \(Limits.cascadeRecordsMax) grants") == true)
        #expect(event?.message.contains("500 more are removed when the server is started again") == true)
        try await rig.stop()
        rig = try await ControlRig(machine)
        #expect(rig.plane.store.count(GrantRecord.self) == 0)
        try await rig.stop()
    }

    @Test func aCrashInADeletionOfAVolumeLeavesNoGrant() async throws {
        let machine = try await ControlRig.Machine()
        var rig = try await ControlRig(machine)
        try await fill(rig, grants: 3)
        machine.commits.endAfter(1)
        #expect(try await rig.ask(.delete, "/v1/volumes/disk").code == "CATALOG_FAILED")
        try await rig.stop()
        rig = try await ControlRig(machine)
        #expect(try await rig.ask(.get, "/v1/volumes/disk").status == 404)
        #expect(rig.plane.store.count(GrantRecord.self) == 0)
        try await rig.stop()
    }

    @Test func aGrantIsThereUntilAllItsCapabilitiesAreRevoked() async throws {
        let machine = try await ControlRig.Machine()
        let (rig, services) = try await ControlRig.spied(machine)
        try await fill(rig, grants: 1)
        let store = rig.plane.store
        let grant = try #require(store.get(GrantRecord.self, "g0")?.record)
        for start in stride(from: 0, to: Self.many, by: 5000) {
            var changes = RecordChanges()
            for number in start..<min(start + 5000, Self.many) {
                try changes.insert(
                    CapabilityRecord(
                        id: Identifier(high: 9, low: UInt64(number)), grant: grant, resourceEpoch: 1,
                        rights: .read, range: nil, limits: .none, delegationDepth: 0,
                        holder: SHA256.hash([1]), keyID: "00", issuedAt: 1, expiresAt: 1 << 40))
            }
            try await store.commit(changes)
        }
        func revoked() -> Int { store.all(CapabilityRecord.self) { $0.revokedAt != nil }.count }
        func enforced() -> Int { services.count(of: "revokeCapabilities") }
        machine.commits.endAfter(1)
        #expect(try await rig.ask(.delete, "/v1/grants/g0").code == "CATALOG_FAILED")
        #expect(revoked() == Limits.cascadeRecordsMax && enforced() == 1)
        machine.commits.refuse { _ in false }
        #expect(try await rig.ask(.delete, "/v1/grants/g0").status == 204)
        #expect(revoked() == Self.many && enforced() == 2)
        try await rig.stop()
    }
}
